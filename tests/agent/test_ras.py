"""NCCL's RAS, asked of a server that speaks its protocol as documented; no NCCL runs here."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from misstep.agent.context import Context
from misstep.agent.records import Records
from misstep.agent.spool import Spool
from misstep.agent.torch import ras
from misstep.agent.torch.communicators import Communicators, loaded
from misstep.agent.torch.rank import Rank
from misstep.agent.workload import Process
from misstep.core import names
from misstep.core.clock import SettableClock

SESSION = "local/torch/train.py/1"


def rank(number: int, reduced: int, **status: int) -> dict[str, Any]:
    fine = {"init_state": 0, "async_error": 0, "finalize_called": 0, "destroy_flag": 0, "abort_flag": 0}
    return {
        "rank": number, "host": "n1", "pid": 100 + number, "cuda_dev": number, "nvml_dev": number,
        "status": {**fine, **status}, "collective_counts": {"Broadcast": 1, "AllReduce": reduced},
    }  # fmt: skip


def answer(ranks: list[Any], missing: list[Any] | None = None, size: int = 4) -> str:
    held = {
        "nccl_version": "2.28.9", "timestamp": "2026-05-05 06:16:47",
        "communicators": [
            {
                "hash": "0x2f24707b1170cb7f", "secondary_hash": "0x1", "size": size, "ranks_count": len(ranks),
                "missing_ranks_count": len(missing or []), "ranks": ranks, "missing_ranks": missing or [],
            }
        ],
        "ras": {"collection_time_sec": 0.1, "timeouts_count": 0},
    }  # fmt: skip
    return json.dumps(held, indent=2)


LOST = {"rank": 3, "host": "n2", "pid": 103, "cuda_dev": 0, "nvml_dev": 0, "status": {"unresponsive": True, "considered_dead": False}}  # fmt: skip


class Server:
    """Answers each line in its turn; a callable in the place of an answer does what it likes with the connection."""

    def __init__(self, final: Any = "", **answers: Any) -> None:
        self.lines: list[str] = []
        self._answers = {"CLIENT": "SERVER PROTOCOL 2\n", "TIMEOUT": "OK\n", "SET": "OK\n", **answers}
        self._final = final
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"localhost:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            try:
                self._talk(link)
            except OSError:
                pass  # the other side has had enough

    def _talk(self, link: socket.socket) -> None:
        with link, link.makefile("rb") as file:
            for line in file:
                self.lines.append(line.decode().strip())
                word = self.lines[-1].split()[0]
                held = self._final if word == "VERBOSE" else self._answers[word]
                if callable(held):
                    held(link)
                else:
                    link.sendall(held.encode() if isinstance(held, str) else held)
                if word == "VERBOSE":
                    return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(60)


@contextmanager
def serving(final: Any = "", **answers: Any) -> Iterator[Server]:
    server = Server(final, **answers)
    try:
        yield server
    finally:
        server.close()


def test_the_conversation() -> None:
    """Four lines, and never one that changes anything."""
    with serving(answer([rank(n, 41) for n in range(4)])) as server:
        (found,) = ras.read(ras.ask(server.address))
        assert server.lines == ["CLIENT PROTOCOL 2", "TIMEOUT 3", "SET FORMAT json", "VERBOSE STATUS"]
    assert (found.state, found.size, found.present, found.pids) == ("ok", 4, 4, frozenset(range(100, 104)))
    assert json.loads(found.body()) == {"counts": {"AllReduce": {"41": "0-3"}, "Broadcast": {"1": "0-3"}}, "missing": [], "wrong": {}}  # fmt: skip


def test_who_is_behind_missing_or_broken() -> None:
    (behind,) = ras.read(answer([rank(0, 41), rank(1, 41), rank(2, 40), rank(3, 41)]))
    assert (behind.state, behind.counts["AllReduce"]) == ("unequal", {41: [0, 1, 3], 40: [2]})
    (missing,) = ras.read(answer([rank(n, 41) for n in range(3)], [LOST]))
    assert missing.state == "missing"
    assert missing.missing == [{"rank": 3, "host": "n2", "pid": 103, "unresponsive": True, "dead": False}]
    (broken,) = ras.read(answer([rank(n, 41, async_error=6 * (n == 2), abort_flag=n == 2) for n in range(4)]))
    assert (broken.state, broken.wrong) == ("error", {2: "async_error 6, aborted"})


def test_the_comma_that_2_28_9_forgets() -> None:
    whole = answer([rank(n, 41) for n in range(3)], [LOST, LOST])
    for before, after in (('"pid": 103,\n', '"pid": 103\n'), ('"host": "n2",\n', '"host": "n2"\n')):
        torn = whole.replace(before, after)
        assert torn != whole
        with pytest.raises(ValueError):
            json.loads(torn)
        assert ras.read(torn) == ras.read(whole)


@pytest.mark.parametrize(
    "server",
    [
        {"CLIENT": "HTTP/1.1 400 Bad Request\n"},
        {"CLIENT": "SERVER PROTOCOL 2"},
        {"CLIENT": lambda link: link.close()},
        {"CLIENT": "x" * 10_000},
        {"SET": "ERROR unknown command\n"},
        {"final": lambda link: time.sleep(1.5)},
        {"final": lambda link: [link.sendall(b"x" * 1024 * 1024) for _ in range(40)]},
        {"final": "{}"},
        {"final": '{"communicators": 7}'},
        {"final": "[" * 100_000},
        {"final": b"\xff\xfe garbage"},
        {"final": ""},
    ],
)
def test_what_is_not_ras_or_hangs_ends_in_time(server: dict[str, Any]) -> None:
    with serving(**server) as held:
        started = time.monotonic()
        with pytest.raises(ras.RasError):
            ras.read(ras.ask(held.address, patience=0.7))
        assert time.monotonic() - started < 4


@pytest.mark.parametrize("address", ["localhost:1", "localhost", "", "localhost:99999999", "nowhere.invalid:28028", "[::1]:1"])  # fmt: skip
def test_nobody_is_there(address: str) -> None:
    with pytest.raises(ras.RasError):
        ras.ask(address, patience=0.5)


_JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["rank", "ranks", "size", "pid", "status", "collective_counts", "missing_ranks", "hash", "unresponsive"]), inner), max_leaves=20)  # fmt: skip


@given(st.lists(_JSON, max_size=5))
def test_members_of_any_type_are_read_or_left_out(held: list[Any]) -> None:
    for one in ras.read(json.dumps({"communicators": held})):
        assert one.state in names.event("nccl.communicator").states
        json.loads(one.body())


@pytest.mark.parametrize(
    ("text", "asked"),
    [("2.28.7", True), ("2.28.9+cuda12.8", True), ("2.30.4", True), ("3.0.0", True), ("2.28.6", False), ("2.27.7", False), ("2.4.13", False), ("", False), ("none", False)],
)  # fmt: skip
def test_the_gate(text: str, asked: bool) -> None:
    assert (bool(ras.version(text)) and ras.version(text) >= ras.OLDEST) is asked


# -- the probe -----------------------------------------------------------------------------------------
@pytest.fixture
def kept() -> list[Records]:
    return []


@pytest.fixture
def make_probe(
    make_context: Callable[..., Context], kept: list[Records]
) -> Callable[..., tuple[Communicators, Context, Rank]]:
    def make(
        address: str, version: str = "2.28.9", environ: dict[str, str] | None = None, backend: str = "cuda:nccl", pid: int = 101
    ) -> tuple[Communicators, Context, Rank]:  # fmt: skip
        spool = SimpleNamespace(commit=kept.extend)
        context = make_context(clock=SettableClock())._replace(spool=cast(Spool, spool))
        process = Process(4711, 1)
        process.environment = {"NCCL_RAS_ADDR": address, **(environ or {})}
        context.workload.add(process)
        held = Rank(4711, 1, "/tmp/1.py")
        held.session, held.hello = SESSION, {"pid": pid, "groups": {"0": {"backend": backend}}}
        held.see(b'[{"comm_lib_version":"%s"}]' % version.encode(), {}, 0.0)
        return Communicators(context, lambda: [held]), context, held

    return make


def ask_once(probe: Communicators, context: Context) -> Any:
    probe.check(1, Records(1))
    probe.close()  # the rounds are called here
    probe.round()
    return context.coverage.state("nccl_ras", SESSION)


def test_a_job_is_told_of(
    make_probe: Callable[..., Any], kept: list[Records], read_events: Callable[..., list[Any]]
) -> None:
    with serving(answer([rank(n, 41) for n in range(3)], [LOST])) as server:
        probe, context, _ = make_probe(server.address)
        probe._thread.stopping.set()
        assert ask_once(probe, context).name == "ok"
    (event,) = read_events(kept[0].events)
    assert (event.name, event.attributes[names.STATE], event.severity) == ("nccl.communicator", "missing", 13)
    assert event.attributes[names.ENTITY] == f"session/{SESSION}"
    assert (event.attributes[names.WORLD_SIZE], event.attributes[names.NCCL_PRESENT]) == (4, 3)
    assert (event.attributes[names.COMMUNICATOR], event.attributes[names.NCCL_VERSION]) == ("0x2f24707b1170cb7f", "2.28.9")  # fmt: skip


def test_it_asks_each_minute_and_more_often_while_a_rank_stands(make_probe: Callable[..., Any]) -> None:
    with serving(answer([rank(n, 41) for n in range(4)])) as server:
        probe, context, held = make_probe(server.address)
        probe._thread.stopping.set()
        asked = []
        for second in range(140):
            if second < 70:
                held.see(held.status + b" ", {}, context.clock.monotonic() / 1e9)
            probe.check(1, Records(1))
            before = server.lines.count("VERBOSE STATUS")
            probe.round()
            if server.lines.count("VERBOSE STATUS") > before:
                asked.append(second)
            context.clock.advance(1)
    assert asked == [0, 60, 72, 82, 92, 102, 112, 122, 132]


@pytest.mark.parametrize(
    ("more", "state"),
    [
        ({"version": "2.28.6"}, "unsupported"),
        ({"version": ""}, "unsupported"),
        ({"environ": {"NCCL_RAS_ENABLE": "0"}}, "off"),
        ({"backend": "cpu:gloo"}, "ok"),
    ],
)
def test_whom_it_must_not_ask_it_does_not(
    make_probe: Callable[..., Any], more: dict[str, Any], state: str
) -> None:
    with serving(answer([rank(0, 1)])) as server:
        probe, context, _ = make_probe(server.address, **more)
        assert ask_once(probe, context).name == state
        assert server.lines == []


def test_another_job_at_the_same_port_is_no_evidence(
    make_probe: Callable[..., Any], kept: list[Records]
) -> None:
    with serving(answer([rank(n, 41) for n in range(4)])) as server:
        probe, context, _ = make_probe(server.address, pid=9999)
        probe._thread.stopping.set()
        state = ask_once(probe, context)
    assert (state.name, "NCCL_RAS_ADDR" in state.remedy) == ("failing", True)
    assert not [event for out in kept for event in out.events]


@pytest.mark.parametrize(
    ("path", "version"),
    [
        ("/usr/lib/x86_64-linux-gnu/libnccl.so.2.28.9", "2.28.9"),
        ("/venv/lib/python3.12/site-packages/nvidia/nccl/lib/libnccl.so.2", "2.27.5"),
        ("/opt/libnccl.so.2", ""),
        ("/usr/lib/libgloo.so", ""),
    ],
)
def test_the_version_of_the_library_that_is_loaded(tmp_path: Path, path: str, version: str) -> None:
    packages = tmp_path / "7" / "root" / "venv/lib/python3.12/site-packages"
    for name in (
        "nvidia_nccl_cu12-2.27.5.dist-info",
        "nvidia_cublas_cu12-12.8.4.1.dist-info",
        "torch-2.13.0.dist-info",
    ):
        (packages / name).mkdir(parents=True)
    (tmp_path / "7" / "maps").write_text(
        f"7f00-7f01 r-xp 0 08:01 1   /usr/lib/libc.so.6\n7f02-7f03 r-xp 0 08:01 2   {path}\n"
    )
    assert loaded(7, str(tmp_path)) == version
    assert loaded(8, str(tmp_path)) == ""
