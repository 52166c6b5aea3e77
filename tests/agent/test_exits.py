"""How processes end, from the kernel itself, with real processes."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from misstep.agent import exits as module
from misstep.agent.exits import Exits
from misstep.agent.workload import Exit

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's process connector")


@pytest.fixture
def exits() -> Any:
    found = Exits()
    if not found.listening:
        pytest.skip(found.state.reason)
    yield found
    found.close()


@pytest.fixture
def by_pidfd(monkeypatch: Any) -> Any:
    """As where the connector is refused; needs Linux 6.15."""
    monkeypatch.setattr(module, "_NETLINK_CONNECTOR", 31)  # no such protocol
    found = Exits()
    if found.state.name != "ok":
        pytest.skip(found.state.reason)
    yield found
    found.close()


def run(code: str) -> int:
    child = subprocess.Popen([sys.executable, "-c", code])
    child.wait()
    return child.pid


def test_codes_and_signals_of_processes_that_nobody_had_heard_of(exits: Any) -> None:
    before = time.time_ns()
    pids = [
        run("import os; os._exit(7)"),
        run("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"),
        run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"),
        run("raise SystemExit(0)"),
        run(
            "import os, threading, time; threading.Thread(target=os._exit, args=(3,)).start(); time.sleep(9)"
        ),
    ]
    news = {ended.pid: ended for ended in exits.drain()}
    assert [(news[pid].code, news[pid].signal) for pid in pids] == [
        (7, 0),
        (None, signal.SIGSEGV),
        (None, signal.SIGKILL),
        (0, 0),
        (3, 0),
    ]
    assert all(before < news[pid].time <= time.time_ns() for pid in pids)
    assert exits.lookup(pids[0]) == news[pids[0]]
    assert exits.lookup(2**22 + 1) is None


def test_threads_and_forks_are_filtered_in_the_kernel(exits: Any) -> None:
    exits.drain()
    for _ in range(50):
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()
    assert os.getpid() not in {ended.pid for ended in exits.drain()}
    assert exits._socket is not None
    with pytest.raises(BlockingIOError):
        exits._socket.recv(4096)


def test_the_newest_process_with_a_pid_is_the_one_asked_about(exits: Any) -> None:
    first = exits._remember(77, 1, 7 << 8)
    second = exits._remember(77, 2, 9)
    assert first == Exit(77, 1, 7, 0)
    assert exits.lookup(77) == second == Exit(77, 2, None, 9)


def test_memory_of_exits_is_bounded(exits: Any) -> None:
    for pid in range(module._KEPT + 100):
        exits._remember(pid, pid, 0)
    assert len(exits._recent) == module._KEPT
    assert exits.lookup(module._KEPT + 99) is not None


def test_an_overflow_is_counted(exits: Any) -> None:
    assert exits._socket is not None
    exits._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for _ in range(40):
        pid = os.posix_spawn("/bin/true", ["true"], {})
        os.waitpid(pid, 0)
    exits.drain()
    assert exits.lost() >= 1
    assert exits.lost() == 0


def test_held_processes_are_told_without_the_connector(by_pidfd: Any) -> None:
    assert not by_pidfd.listening
    assert "under a second" in by_pidfd.state.reason
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.exit(int(sys.stdin.read()))"], stdin=-1)
    by_pidfd.hold(child.pid)
    assert by_pidfd.lookup(child.pid) is None
    child.communicate(b"5")
    assert by_pidfd.lookup(child.pid)[2:] == (5, 0, False)
    by_pidfd.release(child.pid)
    assert by_pidfd.lookup(child.pid).code == 5
    assert by_pidfd.drain() == []


def test_where_nothing_tells_the_remedy_is_named(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "_NETLINK_CONNECTOR", 31)
    monkeypatch.setattr(module, "_pidfd_tells", lambda: False)
    state = Exits().state
    assert state.name == "unsupported"
    assert "exit codes and signals stay unknown" in state.reason
    assert state.remedy == "sudo misstep agent"
