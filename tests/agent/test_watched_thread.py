"""Threads of probes that die: said, and begun again, each time after a longer pause."""

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from misstep.agent import infiniband
from misstep.agent.infiniband import InfinibandProbe
from misstep.agent.kubelet import probe as kubelet_probe
from misstep.agent.kubelet import unary
from misstep.agent.kubelet.allocations import Allocations
from misstep.agent.kubelet.probe import PodResourcesProbe
from misstep.agent.probe import OK
from misstep.agent.records import Records
from misstep.agent.torch import door
from misstep.agent.torch.rank import Rank
from misstep.agent.torch.watcher import Watcher
from misstep.agent.watched_thread import WatchedThread
from misstep.core.clock import SettableClock


def wait(ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Mortal:
    """What a thread runs: it dies when it is told to, of what it is told to die of."""

    def __init__(self) -> None:
        self.lives = 0
        self.fatal: BaseException | None = None
        self.end = threading.Event()

    def run(self) -> None:
        self.lives += 1
        self.end.wait(10)
        self.end.clear()
        if self.fatal is not None:
            raise self.fatal


def die(thread: WatchedThread, mortal: Mortal, error: BaseException | None) -> None:
    mortal.fatal = error
    mortal.end.set()
    wait(lambda: thread.watch() != OK)


@pytest.mark.parametrize("error", [ValueError("odd"), SystemExit(3), MemoryError()])
def test_a_death_is_said_and_the_thread_begun_again(error: BaseException) -> None:
    clock, mortal = SettableClock(), Mortal()
    thread = WatchedThread("reader", mortal.run, clock)
    assert thread.watch() == OK
    die(thread, mortal, error)
    state = thread.watch()
    assert state.name == "failing"
    assert f"reader died ({type(error).__name__}" in state.reason
    clock.advance(1.1)
    assert thread.watch() == OK
    wait(lambda: mortal.lives == 2)
    die(thread, mortal, None)
    assert "it returned" in thread.watch().reason


def test_the_pauses_grow_to_a_bound_and_begin_anew_after_a_long_life() -> None:
    clock, mortal = SettableClock(), Mortal()
    thread = WatchedThread("reader", mortal.run, clock)
    pauses = []
    for _ in range(8):
        assert thread.watch() == OK
        die(thread, mortal, OSError("gone"))
        pauses.append(0.0)
        while thread.watch() != OK:
            clock.advance(0.5)
            pauses[-1] += 0.5
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    clock.advance(61)
    die(thread, mortal, OSError("gone"))
    clock.advance(1.1)
    assert thread.watch() == OK
    thread.close()
    mortal.end.set()


def test_one_that_shall_end_is_not_begun_again() -> None:
    clock, mortal = SettableClock(), Mortal()
    thread = WatchedThread("reader", mortal.run, clock)
    assert thread.watch() == OK
    thread.stopping.set()
    mortal.end.set()
    thread.close(10)
    clock.advance(100)
    thread.watch()
    assert mortal.lives == 1


def follow(probe: Any, clock: SettableClock, mend: Callable[[], None]) -> list[str]:
    """The states of a probe whose thread dies at once, and is mended after that was said."""
    states: list[str] = []

    def check() -> str:
        state = probe.check(1, Records(1))
        states.append(state.name if state is not None else "")
        return state.reason if state is not None else ""

    wait(lambda: "died" in check())
    mend()
    clock.advance(40)
    wait(lambda: check() == "" and states[-1] == "ok")
    probe.close()
    return states


def test_the_thread_of_infiniband_ports(
    make_context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that goes while its ports are listed."""
    port = tmp_path / "sys" / "class" / "infiniband" / "mlx5_0" / "ports" / "1"
    port.mkdir(parents=True)
    (port / "state").write_text("4: ACTIVE\n")
    clock = SettableClock()
    monkeypatch.setattr(infiniband, "_EVERY", 0.02)
    probe = InfinibandProbe(make_context(clock), str(tmp_path))

    def gone() -> list[Any]:
        raise FileNotFoundError(2, "No such file or directory", "mlx5_0")

    with monkeypatch.context() as broken:
        broken.setattr(probe, "_ports", gone)
        follow(probe, clock, broken.undo)


def test_the_thread_that_asks_kubelet(
    make_context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SettableClock()
    path = tmp_path / "kubelet.sock"
    path.touch()
    monkeypatch.setattr(kubelet_probe, "_SOON", 0.01)
    monkeypatch.setattr(kubelet_probe, "_EVERY", 0.02)
    probe = PodResourcesProbe(make_context(clock, kubelet_socket=str(path)), Allocations())

    def odd(path: str, method: str) -> bytes:
        raise RuntimeError("nobody thought of this")

    monkeypatch.setattr(unary, "call", odd)
    states = follow(probe, clock, lambda: monkeypatch.setattr(unary, "call", lambda path, method: b""))
    assert "failing" in states


def test_the_thread_that_asks_ranks(
    make_context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies of one answer, and goes on with the rank whose door was open."""
    clock = SettableClock()
    path = str(tmp_path / "r.py")
    asked: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        watcher = Watcher(make_context(clock), lambda rank: None, lambda rank: None)
        with monkeypatch.context() as broken:
            broken.setattr(watcher, "_look", lambda now: 1 / 0)
            watcher.take(Rank(1, 1, path))
            wait(lambda: watcher.watch() != OK)
            assert "ZeroDivisionError" in watcher.watch().reason
        clock.advance(2)
        assert watcher.watch() == OK
        link, _ = server.accept()
        with link:
            link.settimeout(10)
            asked.append(link.recv(16))
            body = b'{"rank": 3, "world_size": 4}'
            link.sendall(len(body).to_bytes(4, "big") + body)
            asked.append(link.recv(16))
        assert asked == [door.HELLO, door.STATUS]
        assert watcher.watch() == OK
        watcher.close()
