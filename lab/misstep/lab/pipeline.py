"""The demo of a job on Ray: a pipeline on a cluster of two nodes, submitted as its owner would submit it."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from misstep.agent.launch import child_environment
from misstep.core.errors import MissingExtraError, UnavailableError
from misstep.lab import memory
from misstep.lab.cluster import Cluster
from misstep.lab.demo import Demo
from misstep.lab.household import Household
from misstep.lab.narration import Narration
from misstep.lab.progress import FaultWatch
from misstep.lab.scenarios import Scenario

PIPELINE = Path(__file__).parent / "workload" / "pipeline.py"
NAME = "demo"
"""Name of the cluster, in its session."""
HEADROOM = 2_200_000_000
"""Bytes above today's use at which the memory monitor kills: what the worker node's own processes need,
and what the growing task takes before it."""
OVERSHOOT = 1_500_000_000
"""Bytes that the task would take beyond that; it ends the growth if the monitor should fail to kill."""


class PipelineDemo(Demo):
    """One run of a scenario on Ray."""

    def __init__(self, scenario: Scenario, home: Household, narration: Narration, data: Path | None) -> None:
        super().__init__(scenario, home, narration, data)
        self._limit = 0
        self._submission = ""
        self._cluster = Cluster(
            home,
            self._ray_environment(),
            narration.step,
            memory_threshold=self._memory_threshold if scenario.memory_monitor else None,
        )

    def require(self) -> None:
        """Ray has to be there.

        Raises:
            MissingExtraError: it is not.
        """
        if importlib.util.find_spec("ray") is None:
            raise MissingExtraError("misstep demo", "demo", "ray")

    def begin(self) -> None:
        """Start Misstep and Ray side by side, then the job."""
        self._service.start(self._cluster.access)
        self._cluster.start()
        self._service.wait()
        recipe = dict(self._scenario.recipe) | {"progress": str(self._progress)}
        if self._scenario.memory_monitor:
            recipe["table_shard_bytes"] = self._limit - memory.read().used + OVERSHOOT
        path = self._home.folder / "recipe.json"
        path.write_text(json.dumps(recipe))
        command = shlex.join([sys.executable, str(PIPELINE), "--recipe", str(path)])
        self._submission = self._cluster.jobs.submit(command)
        self._narration.step(f"Ray is up with two nodes; submitted the job {self._submission}")
        self._watch = FaultWatch(self._scenario, self._progress, self._cluster.kill_raylet)

    def job_status(self, last: str) -> str:
        """As Ray's dashboard has it."""
        try:
            return self._cluster.jobs.status(self._submission)
        except UnavailableError:
            return last

    def is_mine(self, session: Mapping[str, object]) -> bool:
        """Whether a session of the collector is this cluster's."""
        return session["kind"] == "ray" and session["name"] == NAME

    def also(self, shell: str) -> list[str]:
        """Where the cluster's own dashboard is."""
        return [
            f"cat {self._cluster.token_file}   # the token for http://127.0.0.1:{self._cluster.dashboard}"
        ]

    def _ray_environment(self) -> dict[str, str]:
        outer = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MISSTEP_"))}
        return outer | child_environment(self._service.agent_url, cluster=NAME, environ=outer)

    def _memory_threshold(self) -> float:
        now = memory.read()
        if now.free < HEADROOM + 2 * OVERSHOOT:
            raise UnavailableError(
                f"the oom scenario needs {(HEADROOM + 2 * OVERSHOOT) / 1e9:.1f} GB of free memory and "
                f"{now.free / 1e9:.1f} GB are free; try another one, for example: misstep demo crash"
            )
        self._limit = now.used + HEADROOM
        return self._limit / now.total
