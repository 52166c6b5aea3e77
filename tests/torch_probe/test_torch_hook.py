"""The hook lets a rank be seen, and changes nothing else about it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from misstep.agent.torch import progress, recorder

ENDS = Path(__file__).parent / "ends.py"
FLIGHT_RECORDER = (
    b"POST /handler/fr_trace_json HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
)


def ask(path: Path, question: bytes, patience: float = 60.0) -> bytes:
    """One question on either socket; its answer, framing left out."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(patience)
        link.connect(str(path))
        link.sendall(question)
        held = b""
        while part := link.recv(65536):
            held += part
            if path.suffix == ".py" and len(held) >= 4 + int.from_bytes(held[:4], "big"):
                return held[4:]
        return held.partition(b"\r\n\r\n")[2]


@contextmanager
def polled(folder: Path) -> Iterator[dict[str, int]]:
    """Asks whoever answers in the folder, without a pause."""
    ended, count = threading.Event(), {"py": 0, "fr": 0}

    def poll() -> None:
        while not ended.is_set():
            for path in folder.iterdir() if folder.exists() else ():
                with suppress(OSError):
                    for question in (b"s", b"h", b"t") if path.suffix == ".py" else (FLIGHT_RECORDER,):
                        count[path.suffix[1:]] += bool(ask(path, question, 5.0))
            time.sleep(0.001)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield count
    finally:
        ended.set()
        thread.join()


def ends(environment: dict[str, str], rounds: int, output: Path) -> Any:
    done = subprocess.run(
        [sys.executable, str(ENDS), str(rounds), str(output)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(output.read_text())


@pytest.mark.torch
@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.soak)])
def test_every_end_is_as_it_would_be_without(
    environment: Callable[..., dict[str, str]],
    folder: Path,
    tmp_path: Path,
    rounds: int,
    without_pids: Callable[[str], str],
) -> None:
    with polled(folder) as count:
        watched = ends(environment(), rounds, tmp_path / "watched.json")
    plain = ends(environment("0"), 1, tmp_path / "plain.json")
    assert len(watched) == rounds * len(plain)
    for place, (end, *left) in enumerate(watched):
        name, *expected = plain[place % len(plain)]
        assert (end, *map(without_pids, map(str, left))) == (name, *map(without_pids, map(str, expected)))
    assert count["py"] > 5 * rounds
    assert count["fr"] > rounds
    killed = [path for path in folder.iterdir() if path.suffix == ".py"]
    assert len(killed) == 4 * rounds  # SIGTERM, SIGKILL, abort and os._exit leave theirs; all others clean up


ENDINGS = ("normal", "without_destroy", "exception", "leave", "leave_at_once", "terminated", "killed", "interrupted", "aborted", "forked_child")  # fmt: skip
RUN = "import sys; from misstep.agent.launch import run; sys.exit(run(sys.argv[2:], sys.argv[1]))"


class Reports(BaseHTTPRequestHandler):
    """An agent that takes what it is told."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def reports() -> Iterator[str]:
    """Its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Reports) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.mark.torch
@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_a_hundred_processes_end_as_they_would_without(
    environment: Callable[..., dict[str, str]], folder: Path, without_pids: Callable[[str], str]
) -> None:
    """Each imports torch for itself, half of them under `misstep run`; some are asked as they end."""

    def one(name: str, prefix: list[str], held: dict[str, str]) -> tuple[int, str, str]:
        done = subprocess.run(
            [*prefix, sys.executable, str(ENDS), "--one", name], env=held, capture_output=True, text=True, check=False
        )  # fmt: skip
        return done.returncode, without_pids(done.stdout), without_pids(done.stderr)

    with reports() as agent, polled(folder) as count, ThreadPoolExecutor(4) as pool:
        watched = environment() | {"MISSTEP_REPORT": f"{agent}/v1/report"}
        plain = dict(
            zip(ENDINGS, pool.map(lambda name: one(name, [], environment("0")), ENDINGS), strict=True)
        )
        ways: list[list[str]] = [[], [sys.executable, "-c", RUN, agent]]
        runs = [(name, way) for _ in range(5) for name in ENDINGS for way in ways]
        left = list(pool.map(lambda run: one(run[0], run[1], watched), runs))
    assert len(left) == 100
    assert [(name, *end) for (name, _), end in zip(runs, left, strict=True)] == [
        (name, *plain[name]) for name, _ in runs
    ]
    assert {name: end[0] for name, end in plain.items()} == {
        "normal": 0, "without_destroy": 0, "exception": 1, "leave": 3, "leave_at_once": 4, "terminated": -15,
        "killed": -9, "interrupted": -2, "aborted": -6, "forked_child": 0,
    }  # fmt: skip
    assert count["py"] > 100
    assert count["fr"] > 50


@pytest.fixture
def rank(environment: Callable[..., dict[str, str]], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A rank that stands still behind its eleventh collective."""
    code = """
import sys, time, torch, torch.distributed as dist
print([type(f).__name__ for f in sys.meta_path if 'TorchWaits' in str(f)], flush=True)
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
for _ in range(11):
    dist.all_reduce(torch.ones(3, 5))
print(type(dist.distributed_c10d._pg_map) is dict, dist.distributed_c10d.__spec__.loader.__dict__.keys(), flush=True)
def load_batch():
    time.sleep(600)
sys.stdin.readline()
from misstep import workload
with workload.step(11, tokens=64), workload.phase("data"):
    load_batch()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    yield process
    process.kill()
    process.communicate()


def _begin_a_step(rank: subprocess.Popen[str], own: Path) -> progress.Told:
    """What the script tells of its step, once it has begun one; the rest of the answer stays as it was."""
    assert rank.stdin is not None
    before = ask(own, b"s")
    assert progress.part(before) == (before, progress.NOTHING)
    begun = recorder.status(before)[0]["0"].enqueued
    rank.stdin.write("go on\n")
    rank.stdin.flush()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        rest, told = progress.part(ask(own, b"s"))
        assert recorder.status(rest)[0]["0"].enqueued == begun
        if told.phase:
            return told
        time.sleep(0.02)
    raise AssertionError("no step was told")


@pytest.mark.torch
def test_what_a_rank_tells(rank: subprocess.Popen[str], folder: Path) -> None:
    assert rank.stdout is not None
    # By then the hook has left the import machinery and torch's own dictionary alone.
    assert rank.stdout.readline() == "[]\n"
    assert rank.stdout.readline() == "True dict_keys(['name', 'path'])\n"
    (own,), (server,) = folder.glob("*.py"), folder.glob("*.fr")
    assert own.stem == server.stem == f"{os.stat('/proc/self/ns/pid').st_ino}-{rank.pid}"
    assert [path.stat().st_mode & 0o777 for path in (own, server)] == [0o600, 0o600]
    hello = json.loads(ask(own, b"h"))
    assert (hello["rank"], hello["world_size"], hello["pid"]) == (0, 1, rank.pid)
    assert hello["groups"]["0"] == {"ranks": [0], "desc": "default_pg", "backend": "gloo"}
    (state,) = json.loads(ask(own, b"s"))
    assert state["pg_status"]["0"]["last_enqueued_collective"] == "11"
    assert "entries" not in state
    told = _begin_a_step(rank, own)
    assert (told.step, told.phase, told.tokens, told.loss) == (11, "data", 0, None)
    assert told.seconds < 60
    stacks = json.loads(ask(own, b"t"))
    assert stacks[0]["thread"] == "MainThread"
    assert stacks[0]["frames"][-1][0] == "load_batch"
    trace = json.loads(ask(server, FLIGHT_RECORDER))
    assert [e["collective_seq_id"] for e in trace["entries"]] == list(range(1, 12))
    assert json.loads(ask(own, b"d"))[0]["entries"] == trace["entries"]


@pytest.mark.torch
def test_without_a_folder_nothing_waits_for_torch(environment: Callable[..., dict[str, str]]) -> None:
    code = "import sys; print([f for f in sys.meta_path if 'TorchWaits' in str(f)])"
    for more in ({"MISSTEP_TORCH_FOLDER": ""}, {"MISSTEP_HOOK": "0"}):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment() | more,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "[]\n"


def test_the_hook_reads_as_the_oldest_python() -> None:
    import ast

    from misstep.agent import launch

    text = (Path(launch.__file__).parent / "hook" / "torch_hook.py").read_text()
    ast.parse(text, feature_version=(3, 8))


WAITS = {
    "request.wait()": "wait",
    "for one in [request]: one.wait(timeout=60)": "wait",
    "[one.wait() for one in [request]]": "wait",
    "work().wait()": "wait",
    "threading.Event().wait()": "acquire",  # it is Python's own, and so is the frame in which it stands
    "time.sleep(60)": "sleep",
    "while True: sum(range(1000))": "",
}


@pytest.mark.parametrize("line", WAITS)
def test_the_method_of_c_that_a_line_waits_in_is_told(line: str) -> None:
    code = f"""
import _queue, runpy, sys, threading, time
hook = runpy.run_path(sys.argv[1])
request = type("Work", (), {{"wait": lambda *_, **__: None}})()
request.wait = _queue.SimpleQueue().get
work = lambda: request

def script():
    {line}

thread = threading.Thread(target=script, name="script", daemon=True)
thread.start()
deadline, told = time.monotonic() + 60, ""
while not told and time.monotonic() < deadline:
    time.sleep(0.05)
    stack = next(one for one in hook["_stacks"]() if one["thread"] == "script")
    told = stack["call"]
    if {WAITS[line]!r} == "" and stack["frames"][-1][0] == "script":
        break
print(repr(told))
"""
    from misstep.agent import launch

    path = Path(launch.__file__).parent / "hook" / "torch_hook.py"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == repr(WAITS[line]), done.stderr
