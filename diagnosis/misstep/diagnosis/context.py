"""What causes may ask besides the case itself."""

from __future__ import annotations

from typing import NamedTuple

from misstep.diagnosis.case import Case
from misstep.diagnosis.coverage import Coverage
from misstep.diagnosis.detectors.driver import Outcome
from misstep.diagnosis.roster import Node, Roster
from misstep.diagnosis.team import Team
from misstep.diagnosis.window import SECOND, Window


class Context(NamedTuple):
    """One tick's surroundings of a case.

    Attributes:
        outcomes: how each driver stands.
        failed: the driver that failed because of this case, if one did.
        stalled: nothing in the session has moved for a while and nothing runs.
        team: the ranks of training in the session.
    """

    window: Window
    roster: Roster
    coverage: Coverage
    outcomes: tuple[Outcome, ...]
    failed: Outcome | None = None
    stalled: bool = False
    team: Team | None = None

    @property
    def at(self) -> int:
        """The tick."""
        return self.window.at

    def outcome(self, case: Case) -> Outcome | None:
        """How the driver of a case stands; the only driver's where the case names none."""
        for outcome in self.outcomes:
            if case.job and outcome.job == case.job:
                return outcome
        return self.outcomes[0] if len(self.outcomes) == 1 and not case.job else None

    def since(self, case: Case) -> float:
        """Seconds since the last of a case happened."""
        return (self.at - case.last) / SECOND

    def node_of(self, case: Case) -> Node | None:
        """The node that a case happened on."""
        for id in (
            *case.facts("node"),
            *(self.roster.worker(worker).node for worker in case.linked("ray_worker")),
        ):
            node = self.roster.nodes.get(str(id))
            if node is not None:
                return node
        return None

    def clock(self, ts: int) -> str:
        """A moment relative to the beginning of the job or session, in words."""
        starts = [job.started for job in self.roster.jobs if job.started <= ts]
        return f"{(ts - max(starts)) / SECOND:.0f} s into the job" if starts else ""
