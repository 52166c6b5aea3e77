"""`misstep gpu`: the whole way from the command through the agent's door to the child that holds NVML."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from misstep.agent import peers
from misstep.agent.gpu.release import FILE
from misstep.agent.receiver import Receiver
from misstep.agent.spool import Spool
from misstep.cli.commands import gpu
from misstep.cli.main import main
from misstep.core.clock import SECOND
from misstep.core.exits import Exit
from misstep.lab import nvml


@pytest.fixture
def agent(follow: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The probe, checked by a thread of its own, and the door."""
    monkeypatch.setenv("MISSTEP_ENDPOINT_FILE", str(tmp_path / "endpoint.json"))
    one = follow(interval=0.05)
    spool = Spool(
        str(tmp_path / "spool"), limit=1 << 20, age=60.0, gap_event=lambda *gap: None, host_boot=one.context.host.boot
    )  # fmt: skip
    door = Receiver(
        one.context._replace(spool=spool),
        locate=lambda *where: "",
        heard=lambda *_: None,
        admit=lambda user: True,
        port=0,
    )
    door.start()
    monkeypatch.setenv("MISSTEP_AGENT_RECEIVER_PORT", str(door.port))
    over = threading.Event()

    def tick() -> None:
        while not over.wait(0.02):
            one.check()

    thread = threading.Thread(target=tick)
    thread.start()
    wait(lambda: one.points)
    yield one
    over.set()
    thread.join()
    door.close()
    spool.close()


def wait(ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_gpus_are_released_when_the_command_returns_and_held_after_resume(
    agent: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    child = agent.probe._child.pid
    assert main(["gpu", "release", "--minutes", "30"]) == Exit.OK
    said = capsys.readouterr().out
    assert "agent on n1" in said and "let go of its GPUs until" in said and "misstep gpu resume" in said
    assert not Path(f"/proc/{child}").exists()
    assert agent.probe._release.until(time.time_ns()) == pytest.approx(time.time_ns() + 1800 * SECOND, abs=60 * SECOND)  # fmt: skip
    assert main(["gpu", "resume", "--json"]) == Exit.OK
    (held,) = json.loads(capsys.readouterr().out)["agents"]
    assert (held["state"], held["until_ns"]) == ("held", 0)
    assert not (tmp_path / "agent" / FILE).exists()


def test_a_driver_that_hangs_is_not_called_released(
    agent: Any, control: nvml.Control, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "PATIENCE", 0.5)
    control.set(2, hang=1)
    time.sleep(0.3)
    assert main(["gpu", "release"]) == Exit.FAILURE
    assert "has not returned" in capsys.readouterr().out
    control.set(2, hang=0)
    wait(lambda: agent.probe._child is None)


def test_another_user_may_not(agent: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(peers, "owner", lambda peer, port: 54321)
    assert main(["gpu", "release"]) != Exit.OK
    assert not (tmp_path / "agent" / FILE).exists()
    assert agent.probe._child is not None


@pytest.mark.parametrize("minutes", ["0", "-1", "100000"])
def test_nobody_is_let_go_for_ever(minutes: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpu", "release", "--minutes", minutes]) == Exit.FAILURE
    assert "--minutes" in capsys.readouterr().err


def test_without_an_agent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.setenv("MISSTEP_ENDPOINT_FILE", str(tmp_path / "endpoint.json"))
    monkeypatch.setenv("MISSTEP_AGENT_RECEIVER_PORT", "9")
    assert main(["gpu", "release"]) == Exit.UNAVAILABLE
    assert "no agent of Misstep answers" in capsys.readouterr().err
