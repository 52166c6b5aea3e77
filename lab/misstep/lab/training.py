"""The demo of a training job: real ranks under torchrun, the script as its owner would have written it."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from misstep.core.errors import MissingExtraError
from misstep.lab.demo import Demo
from misstep.lab.household import alive
from misstep.lab.progress import FaultWatch

TRAIN = Path(__file__).parent / "workload" / "train.py"
STEPS = 150
"""Shards of each rank."""
SHARD_BYTES = 1024
_NAME = TRAIN.name


class TrainingDemo(Demo):
    """One run of a scenario that has ranks instead of a Ray cluster."""

    def require(self) -> None:
        """Torch has to be there.

        Raises:
            MissingExtraError: it is not.
        """
        if importlib.util.find_spec("torch") is None:
            raise MissingExtraError(f"misstep demo {self._scenario.name}", "torch", "torch")

    def begin(self) -> None:
        """Start Misstep, lay out the data, then run the job under watch."""
        self._service.start()
        self._service.wait()
        shards = self._shards()
        recipe = dict(self._scenario.recipe) | {
            "progress": str(self._progress), "shards": str(shards), "steps": STEPS,
        }  # fmt: skip
        path = self._home.folder / "recipe.json"
        path.write_text(json.dumps(recipe))
        argv = [
            sys.executable, "-m", "misstep.cli", "run", "--", sys.executable, "-m", "torch.distributed.run",
            "--standalone", "--nproc-per-node", str(self._scenario.ranks), str(TRAIN), "--recipe", str(path),
        ]  # fmt: skip
        outer = {k: v for k, v in os.environ.items() if not k.startswith(("RANK", "MASTER_", "MISSTEP_"))}
        self._pid = self._home.start(
            "training", argv, outer | self._service.environment | {"OMP_NUM_THREADS": "1"}
        )
        self._narration.step(f"misstep run -- torchrun --nproc-per-node {self._scenario.ranks} {_NAME}")
        self._watch = FaultWatch(self._scenario, self._progress, _nobody)

    def _shards(self) -> Path:
        """A file for each rank and step; the one that is withheld is a pipe into which nobody writes."""
        folder = self._home.folder / "shards"
        folder.mkdir()
        for rank in range(self._scenario.ranks):
            for step in range(STEPS):
                path = folder / f"{rank}-{step}.bin"
                if (rank, step) == self._scenario.withheld:
                    os.mkfifo(path)
                else:
                    path.write_bytes(os.urandom(SHARD_BYTES))
        return folder

    def job_status(self, last: str) -> str:
        """RUNNING while its launcher lives; how it ended, the session tells."""
        if alive(self._pid):
            return last
        session = self.session()
        ends = self._client.get("logs", session=session, event="command.exit")["logs"] if session else []
        return "SUCCEEDED" if ends and ends[-1]["attributes"].get("process.exit.code") == "0" else "FAILED"

    def is_mine(self, session: Mapping[str, object]) -> bool:
        """Whether a session of the collector is this job's."""
        return session["kind"] == "torch" and session["name"] == _NAME

    def also(self, shell: str) -> list[str]:
        """Where its ranks stand."""
        return [f"{shell} stacks"]


def _nobody(node: str) -> int:
    raise AssertionError(f"a training job has no node {node}")
