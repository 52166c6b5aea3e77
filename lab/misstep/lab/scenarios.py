"""The scenarios of `misstep demo`: what is done to the pipeline or to a training job, and the ledger of what is true.

A scenario changes the recipe (a batch that is too large, a learning rate that is too high, a native table without an
address), withholds a file, or kills one of the processes. Only this module knows which cause and
entity the verdict must name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from misstep.core.errors import SettingsError
from misstep.lab.cluster import WORKER


@dataclass(frozen=True)
class Blame:
    """What a right verdict says."""

    cause: str
    """Id in the catalogue of causes; its runbook is ``docs/causes/<cause>.md``."""
    kind: str
    """Kind of the blamed entity."""
    name: str
    """Name of the blamed entity: a function, an actor's class or a node."""

    def __str__(self) -> str:
        return f"{self.cause} → {self.kind} {self.name}"


@dataclass(frozen=True)
class Scenario:
    """One fault."""

    name: str
    summary: str
    """What happens, for the reader of the demo."""
    blame: Blame | None
    """None: nothing is wrong, and no incident may stand."""
    recipe: Mapping[str, object] = field(default_factory=dict)
    """Changes to the pipeline's recipe."""
    stage: str = ""
    """Stage of the pipeline that brings the fault about…"""
    number: int = 0
    """…and its number."""
    dies: bool = False
    """The fault's instant is the death of the process that noted the stage, not the note itself."""
    memory_monitor: bool = False
    """Ray's memory monitor runs on the worker node, its threshold just above today's use."""
    kills_node: str = ""
    """Node whose raylet gets SIGKILL when the stage is noted."""
    ranks: int = 0
    """Ranks of a training job under torchrun; 0 means a job on Ray."""
    loses_gpu: int | None = None
    """GPU of a job of ranks that is lost when the stage is noted."""
    withheld: tuple[int, int] | None = None
    """Rank and number of the shard that cannot be read to its end, because whoever writes it does not."""


SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "oom",
            "the n-gram table of one shard grows until Ray's memory monitor kills the worker",
            Blame("ray-oom-kill", "task", "tokenize"),
            {"table_shard": 10, "shards": 18},
            stage="tokenize",
            number=10,
            dies=True,
            memory_monitor=True,
        ),
        Scenario(
            "crash",
            "an actor reads a null pointer and dies by SIGSEGV",
            Blame("native-crash", "actor", "Trainer"),
            {"lookup": "native"},
            stage="step",
            number=12,
            dies=True,
        ),
        Scenario(
            "exit",
            "a library leaves an actor's process by os._exit(7)",
            Blame("process-exit", "actor", "Trainer"),
            {"license_steps": 11},
            stage="step",
            number=12,
            dies=True,
        ),
        Scenario(
            "exception",
            "user code raises in a task",
            Blame("user-exception", "task", "evaluate"),
            {"rate": 5.0, "evaluate_every": 12},
            stage="evaluate",
            number=11,
        ),
        Scenario(
            "node",
            f"the raylet of {WORKER} gets SIGKILL, as if the machine had vanished",
            Blame("ray-node-lost", "ray_node", WORKER),
            {"shards": 400, "tokenize_pause": 0.8},
            stage="tokenize",
            number=5,
            kills_node=WORKER,
        ),
        Scenario(
            "infeasible",
            "a task asks for a resource that no node has",
            Blame("infeasible-resources", "task", "finetune"),
            {"shards": 12, "finetune_on": "TPU"},
            stage="finetune asked",
        ),
        Scenario(
            "hang",
            "four ranks train under torchrun; a file that one of them reads does not come",
            Blame("rank-stuck", "rank", "2"),
            {"width": 384},
            stage="shard of rank 2",
            number=60,
            ranks=4,
            withheld=(2, 60),
        ),
        Scenario(
            "gpu",
            "four ranks train on a GPU each; one GPU falls off the bus",
            Blame("gpu-lost", "gpu", "2"),
            stage="step",
            number=32,
            loses_gpu=2,
        ),
        Scenario("healthy", "the same job with no fault", None, {"shards": 18}),
    )
}


def find(name: str) -> Scenario:
    """The scenario of that name.

    Raises:
        SettingsError: there is none.
    """
    if name not in SCENARIOS:
        raise SettingsError(f"there is no scenario {name!r}; known are {', '.join(SCENARIOS)}")
    return SCENARIOS[name]
