"""The demo of a training job on GPUs: four ranks, each on a GPU of the library in `nvml`, one of which is lost.

The GPUs are made up, the processes are not: they carry RANK and WORLD_SIZE, hold their GPU by their real pid, exchange
gradients, and die of what the driver answers.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from misstep.core.errors import UnavailableError
from misstep.lab import nvml
from misstep.lab.demo import Demo
from misstep.lab.household import alive
from misstep.lab.progress import FaultWatch, read

SCRIPT = Path(__file__).parent / "workload" / "finetune.py"
RANKS = 4
_HELD = 61 << 30
"""Bytes of GPU memory of each rank."""
_XID = 79
_PATIENCE = 60.0
"""Seconds until ranks that do not come up are an error."""


class GpuDemo(Demo):
    """One run of a scenario that loses a GPU."""

    def require(self) -> None:
        """A C compiler has to be there.

        Raises:
            UnavailableError: it is not, or it refuses.
        """
        folder = self._home.folder / "nvml"
        folder.mkdir()
        self._library = nvml.library(folder)
        self._control = nvml.Control(folder)
        self._kernel_log = self._home.folder / "kmsg"
        self._kernel_log.touch()

    def begin(self) -> None:
        """Start Misstep, then the ranks under watch; each gets its GPU."""
        self._service.start(
            {
                "MISSTEP_AGENT_NVML_LIBRARY": str(self._library),
                "MISSTEP_AGENT_KERNEL_LOG": str(self._kernel_log),
            }
        )
        self._service.wait()
        argv = [
            sys.executable, "-m", "misstep.cli", "run", "--", sys.executable, str(SCRIPT),
            "--ranks", str(RANKS), "--progress", str(self._progress), "--nvml", str(self._library),
        ]  # fmt: skip
        outer = {k: v for k, v in os.environ.items() if not k.startswith(("RANK", "MASTER_", "MISSTEP_"))}
        self._pid = self._home.start("training", argv, outer | self._service.environment)
        self._narration.step(f"misstep run -- python {SCRIPT.name} --ranks {RANKS}")
        self._ranks = self._wait_for_ranks()
        self._control.processes({rank: [(pid, _HELD)] for rank, pid in self._ranks.items()})
        self._narration.step(f"{RANKS} ranks train, a GPU each")
        self._watch = FaultWatch(self._scenario, self._progress, self._lose)

    def job_status(self, last: str) -> str:
        """RUNNING, or FAILED: who loses a GPU does not succeed."""
        return last if alive(self._pid) else "FAILED"

    def is_mine(self, session: Mapping[str, object]) -> bool:
        """Whether a session of the collector is this job's."""
        return session["kind"] == "torch" and session["name"] == SCRIPT.name

    def also(self, shell: str) -> list[str]:
        """What was told of the GPUs."""
        return [f"{shell} logs --events --grep Xid", f"{shell} query hw_power_watts"]

    def _wait_for_ranks(self) -> dict[int, int]:
        """Pids by rank."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            found = {stage.number: stage.pid for stage in read(self._progress) if stage.stage == "rank"}
            if len(found) == RANKS:
                return found
            if not alive(self._pid) or time.monotonic() > deadline:
                raise UnavailableError(
                    f"the training job did not start:\n{self._home.last_words('training')}"
                )
            time.sleep(0.05)

    def _lose(self, node: str) -> int:
        """Take the GPU away as the driver and the kernel tell it; returns when, Unix nanoseconds."""
        gpu = self._scenario.loses_gpu
        assert gpu is not None
        instant, stamp, address = time.time_ns(), time.monotonic_ns() // 1000, nvml.pci(gpu)
        lines = (
            f"NVRM: GPU {address}.0: GPU has fallen off the bus.",
            f"NVRM: Xid (PCI:{address}): {_XID}, pid={self._ranks[gpu]}, name=python3, GPU has fallen off the bus.",
        )
        with self._kernel_log.open("a") as log:
            log.writelines(f"3,{number},{stamp},-;{line}\n" for number, line in enumerate(lines, 1))
        self._control.set(gpu, lost=1)
        self._control.add(gpu, "event", nvml.UNAVAILABLE, 0)
        return instant
