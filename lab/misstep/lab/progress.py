"""What the pipeline did when, by its progress file; from it the lab knows the instant of a fault."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from misstep.lab.household import alive
from misstep.lab.scenarios import Scenario


class Stage(NamedTuple):
    """One line of the file: a stage began in process `pid` at `time` (Unix nanoseconds)."""

    time: int
    pid: int
    stage: str
    number: int


def read(path: Path) -> list[Stage]:
    """The stages so far; a line that is being written is left for later."""
    try:
        lines = path.read_text().splitlines(keepends=True)
    except OSError:
        return []
    return [Stage(**json.loads(line)) for line in lines if line.endswith("\n")]


class FaultWatch:
    """Waits in a thread for a scenario's fault and keeps its instant.

    Args:
        scenario: says which stage brings it about.
        path: the progress file.
        strike: kills a node's raylet, or takes a GPU away, and returns when; for scenarios that do.
    """

    INTERVAL = 0.05
    """Seconds between looks; it bounds the error of the instant."""

    def __init__(self, scenario: Scenario, path: Path, strike: Callable[[str], int]) -> None:
        self._scenario = scenario
        self._path = path
        self._strike = strike
        self._ended = threading.Event()
        self.instant: int | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop waiting."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        cause = self._wait_for_stage()
        if cause is None:
            return
        if self._scenario.kills_node or self._scenario.loses_gpu is not None:
            self.instant = self._strike(self._scenario.kills_node)
        elif self._scenario.dies:
            while alive(cause.pid) and not self._ended.wait(self.INTERVAL):
                pass
            self.instant = None if alive(cause.pid) else time.time_ns()
        else:
            self.instant = cause.time

    def _wait_for_stage(self) -> Stage | None:
        wanted = self._scenario.stage, self._scenario.number
        while self._scenario.stage and not self._ended.wait(self.INTERVAL):
            for stage in read(self._path):
                if (stage.stage, stage.number) == wanted:
                    return stage
        return None
