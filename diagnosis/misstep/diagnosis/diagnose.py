"""One tick: what is explained now, joined with what was known before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from misstep.diagnosis.context import Context
from misstep.diagnosis.detectors import training
from misstep.diagnosis.detectors.driver import Outcome
from misstep.diagnosis.entries import STANDSTILLS
from misstep.diagnosis.explanation import Explanation, explain
from misstep.diagnosis.incident import ENDED, OPEN, RECOVERED, Incident, incident_id
from misstep.diagnosis.recall import Recall
from misstep.diagnosis.team import Team
from misstep.diagnosis.verdict import content, groups_waiting, tasks_waiting
from misstep.diagnosis.window import View, Window

_MOVED = ("SUBMITTED_TO_WORKER", "RUNNING", "FINISHED")


def diagnose(
    view: View, session: str, at: int, previous: Sequence[Incident], recall: Recall | None = None
) -> list[Incident]:
    """The incidents of a session at a tick.

    Args:
        view: rows received before the tick.
        session: ``site/kind/name/started``.
        at: the tick, a whole second in Unix nanoseconds.
        previous: what the tick before found.
        recall: kept by the caller from tick to tick of a session; it saves time and changes nothing.

    Returns:
        Every incident of the session that was ever opened, in order of onset and id; the same input gives
        the same bytes.
    """
    window = Window(view, session, at, recall)
    explanations, context = explain(window)
    known = sorted(previous, key=lambda one: (one.data["opened_ns"], one.id))
    found: list[Incident] = []
    taken: set[str] = set()
    for explanation in explanations:
        facts = content(explanation)
        before = _recognise(facts, [one for one in known if one.id not in taken])
        status = _status(explanation, context, bool(before))
        if status is None:
            continue
        taken |= {one.id for one in before}
        found.append(_write(session, at, facts, status, before[0] if before else None))
        found += [_close(one, at) for one in before[1:]]
    found += [_carry(one, context) for one in known if one.id not in taken]
    return sorted(found, key=lambda one: (one.data["onset_ns"], one.id))


def _recognise(facts: dict[str, Any], known: list[Incident]) -> list[Incident]:
    """Earlier versions of this fault, the oldest first."""
    subjects = set(facts["subjects"])
    return [
        one
        for one in known
        if (one.job == facts["job"] or not one.job or not facts["job"])
        and (one.subjects & subjects or one.data.get("fault") == facts["fault"])
    ]


def _status(explanation: Explanation, context: Context, known: bool) -> str | None:
    """The status that a fault has now; None if it is none yet, or none any more and was never told."""
    claim = explanation.claim
    outcome = explanation.context.failed or context.outcome(explanation.case)
    well = _all_well(context, outcome, explanation.case.job)
    if well and not (claim.lasting and claim.ripe):
        return RECOVERED if known else None
    if claim.healed:
        return RECOVERED if known or explanation.cause.id == "ray-oom-kill" else None
    if not claim.ripe:
        return RECOVERED if known else None
    if _over(context, outcome):
        interrupted = outcome is not None and outcome.state == "interrupted"
        return ENDED if known or not interrupted else None
    return OPEN


def _all_well(context: Context, outcome: Outcome | None, job: str) -> bool:
    """Whether the job that a fault befell ended well; of a fault that befell no job in particular, every job."""
    if outcome is not None:
        return outcome.state == "ok"
    return not job and bool(context.outcomes) and all(one.state == "ok" for one in context.outcomes)


def _over(context: Context, outcome: Outcome | None) -> bool:
    session = context.window.session_row
    if session is not None and session.ended is not None:
        return True
    return outcome is not None and outcome.state in ("failed", "unknown", "interrupted", "ok")


def _write(session: str, at: int, facts: dict[str, Any], status: str, before: Incident | None) -> Incident:
    if before is None:
        first = facts["blamed"][0] if facts["blamed"] else {"kind": "session", "id": session, "name": ""}
        entity = f"{first['kind']}/{first['id'] or first['name']}"
        id = incident_id(session, facts["cause"], entity, facts["onset_ns"], facts["subjects"])
        data = {**facts, "id": id, "session": session, "status": status, "opened_ns": at, "updated_ns": at}
        return Incident(data)
    if _told_better(facts, before):
        facts = {**before.data, "subjects": facts["subjects"]}
    onset = min(before.data["onset_ns"], facts["onset_ns"])
    subjects = sorted({*before.data.get("subjects", ()), *facts["subjects"]})[:100]
    data = {
        **facts, "id": before.id, "session": session, "status": status, "opened_ns": before.data["opened_ns"],
        "updated_ns": at, "onset_ns": onset, "subjects": subjects,
    }  # fmt: skip
    incident = Incident(data)
    return before if incident.same(before) else incident


def _told_better(facts: dict[str, Any], before: Incident) -> bool:
    """Whether a fault that goes on and on was told from nearer to its beginning before."""
    lasts = bool(facts["lasting"] and before.data.get("lasting"))
    return lasts and facts["fault"] == before.data["fault"] and facts["onset_ns"] > before.data["onset_ns"]


def _close(one: Incident, at: int) -> Incident:
    """Two incidents turned out to be one fault: the later one gives way."""
    return one if one.status == RECOVERED else one.but(status=RECOVERED, updated_ns=at)


def _carry(one: Incident, context: Context) -> Incident:
    """An incident of which nothing new is seen: only its status can change."""
    if one.status != OPEN:
        return one
    outcome = next((outcome for outcome in context.outcomes if outcome.job == one.job), None)
    if outcome is None and len(context.outcomes) == 1:
        outcome = context.outcomes[0]
    status = one.status
    lasting = bool(one.data.get("lasting"))
    well = _all_well(context, outcome, one.job) and not lasting
    if well or _placed(one, context) or _goes_on(one, context):
        status = RECOVERED
    elif _over(context, outcome):
        status = ENDED
    return one if status == one.status else one.but(status=status, updated_ns=context.at)


def _goes_on(one: Incident, context: Context) -> bool:
    """Whether the ranks of a job that stood still move again, or the one that was slow keeps up."""
    if context.team is None:
        return False
    if one.cause == "straggler":
        return context.team.pace.until > 0
    if _begun_anew(one, context.team):
        return training.moving(context.team)
    return one.cause in STANDSTILLS and not one.data.get("lasting") and training.moving(context.team)


def _begun_anew(one: Incident, team: Team) -> bool:
    """Whether a rank that ended has another process now: its launcher has started the job again."""
    ranks = [entity for entity in one.blamed if entity["kind"] == "rank"]
    now = {str(member.number): member.pid for member in team.members.values()}
    return bool(ranks) and all(
        now.get(str(e["name"]), e["attributes"].get("pid")) != e["attributes"].get("pid") for e in ranks
    )


def _placed(one: Incident, context: Context) -> bool:
    """Whether what waited for resources got them."""
    if one.cause not in ("infeasible-resources", "resources-held"):
        return False
    waiting, groups = tasks_waiting(one.blamed), groups_waiting(one.blamed)
    if groups and context.window.rows("ray.placement_group", entities=groups, states=("CREATED",)):
        return True
    return bool(waiting) and bool(context.window.rows("ray.task.lifecycle", entities=waiting, states=_MOVED))
