"""Clusters are found, told and closed by their processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from misstep.agent import pids
from misstep.agent.context import Context
from misstep.agent.ray import api, cluster
from misstep.agent.ray.cluster import RayProcess
from misstep.agent.ray.sessions import RaySessions
from misstep.agent.records import Records
from misstep.agent.workload import Exit
from misstep.core import names

NAME = "session_2026-11-21_04-01-04_842713_7634"
NODE = "979e2f7574e2f49230f10b0df612780bb803f110e5dfa2239ad5e2da"


def raylet_arguments(folder: str) -> list[str]:
    return [
        f"--raylet_socket_name={folder}/sockets/raylet", f"--node_id={NODE}", "--node_ip_address=192.0.2.2", "--node-name=head",
        f"--python_worker_command=/v/bin/python /v/setup_worker.py --node-ip-address=192.0.2.2 --gcs-address=192.0.2.2:41765 --session-name={NAME} --temp-dir=/tmp/x --webui=127.0.0.1:8266 RAY_WORKER_DYNAMIC_OPTION_PLACEHOLDER",
        f"--session_dir={folder}", f"--log_dir={folder}/logs",
    ]  # fmt: skip


def proc(root: Path, pid: int, words: list[str], environ: dict[str, str], exe: str = "") -> None:
    held = root / str(pid)
    held.mkdir(parents=True)
    (held / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in words))
    (held / "environ").write_bytes(
        b"".join(f"{key}={value}".encode() + b"\0" for key, value in environ.items())
    )
    (held / "comm").write_text(Path(words[0]).name[:15] + "\n")
    if exe:
        (held / "exe").symlink_to(exe)


def package(root: Path, version: str, extra: bool) -> str:
    ray = root / "site-packages" / "ray"
    (ray / "core/src/ray/raylet").mkdir(parents=True)
    (ray / "_version.py").write_text(f'commit = "x"\nversion = "{version}"\n')
    for name in (
        ("aiohttp", "aiohttp_cors", "grpc", "opencensus", "prometheus_client", "pydantic")
        if extra
        else ("grpc",)
    ):
        (root / "site-packages" / name).mkdir()
    return str(ray / "core/src/ray/raylet/raylet")


@pytest.mark.parametrize(("extra", "said"), [(True, "yes"), (False, "no")])
def test_a_raylet_tells_of_its_cluster(tmp_path: Path, extra: bool, said: str) -> None:
    exe = package(tmp_path, "2.60.0", extra)
    environ = {
        "HOME": "/home/u", "RAY_enable_ray_event": "1", "RAY_enable_core_worker_ray_event_to_aggregator": "true",
        "RAY_DASHBOARD_AGGREGATOR_AGENT_EVENTS_EXPORT_ADDR": "http://127.0.0.1:7664/v1/ray/lab/events", "MISSTEP_STARTED_BY": "run",
    }  # fmt: skip
    proc(tmp_path / "proc", 7909, ["raylet", *raylet_arguments(f"/tmp/x/{NAME}")], environ, exe)
    found = cluster.read(7909, root=str(tmp_path / "proc"))
    assert found is not None
    assert found._replace(user=0) == RayProcess(
        7909, NODE, "192.0.2.2", "head", NAME, f"/tmp/x/{NAME}", "192.0.2.2:41765", "http://127.0.0.1:8266",
        "http://127.0.0.1:7664/v1/ray/lab/events", True, "run", ("", "/home/u/.ray/auth_token"), 0, "2.60.0", said,
    )  # fmt: skip
    assert (found.cluster, found.release) == ("lab", (2, 60))
    assert cluster.find(root=str(tmp_path / "proc")) == [7909]


def test_a_gcs_server_tells_its_session(tmp_path: Path) -> None:
    proc(tmp_path, 5, ["gcs_server", f"--log_dir=/tmp/x/{NAME}/logs", f"--session-name={NAME}"], {})
    found = cluster.read(5, root=str(tmp_path))
    assert found is not None
    assert (found.session, found.folder, found.stream, found.extra) == (
        NAME,
        f"/tmp/x/{NAME}",
        False,
        "unknown",
    )
    assert cluster.is_gcs(5, root=str(tmp_path))


@pytest.mark.parametrize(
    ("environ", "hooked"),
    [
        ({"MISSTEP_REPORT": "http://x", "PYTHONPATH": "/v/misstep/agent/hook:/a"}, True), ({"PYTHONPATH": "/v/misstep/agent/hook"}, False),
        ({"MISSTEP_REPORT": "http://x", "PYTHONPATH": "/v/misstep/agent/hook", "MISSTEP_HOOK": "0"}, False), ({}, False),
    ],
)  # fmt: skip
def test_whether_a_driver_would_tell(tmp_path: Path, environ: dict[str, str], hooked: bool) -> None:
    proc(tmp_path, 5, ["python"], environ)
    assert cluster.is_hooked(5, root=str(tmp_path)) is hooked


def test_what_is_no_ray_is_none(tmp_path: Path) -> None:
    proc(tmp_path, 5, ["python", "raylet"], {})
    assert cluster.read(5, root=str(tmp_path)) is None
    assert cluster.read(6, root=str(tmp_path)) is None


def test_names_of_sessions() -> None:
    assert cluster.started_at(NAME) == ("2026-11-21_04-01-04_842713", 7634)
    assert cluster.started_at("session_latest") == ("", 0)


class Fleet:
    """Processes that look like Ray's daemons."""

    def __init__(self, root: Path) -> None:
        self.folder = root / NAME
        (self.folder / "logs").mkdir(parents=True)
        self.running: list[subprocess.Popen[bytes]] = []
        self.root = root

    def start(self, name: str, arguments: list[str], environ: dict[str, str]) -> subprocess.Popen[bytes]:
        # A copy of the shell under that name: it takes the flags as its own arguments.
        path = self.root / name
        path.write_bytes(Path("/bin/sh").resolve().read_bytes())
        path.chmod(0o755)
        held = subprocess.Popen(
            [str(path), "-c", "read x", *arguments],
            env={"PATH": os.environ["PATH"], **environ},
            stdin=subprocess.PIPE,
        )
        self.running.append(held)
        # The kernel closes what Popen waits for a moment before it shows the arguments.
        end = time.monotonic() + 60
        while not Path(f"/proc/{held.pid}/cmdline").read_bytes() and time.monotonic() < end:
            time.sleep(0.005)
        return held


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    held = Fleet(tmp_path)
    yield held
    for one in held.running:
        one.kill()
        one.wait()
        if one.stdin:
            one.stdin.close()


@pytest.fixture
def sessions(context: Context) -> Iterator[RaySessions]:
    held = RaySessions(context)
    yield held
    held.close()


def tick(sessions: RaySessions, context: Context, read: Any, *only: str) -> list[Any]:
    out = Records(context.clock.now())
    sessions.check(out.now, out)
    context.spool.commit([out])
    # Other people's Ray may run on this machine: look at ours alone.
    return [r for r in read(out.events) if r.attributes.get(names.RAY_SESSION_NAME) == NAME]


def test_a_life(fleet: Fleet, sessions: RaySessions, context: Context, read: Callable[..., Any]) -> None:
    address = f"http://127.0.0.1:{sessions.port}/v1/ray/lab/events"
    environ = {
        "RAY_enable_ray_event": "1", "RAY_enable_core_worker_ray_event_to_aggregator": "1",
        "RAY_DASHBOARD_AGGREGATOR_AGENT_EVENTS_EXPORT_ADDR": address, "MISSTEP_STARTED_BY": "env",
    }  # fmt: skip
    gcs = fleet.start("gcs_server", [f"--session-name={NAME}", f"--session-dir={fleet.folder}"], environ)
    fleet.start("raylet", raylet_arguments(str(fleet.folder)), environ)
    sessions.heard(NAME, "lab")  # the first event comes before the process table is walked
    (start,) = tick(sessions, context, read)
    session = f"local/ray/lab/{NAME.removeprefix('session_')}"
    assert (start.name, start.attributes[names.SESSION]) == ("session.start", session)
    assert start.attributes["ray.dashboard"] == "http://127.0.0.1:8266"
    assert (start.attributes["ray.events"], start.attributes["misstep.started_by"]) == ("yes", "env")
    assert tick(sessions, context, read) == []
    assert sessions.locate(session, "ray_worker", NODE, os.getpid()).endswith(
        f"/{os.getpid()}/{pids.start_ticks(os.getpid())}"
    )
    raylet = fleet.running[1].pid
    assert sessions.locate(session, "raylet", NODE, 0).endswith(f"/{raylet}/{pids.start_ticks(raylet)}")
    assert sessions.locate(session, "ray_worker", "f" * 56, os.getpid()) == ""
    assert sessions.admit(os.geteuid())
    state = context.coverage.state("ray_events", session)
    assert state is not None
    assert state.name == "ok"
    told = context.coverage.state("driver_exceptions", session)
    assert told is not None
    assert told.name == "ok"  # the cluster was started so
    sessions.locate(session, "ray_driver", NODE, os.getpid())
    tick(sessions, context, read)
    told = context.coverage.state("driver_exceptions", session)
    assert told is not None
    assert (told.name, told.remedy) == ("off", "misstep run -- COMMAND")  # this driver was not
    context.workload.exit_of = lambda pid: Exit(pid, 1, None, signal.SIGKILL)
    for one in fleet.running:
        one.kill()
        one.wait()
    (end,) = tick(sessions, context, read)
    assert (end.name, end.attributes[names.STATE]) == (
        "session.end",
        "lost" if pids.start_ticks(7634) else "ended",
    )
    assert context.spool.cursors("ray_session:").get(f"ray_session:{NAME}") is None
    assert gcs.returncode == -signal.SIGKILL


def test_a_session_that_ended_while_nobody_looked(
    sessions: RaySessions, context: Context, read: Callable[..., Any]
) -> None:
    out = Records(1)
    out.cursor(f"ray_session:{NAME}", json.dumps({"session": "local/ray/lab/x", "pids": {"999999": 1}}))
    context.spool.commit([out])
    (end,) = tick(sessions, context, read)
    assert (end.name, end.attributes[names.ENTITY]) == ("session.end", "session/local/ray/lab/x")


@pytest.mark.parametrize(
    ("version", "extra", "stream", "to_us", "reason", "remedy"),
    [
        ("2.60.0", "yes", False, False, "without its event stream", "misstep env ray"), ("2.60.0", "no", True, True, "without [default]", "pip install 'ray[default]'"),
        ("2.53.1", "yes", True, True, "no event stream that we read", "2.54"), ("2.60.0", "yes", True, False, "sends its events to http://elsewhere", "misstep"),
    ],
)  # fmt: skip
def test_what_is_not_seen_and_why(
    sessions: RaySessions, version: str, extra: str, stream: bool, to_us: bool, reason: str, remedy: str
) -> None:
    from misstep.agent.ray.session import RaySession

    one = RaySession(NAME, "local/ray/ray/x", 0)
    blank: dict[str, Any] = dict.fromkeys(RayProcess._fields, "")
    address = (
        f"http://127.0.0.1:{sessions.port}/v1/ray/ray/events" if to_us else "http://elsewhere:1/v1/events"
    )
    one.processes[1] = (
        RayProcess(
            **(
                blank
                | {
                    "pid": 1,
                    "version": version,
                    "extra": extra,
                    "stream": stream,
                    "events": address,
                    "token": ("", ""),
                }
            )
        ),
        1,
    )
    state = one.stream_state(False, sessions.port, 1)
    assert state.name == "off"
    assert reason in state.reason
    assert remedy in state.remedy


def test_drivers_and_their_parents_belong_to_the_session(sessions: RaySessions) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        sessions._is_local = lambda node: True  # type: ignore[method-assign]
        sessions.locate("local/ray/ray/x", "ray_driver", NODE, child.pid)
        assert sessions.owner(child.pid) == sessions.owner(os.getpid()) == "local/ray/ray/x"
        assert sessions.owner(1) == ""
    finally:
        child.communicate(b"\n")


def test_the_token_is_the_owners_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "auth_token"
    path.write_text("secret\n")
    blank: dict[str, Any] = dict.fromkeys(RayProcess._fields, "")
    process = RayProcess(**(blank | {"pid": 0, "user": os.geteuid(), "token": ("", str(path))}))
    assert api._token(process) == "secret"
    assert api._token(process._replace(user=os.geteuid() + 1)) == ""
    link = tmp_path / "link"
    link.symlink_to(path)
    assert api._token(process._replace(token=("", str(link)))) == ""
    assert api._token(process._replace(token=("", "/nonexistent"))) == ""
    assert api._token(process._replace(token=("", str(tmp_path)))) == ""


def test_a_process_that_is_no_more() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    while pids.is_running(child.pid, pids.start_ticks(child.pid)):
        time.sleep(0.01)
    assert pids.start_ticks(child.pid) > 0
    assert pids.parent(child.pid) == os.getpid()
    child.wait()
    assert pids.start_ticks(child.pid) == 0
