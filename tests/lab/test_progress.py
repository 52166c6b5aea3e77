from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

from misstep.lab.progress import FaultWatch, read
from misstep.lab.scenarios import Scenario


def note(path: Path, stage: str, number: int, *, pid: int = 1, at: int = 7) -> None:
    with path.open("a") as file:
        file.write(json.dumps({"time": at, "pid": pid, "stage": stage, "number": number}) + "\n")


def instant(watch: FaultWatch) -> int | None:
    deadline = time.monotonic() + 60
    while watch.instant is None and time.monotonic() < deadline:
        time.sleep(0.02)
    watch.close()
    return watch.instant


def never(node: str) -> int:
    raise AssertionError(node)


def test_a_line_that_is_being_written_waits(tmp_path: Path) -> None:
    path = tmp_path / "progress"
    assert read(path) == []
    note(path, "step", 1)
    with path.open("a") as file:
        file.write('{"time": 8, "pid"')
    assert [stage.stage for stage in read(path)] == ["step"]


def test_the_note_of_the_stage_is_the_instant(tmp_path: Path) -> None:
    path = tmp_path / "progress"
    watch = FaultWatch(Scenario("x", "", None, stage="evaluate", number=2), path, never)
    note(path, "evaluate", 1, at=1)
    note(path, "evaluate", 2, at=99)
    assert instant(watch) == 99


def test_where_the_process_dies_its_death_is_the_instant(tmp_path: Path) -> None:
    path = tmp_path / "progress"
    watch = FaultWatch(Scenario("x", "", None, stage="step", number=1, dies=True), path, never)
    with subprocess.Popen(["sleep", "600"]) as process:
        note(path, "step", 1, pid=process.pid)
        time.sleep(0.2)
        assert watch.instant is None
        before = time.time_ns()
        process.kill()
    found = instant(watch)
    assert found is not None and before < found < before + 2_000_000_000


def test_a_node_is_killed_when_its_stage_comes(tmp_path: Path) -> None:
    path, killed = tmp_path / "progress", []

    def strike(node: str) -> int:
        killed.append(node)
        return 42

    watch = FaultWatch(Scenario("x", "", None, stage="step", number=3, kills_node="node-2"), path, strike)
    note(path, "step", 3)
    assert instant(watch) == 42
    assert killed == ["node-2"]


def test_no_fault_no_instant(tmp_path: Path) -> None:
    watch = FaultWatch(Scenario("x", "", None), tmp_path / "progress", never)
    watch.close()
    assert watch.instant is None
