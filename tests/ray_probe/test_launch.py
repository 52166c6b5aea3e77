"""A command under watch goes as it would go without."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from misstep.agent import launch
from misstep.core import names

RUN = "import sys; from misstep.agent.launch import run; sys.exit(run(sys.argv[2:], sys.argv[1]))"


class Agent:
    """Takes reports."""

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []
        self.slow = 0.0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                link, _ = self._socket.accept()
            except OSError:
                return
            with link:
                data = b""
                while b"\r\n\r\n" not in data:
                    data += link.recv(65536)
                head, _, body = data.partition(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                while len(body) < length:
                    body += link.recv(65536)
                self.reports.append(json.loads(body))
                time.sleep(self.slow)
                try:
                    link.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                except OSError:
                    pass

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(60)


@pytest.fixture
def agent() -> Iterator[Agent]:
    held = Agent()
    yield held
    held.close()


def run(agent: str, *argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", RUN, agent, *argv],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", -15), ("kill -SEGV $$", -11), ("kill -KILL $$", -9)],
)
def test_status_and_reports(agent: Agent, script: str, status: int) -> None:
    done = run(agent.url, "sh", "-c", f"echo out; echo err >&2; {script}")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", status)
    start, end = agent.reports
    assert (start["event"], end["event"]) == ("command.start", "command.exit")
    assert start["attributes"][names.PID] == end["attributes"][names.PID]
    assert start["attributes"][names.PROCESS_START] > 0
    if status < 0:
        assert end["attributes"][names.EXIT_SIGNAL] == signal.Signals(-status).name
    else:
        assert end["attributes"][names.EXIT_CODE] == status


def test_input_reaches_the_command(agent: Agent) -> None:
    assert run(agent.url, "cat", input="hello").stdout == "hello"


@pytest.mark.parametrize(("argv", "status"), [(["/nonexistent"], 127), (["/etc/passwd"], 126)])
def test_what_cannot_be_run(agent: Agent, argv: list[str], status: int) -> None:
    done = run(agent.url, *argv)
    assert done.returncode == status
    assert done.stderr.startswith(f"misstep: cannot run {argv[0]}: ")
    assert agent.reports == []


def test_without_an_agent_it_runs_and_says_so() -> None:
    done = run("http://127.0.0.1:1", "sh", "-c", "echo out; exit 3")
    assert (done.stdout, done.returncode) == ("out\n", 3)
    assert done.stderr.count("no agent answers") == 1


def test_an_agent_that_hangs_costs_half_a_second(agent: Agent) -> None:
    agent.slow = 1.6
    began = time.monotonic()
    assert run(agent.url, "true").returncode == 0
    assert time.monotonic() - began < 2.9 + 1.0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_that_are_sent_to_us_are_passed_on(agent: Agent, number: signal.Signals) -> None:
    script = f"trap 'echo got; exit 5' {number.name[3:]}; echo ready; while :; do sleep 0.05; done"
    held = subprocess.Popen(
        [sys.executable, "-c", RUN, agent.url, "sh", "-c", script], stdout=subprocess.PIPE, text=True
    )
    assert held.stdout is not None
    assert held.stdout.readline() == "ready\n"
    held.send_signal(number)
    assert held.communicate(timeout=60)[0] == "got\n"
    assert held.returncode == 5


def test_the_terminal_is_the_commands(agent: Agent) -> None:
    """Ctrl-C goes to the command once, by the terminal, and what it does then is its own affair."""
    script = "import sys,time\nn=0\nprint(sys.stdin.isatty(), flush=True)\nwhile n < 1:\n try: time.sleep(9)\n except KeyboardInterrupt: n += 1\ntime.sleep(0.5)\nprint('once', flush=True)\nsys.exit(4)"
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", RUN, agent.url, sys.executable, "-c", script])
    shown = b""
    while b"True" not in shown:
        shown += os.read(terminal, 1000)
    time.sleep(0.2)
    os.write(terminal, b"\x03")
    while b"once" not in shown:
        shown += os.read(terminal, 1000)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 4
    os.close(terminal)


def test_the_environment_for_ray() -> None:
    found = launch.child_environment(
        "http://127.0.0.1:7664/", cluster="lab", environ={"HOME": "/nonexistent", "PYTHONPATH": "/a:/b"}
    )
    assert (
        found["RAY_DASHBOARD_AGGREGATOR_AGENT_EVENTS_EXPORT_ADDR"]
        == "http://127.0.0.1:7664/v1/ray/lab/events"
    )
    assert found["RAY_enable_ray_event"] == found["RAY_enable_core_worker_ray_event_to_aggregator"] == "1"
    assert found["MISSTEP_REPORT"] == "http://127.0.0.1:7664/v1/report"
    assert found["PYTHONPATH"].split(":")[1:] == ["/a", "/b"]
    assert (Path(found["PYTHONPATH"].split(":")[0]) / "sitecustomize.py").exists()
    assert "RAY_AUTH_MODE" not in found
    again = launch.child_environment("http://127.0.0.1:7664/", environ={"HOME": "/nonexistent"} | found)
    assert again["PYTHONPATH"] == found["PYTHONPATH"]
    without = launch.child_environment(
        "http://127.0.0.1:7664", events=False, environ={"HOME": "/nonexistent"}
    )
    assert not any(key.startswith("RAY_") for key in without)


def test_what_the_user_set_stays() -> None:
    mine = {"HOME": "/nonexistent", "RAY_enable_ray_event": "0"}
    assert "RAY_enable_ray_event" not in launch.child_environment("http://127.0.0.1:1", environ=mine)


def test_tokens_are_agreed_upon_where_one_lies_about(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("t")
    held = {"RAY_AUTH_TOKEN_PATH": str(token)}
    assert launch.child_environment("http://127.0.0.1:1", environ=held)["RAY_AUTH_MODE"] == "token"
    assert "RAY_AUTH_MODE" not in launch.child_environment(
        "http://127.0.0.1:1", environ=held | {"RAY_AUTH_MODE": "disabled"}
    )


def test_lines_for_a_shell(tmp_path: Path) -> None:
    lines = "\n".join(launch.env_lines("http://127.0.0.1:7664", cluster="a'b"))
    script = f'{lines}\necho "$PYTHONPATH|$RAY_DASHBOARD_AGGREGATOR_AGENT_EVENTS_EXPORT_ADDR"'
    hook = str(Path(launch.__file__).parent / "hook")
    for given, expected in (({}, hook), ({"PYTHONPATH": "/x y"}, f"{hook}:/x y")):
        shown = subprocess.check_output(
            ["sh", "-c", script], env={"PATH": os.environ["PATH"], **given}, text=True
        )
        assert shown == f"{expected}|http://127.0.0.1:7664/v1/ray/a'b/events\n"
