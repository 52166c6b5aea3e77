"""`misstep up` and `misstep run` with the real collector and agent."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from misstep.cli.endpoint import alive
from misstep.core.client import Client
from misstep.core.errors import MisstepError
from misstep.core.exits import Exit

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the agent needs Linux")
WAIT = 90.0
MISSTEP = [sys.executable, "-m", "misstep.cli"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder, and any ports."""
    for name in ("COLLECTOR_PORT", "COLLECTOR_OTLP_PORT", "AGENT_RECEIVER_PORT"):
        monkeypatch.setenv(f"MISSTEP_{name}", "0")
    return tmp_path / "data" / "misstep"


@pytest.fixture
def up(place: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([*MISSTEP, "up", "--json"], stdout=subprocess.PIPE, text=True)
    yield process
    process.terminate()
    process.wait(WAIT)
    assert process.stdout is not None
    process.stdout.close()


def until(fulfilled: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT
    while not (found := fulfilled()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)
    return found


def children(pid: int) -> dict[str, int]:
    """Room and pid of the child processes."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            argv = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if len(argv) > 2 and argv[2].startswith(b"misstep."):
            found[argv[2].decode().removeprefix("misstep.")] = int(child)
    return found


def answers(url: str) -> bool:
    try:
        Client(url, timeout=5).get("sessions")
    except MisstepError:
        return False
    return True


def test_a_life_of_up(up: subprocess.Popen[str], place: Path) -> None:
    assert up.stdout is not None
    addresses = json.loads(up.stdout.readline())
    file = place / "endpoint.json"
    assert json.loads(file.read_text()) == addresses
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert addresses["data"] == str(place)
    assert answers(addresses["collector"])

    second = subprocess.run([*MISSTEP, "up", "--json"], capture_output=True, text=True, check=False)
    assert (second.returncode, json.loads(second.stdout)) == (Exit.OK, addresses)
    assert f"already runs on {place} (pid {up.pid})" in second.stderr

    before = children(up.pid)
    assert set(before) == {"collector", "agent"}
    os.kill(before["collector"], signal.SIGKILL)
    until(lambda: children(up.pid).get("collector", before["collector"]) != before["collector"])
    until(lambda: answers(addresses["collector"]))  # at the old address
    assert json.loads(file.read_text()) == addresses
    assert children(up.pid)["agent"] == before["agent"]

    after = children(up.pid)
    up.terminate()
    assert up.wait(WAIT) == Exit.OK
    assert not file.exists()
    assert not any(alive(pid) for pid in after.values())


def test_a_port_that_was_asked_for_and_is_taken(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = subprocess.run(
            [*MISSTEP, "up", "--port", str(port)], capture_output=True, text=True, check=False
        )
    assert done.returncode == Exit.UNAVAILABLE
    assert f"port {port} for the API is taken by process {os.getpid()}" in done.stderr
    assert not (place / "endpoint.json").exists()


def test_run_starts_misstep_and_leaves_the_command_alone(place: Path) -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr); print(sys.stdin.read()); sys.exit(7)"
    run = [*MISSTEP, "run", "--", sys.executable, "-S", "-c", code]
    done = subprocess.run(run, input="in", capture_output=True, text=True, check=False)
    try:
        assert (done.returncode, done.stdout) == (7, "out\nin\n")
        said, *rest = done.stderr.splitlines()
        assert "started `misstep up` in the background (pid " in said
        assert rest == ["err"]
        endpoint = json.loads((place / "endpoint.json").read_text())
        again = subprocess.run(run, input="in", capture_output=True, text=True, check=False)
        assert (again.returncode, again.stdout, again.stderr) == (7, "out\nin\n", "err\n")
        events = until(
            lambda: Client(endpoint["collector"]).get("logs", event="command.exit")["logs"]  # both are stored
        )
        assert events[0]["attributes"]["process.exit.code"] == "7"
    finally:
        pid = json.loads((place / "endpoint.json").read_text())["pid"]
        os.kill(pid, signal.SIGTERM)
        until(lambda: not alive(pid))
    assert stat.S_IMODE((place / "up.log").stat().st_mode) == 0o600


def test_a_command_matters_more_than_its_watcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MISSTEP_DATA", str(tmp_path / "file" / "data"))
    done = subprocess.run(
        [*MISSTEP, "run", "sh", "-c", "echo out; exit 3"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (3, "out\n")
    assert "the command runs unwatched" in done.stderr


def test_a_command_that_does_not_exist(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISSTEP_DATA", "/proc/nowhere")
    done = subprocess.run([*MISSTEP, "run", "no-such-command-7"], capture_output=True, text=True, check=False)
    assert done.returncode == 127
    assert "no-such-command-7" in done.stderr


def test_env_names_the_agent(up: subprocess.Popen[str]) -> None:
    assert up.stdout is not None
    addresses = json.loads(up.stdout.readline())
    done = subprocess.run(
        [*MISSTEP, "env", "ray", "--cluster", "nightly"], capture_output=True, text=True, check=True
    )
    shown = subprocess.run(
        ["sh", "-c", f"{done.stdout}\necho $RAY_DASHBOARD_AGGREGATOR_AGENT_EVENTS_EXPORT_ADDR"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shown.stdout.strip() == f"{addresses['agent']}/v1/ray/nightly/events"
