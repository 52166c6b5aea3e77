"""From observations to explained cases: what belongs together, what follows from what, which cause wins."""

from __future__ import annotations

from dataclasses import dataclass

from misstep.core.identity import Session
from misstep.diagnosis.case import Case, gather
from misstep.diagnosis.catalogue import Cause, Claim
from misstep.diagnosis.context import Context
from misstep.diagnosis.coverage import Coverage
from misstep.diagnosis.detectors import (
    deaths,
    driver,
    gpus,
    placement,
    processes,
    progress,
    stragglers,
    task_failures,
    training,
)
from misstep.diagnosis.detectors.driver import Outcome
from misstep.diagnosis.entries import CAUSES
from misstep.diagnosis.inspection import inspect, suspect
from misstep.diagnosis.observation import Observation
from misstep.diagnosis.roster import Roster
from misstep.diagnosis.team import Team
from misstep.diagnosis.window import SECOND, Window

_ROOTS = (
    "worker.died",
    "worker.out_of_memory",
    "actor.died",
    "raylet.ended",
    "node.died",
    "node.preempted",
    "task.lost_worker",
    "task.out_of_memory",
    "task.lost_actor",
    "task.lost_node",
)
_STILL = 10 * SECOND
_FATE = SECOND // 2
_NEAR = 5 * SECOND
_WAKE = 120 * SECOND
"""So long after a death or a lost node, objects that are missing are its doing."""


@dataclass(slots=True)
class Explanation:
    """A case, the cause that explains it best, and the claims that it won against."""

    case: Case
    cause: Cause
    claim: Claim
    context: Context
    rivals: tuple[tuple[Cause, Claim], ...]


def explain(window: Window) -> tuple[list[Explanation], Context]:
    """Explain what can be seen at a tick; the most direct explanation of each case, oldest case first."""
    roster, team = Roster(window), Team(window)
    if Session.parse(window.session).kind == "torch":
        return _explain_training(window, roster, team)
    outcomes, told = driver.outcomes(window, roster)
    observations = [
        *told,
        *task_failures.observe(window, roster),
        *deaths.workers(window, roster),
        *deaths.actors(window, roster),
        *deaths.nodes(window, roster),
        *processes.raylets(window, roster),
        *_waits(window, roster, outcomes),
        *gpus.observe(window, roster, team),
        # How ranks under Ray end, Ray's own records tell.
        *(
            one
            for one in training.observe(window, team)
            if one.kind not in ("rank.ended", "rank.raised", "rank.follows")
        ),
        *stragglers.observe(window, team),
    ]
    context = Context(window, roster, Coverage(window), tuple(outcomes), team=team)
    cases = gather(observations, [job.id for job in roster.jobs])
    cases = _after_the_end(cases, context)
    cases = _into_nodes(cases, context)
    cases = _into_gpus(cases, context)
    cases = _follow(cases)
    failed = {
        id(case): outcome for outcome in outcomes if (case := _blame(cases, outcome, context)) is not None
    }
    stalled = _stalled(window, roster, cases, outcomes)
    found = []
    for case in cases:
        inspect(window, roster, case)
        waits = stalled and _lives(context.outcome(case))
        explanation = _compete(case, context._replace(failed=failed.get(id(case)), stalled=waits))
        if explanation is not None:
            found.append(explanation)
    return _once(found), context


def _explain_training(window: Window, roster: Roster, team: Team) -> tuple[list[Explanation], Context]:
    """The same for a session that is one training job: all that befalls its ranks is one case."""
    outcome = training.of_launcher(window, team)
    outcomes = (outcome,) if outcome is not None else ()
    context = Context(window, roster, Coverage(window), outcomes, team=team)
    found = []
    told = [
        *training.observe(window, team), *stragglers.observe(window, team), *gpus.observe(window, roster, team)
    ]  # fmt: skip
    for case in gather(told, []):
        failed = outcome if outcome is not None and outcome.state == "failed" else None
        explanation = _compete(case, context._replace(failed=failed))
        if explanation is not None:
            found.append(explanation)
    return _without_slowness(found), context


def _without_slowness(found: list[Explanation]) -> list[Explanation]:
    """Leave out who was slow where the job has stopped or failed since: that is the fault then."""
    if not any(one.claim.ripe and one.cause.id != "straggler" for one in found):
        return found
    return [one for one in found if one.cause.id != "straggler"]


def _waits(window: Window, roster: Roster, outcomes: list[Outcome]) -> list[Observation]:
    """What waits for resources, or did when a driver left that gave no other reason.

    Where a driver gave up waiting, the demand need not have stood for long.
    """
    lost = [
        outcome
        for outcome in outcomes
        if outcome.state == "failed" and (outcome.error == "GET_TIMEOUT" or not outcome.text)
    ]
    if not lost:
        return [*placement.infeasible(window, roster), *placement.held(window, roster)]
    gave_up = any(outcome.error == "GET_TIMEOUT" for outcome in lost)
    end = max(outcome.ended for outcome in lost)
    return [
        *placement.infeasible(window, roster, stands=0 if gave_up else placement.STANDS, until=end),
        *placement.held(window, roster, until=end),
    ]


def _after_the_end(cases: list[Case], context: Context) -> list[Case]:
    """Leave out what happened because a driver was gone: Ray then takes its workers, actors and its own cluster down."""
    over = [outcome for outcome in context.outcomes if outcome.ended and outcome.state != "running"]
    running = any(outcome.state == "running" for outcome in context.outcomes)
    kept = []
    for case in cases:
        cluster = bool(case.all("raylet.ended", "node.died"))
        if cluster and over and not running and all(_behind(case, outcome) for outcome in over):
            continue
        mine = [outcome for outcome in over if outcome.job == case.job]
        told = any(one.facts.get("told") for one in case.observations)
        if (
            mine
            and case.job
            and not told
            and not case.all("task.raised")
            and all(_behind(case, outcome) for outcome in mine)
        ):
            continue
        kept.append(case)
    return kept


def _behind(case: Case, outcome: Outcome) -> bool:
    """Whether a case began when a driver had ended; what shares the fate of a killed driver may be recorded first."""
    return case.onset >= outcome.ended - (_FATE if outcome.signal else 0)


def _into_nodes(cases: list[Case], context: Context) -> list[Case]:
    """Give a lost node the deaths on it, and what can no longer be placed without it."""
    homes = [
        case for case in cases if case.all("raylet.ended", "node.died", "node.preempted", "task.lost_node")
    ]
    kept = []
    for case in cases:
        home = None if case in homes else next((node for node in homes if _befell(case, node, context)), None)
        if home is None:
            kept.append(case)
        else:
            home.absorb(case)
    return kept


def _befell(case: Case, home: Case, context: Context) -> bool:
    if case.onset < home.onset - SECOND or case.onset > home.last + _WAKE:
        return False
    nodes = set(home.linked("ray_node"))
    where = {str(node) for node in case.facts("node")} | {
        context.roster.worker(worker).node for worker in case.linked("ray_worker")
    }
    where |= {context.roster.actor(actor).node for actor in case.linked("actor")}
    if case.all("worker.died", "actor.died", "task.lost_worker", "task.lost_actor", "actor.restarts"):
        return bool(where & nodes)
    asked = case.fact("asked", "placement.infeasible")
    if asked:
        return any(
            placement.fits(asked, context.roster.nodes[id].resources)
            for id in nodes
            if id in context.roster.nodes
        )
    return {one.kind for one in case.observations} <= {"task.lost_object", "task.failed"}


def _into_gpus(cases: list[Case], context: Context) -> list[Case]:
    """Give a GPU that failed what befell the processes that held it, and errors of CUDA that came of it."""
    homes = [case for case in cases if case.all(*gpus.FAULTS)]
    kept = []
    for case in cases:
        home = None if case in homes else next((one for one in homes if _suffered(case, one)), None)
        if home is None:
            kept.append(case)
        else:
            home.absorb(case)
    return kept


def _suffered(case: Case, home: Case) -> bool:
    if not home.onset - 2 * SECOND <= case.onset <= home.last + _WAKE:
        return False
    pids = _holders(home)
    said = " ".join(str(one.facts.get("message") or "") for one in case.all("task.raised"))
    return bool(pids & set(case.facts("pid"))) or "CUDA error" in said or "NCCL error" in said


def _holders(case: Case) -> set[int]:
    """Pids of the processes that held the GPUs of a case."""
    return {hold.pid for one in case.all(*gpus.FAULTS) for hold in one.facts["holds"]}


def _follow(cases: list[Case]) -> list[Case]:
    """Give lost objects to the death that came before them, if one did."""
    kept: list[Case] = []
    for case in cases:
        if {one.kind for one in case.observations} <= {"task.lost_object"}:
            before = [
                one
                for one in kept
                if one.all(*_ROOTS)
                and one.onset <= case.onset <= one.last + _WAKE
                and one.job in ("", case.job)
            ]
            if before:
                before[-1].absorb(case)
                continue
        kept.append(case)
    return kept


def _blame(cases: list[Case], outcome: Outcome, context: Context) -> Case | None:
    """The case because of which a driver failed; where there is none, a case of its own is opened."""
    if outcome.state not in ("failed", "unknown"):
        return None
    named = [
        case
        for case in cases
        for one in case.observations
        if one.facts.get("told")
        and one.facts.get("job") == outcome.job
        and set(one.evidence) <= set(outcome.evidence)
    ]
    broken = _broken(cases, outcome)
    if broken is not None:
        for case in named:
            if case is not broken:
                broken.absorb(case)
                cases.remove(case)
        return broken
    mine = [case for case in cases if case.job in ("", outcome.job)]
    if named and (outcome.blames or named[0].all(*_ROOTS[:5])):
        return named[0]
    if outcome.error == "WORKER_DIED":
        return _crashed(cases, mine, named, outcome, context)
    crashed = outcome.own is None and outcome.signal in processes.CRASHES
    if outcome.error == "GET_TIMEOUT" or (outcome.own is None and not named and not crashed):
        waits = [case for case in mine if case.all("placement.infeasible", "placement.held")]
        if waits:
            return waits[0]
    if outcome.error == "GET_TIMEOUT":
        hung = [case for case in mine if case.all(*_ROOTS)]
        if hung:
            return hung[-1]
    if named:
        return named[0]
    if outcome.own is None and not crashed:
        near = [
            case
            for case in mine
            if outcome.ended - _NEAR <= case.last <= outcome.ended + SECOND
            and case.all(*_ROOTS, "task.raised", "task.lost_object", "task.no_environment")
        ]
        rooted = [case for case in near if case.all(*_ROOTS)] or near
        if rooted:
            return max(rooted, key=lambda case: (case.last, case.observations[0].order))
        stuck = [
            case
            for case in mine
            if case.all("task.raised", *_ROOTS) and _stood_still(context.window, case.last, outcome.ended)
        ]
        if stuck:
            return max(stuck, key=lambda case: (case.last, case.observations[0].order))
    if outcome.state == "unknown":
        return None
    killer = (
        processes.kernel_of(context.window, outcome.pid, outcome.ended, name=f"driver {outcome.pid}")
        if outcome.pid
        else []
    )
    own = Case()
    for told in [*killer, _ending(outcome)]:
        own.add(told)
    cases.append(own)
    return own


def _broken(cases: list[Case], outcome: Outcome) -> Case | None:
    """The GPU that failed under a driver's processes; whatever the driver says came of it."""
    for case in cases:
        near = case.onset <= outcome.ended + SECOND <= case.last + _WAKE
        suffered = case.all(gpus.ENDED, *_ROOTS) or outcome.pid in _holders(case)
        if near and suffered and case.all(*gpus.FAULTS):
            return case
    return None


def _stood_still(window: Window, since: int, until: int) -> bool:
    """Whether nothing moved between a failure and the end of its driver, long enough for the one to be why of the other."""
    return until - since >= _NEAR and not progress.progressed(window, since + 2 * SECOND, until - SECOND)


def _crashed(
    cases: list[Case], mine: list[Case], named: list[Case], outcome: Outcome, context: Context
) -> Case | None:
    """The death that a bare ``WorkerCrashedError`` means: it names nobody."""
    deaths_seen = [
        case
        for case in mine
        if case not in named
        and case.all("worker.died", "task.lost_worker", "worker.out_of_memory")
        and case.onset <= outcome.ended + SECOND
    ]
    target = max(deaths_seen, key=lambda case: (case.last, case.observations[0].order), default=None)
    if target is None and named:
        found = suspect(context.window, context.roster, outcome)
        if found is not None:
            named[0].add(found)
        return named[0]
    if target is not None:
        for case in named:
            target.absorb(case)
            cases.remove(case)
    return target


def _ending(outcome: Outcome) -> Observation:
    said = f"raises {outcome.own.type}" if outcome.own is not None else outcome.how
    return Observation(
        kind="driver.failed",
        entity=f"job/{outcome.job}" if outcome.job else f"process/{outcome.pid}",
        name=f"driver {outcome.name}"
        if not outcome.name.startswith(("driver", "the driver"))
        else outcome.name,
        ts=outcome.ended,
        statement=said,
        source="driver_exceptions" if outcome.own is not None else "process_exits",
        links=frozenset({f"driver/{outcome.job or outcome.pid}"}),
        facts={"job": outcome.job, "pid": outcome.pid, "signal": outcome.signal},
        evidence=outcome.evidence,
    )


def _stalled(window: Window, roster: Roster, cases: list[Case], outcomes: list[Outcome]) -> bool:
    """Whether nothing has moved for a while and nothing works; asked only where an exception might be the reason."""
    if not any(case.all("task.raised", "task.lost_object") for case in cases):
        return False
    if progress.progressed(window, window.at - _STILL) or progress.running(window, roster):
        return False
    drivers = [outcome.pid for outcome in outcomes if outcome.state == "running"]
    return not progress.computes(window, drivers, window.at - _STILL)


def _lives(outcome: Outcome | None) -> bool:
    """Whether a driver waits, or did until somebody stopped it; after any other end it is clear that nothing moves."""
    return outcome is None or outcome.state in ("running", "interrupted")


def _compete(case: Case, context: Context) -> Explanation | None:
    kinds = {one.kind for one in case.observations}
    claims = []
    for cause in CAUSES:
        if kinds & cause.contradicted or not kinds & cause.explains:
            continue
        claim = cause.claim(case, context)
        if claim is not None:
            claims.append((cause, claim))
    if not claims:
        return None
    claims.sort(key=lambda item: (-item[1].score, item[0].rank, item[0].id))
    cause, claim = claims[0]
    return Explanation(case, cause, claim, context, tuple(claims[1:]))


def _once(found: list[Explanation]) -> list[Explanation]:
    """One explanation for a fault that repeats: the same cause of the same function in one job."""
    kept: dict[tuple[str, str, str], Explanation] = {}
    for one in found:
        key = (one.cause.id, one.claim.key, one.case.job)
        known = kept.get(key)
        if known is None:
            kept[key] = one
            continue
        known.case.absorb(one.case)
        context = known.context if known.context.failed is not None else one.context
        again = one.cause.claim(known.case, context) or known.claim
        again.ripe = again.ripe or known.claim.ripe or one.claim.ripe
        again.healed = known.claim.healed and one.claim.healed
        kept[key] = Explanation(known.case, known.cause, again, context, known.rivals)
    return list(kept.values())
