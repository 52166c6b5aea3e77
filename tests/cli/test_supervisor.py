"""Real child processes: restarts, ends, signals."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from misstep.cli.endpoint import alive
from misstep.cli.supervisor import Child, Supervisor

WAIT = 10.0


def until(fulfilled: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT
    while not (found := fulfilled()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)
    return found


def child(folder: Path, code: str, name: str = "child") -> Child:
    """A Python process that runs `code` with `ready()` to call."""
    file = folder / f"{name}.ready"
    source = f"import os, sys, time\nfrom pathlib import Path\ndef ready(): Path({str(file)!r}).write_text(str(os.getpid()))\n"

    def answer() -> dict[str, Any] | None:
        pid = int(file.read_text() or 0) if file.exists() else 0
        return {"pid": pid} if made.process is not None and pid == made.process.pid else None

    made = Child(
        name, lambda: [sys.executable, "-S", "-c", source + textwrap.dedent(code)], os.environ, answer
    )
    return made


def test_a_child_that_serves_says_so_and_is_ended(tmp_path: Path) -> None:
    with Supervisor(lambda said: None) as supervisor:
        answer = supervisor.start(child(tmp_path, "ready(); time.sleep(60)"), WAIT)
        assert isinstance(answer, dict)
        assert alive(answer["pid"])
    assert not alive(answer["pid"])


def test_a_child_that_cannot_start_gives_its_status(tmp_path: Path) -> None:
    with Supervisor(lambda said: None) as supervisor:
        assert supervisor.start(child(tmp_path, "sys.exit(4)"), WAIT) == 4


def test_a_child_that_never_serves_is_given_up(tmp_path: Path) -> None:
    with Supervisor(lambda said: None) as supervisor, pytest.raises(TimeoutError):
        supervisor.start(child(tmp_path, "time.sleep(60)"), 0.3)


def test_what_dies_is_started_again(tmp_path: Path) -> None:
    said: list[str] = []
    with Supervisor(said.append) as supervisor:
        first = supervisor.start(child(tmp_path, "ready(); time.sleep(60)"), WAIT)
        assert isinstance(first, dict)
        os.kill(first["pid"], signal.SIGKILL)
        again, answer = next(iter(supervisor.watch()))
        assert answer["pid"] != first["pid"]
        assert again.restarts == 1
    assert said == ["the child ended (signal SIGKILL); starting it again in 0.5 s"]
    assert not alive(answer["pid"])


def test_pauses_grow(tmp_path: Path) -> None:
    said: list[str] = []
    with Supervisor(said.append) as supervisor:
        kept = child(tmp_path, "ready(); time.sleep(0.3); sys.exit(3)")
        supervisor.start(kept, WAIT)
        for number, _ in enumerate(supervisor.watch(), 1):
            if number == 2:
                break
    assert [line.rpartition(" in ")[2] for line in said] == ["0.5 s", "1 s"]
    assert "exit status 3" in said[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_all_in_order(tmp_path: Path, number: int) -> None:
    note = tmp_path / "order"
    code = """
        import signal
        def end(number, frame):
            with open({note!r}, "a") as file: file.write({name!r} + " ")
            sys.exit(0)
        signal.signal(signal.SIGTERM, end)
        ready(); time.sleep(60)
    """
    with Supervisor(lambda said: None) as supervisor:
        for name in ("first", "second"):
            supervisor.start(child(tmp_path, code.format(note=str(note), name=name), name), WAIT)
        timer = threading.Timer(0.1, os.kill, (os.getpid(), number))
        timer.start()
        assert list(supervisor.watch()) == []
        timer.join()
    assert note.read_text().split() == ["second", "first"]


def test_a_stubborn_child_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("misstep.cli.supervisor.GRACE", 0.2)
    with Supervisor(lambda said: None) as supervisor:
        answer = supervisor.start(
            child(
                tmp_path,
                "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); ready(); time.sleep(60)",
            ),
            WAIT,
        )
        assert isinstance(answer, dict)
    assert not alive(answer["pid"])


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG")
def test_children_do_not_outlive_a_supervisor_that_was_killed(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    code = f"""
        import os, sys, time
        from pathlib import Path
        from misstep.cli.supervisor import Child, Supervisor
        with Supervisor(print) as supervisor:
            made = Child("c", lambda: [sys.executable, "-S", "-c", "import time; time.sleep(60)"], os.environ, lambda: {{}})
            supervisor.start(made, 5)
            Path({str(file)!r}).write_text(str(made.process.pid))
            time.sleep(60)
    """
    supervisor = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    pid = int(until(lambda: file.exists() and file.read_text()))
    supervisor.kill()
    supervisor.wait()
    until(lambda: not alive(pid))
