"""Training jobs: the rank that the others wait for, and the rank that died first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from misstep.core import stacks
from misstep.diagnosis.case import Case
from misstep.diagnosis.catalogue import Blamed, Claim
from misstep.diagnosis.context import Context
from misstep.diagnosis.detectors.processes import CRASHES
from misstep.diagnosis.neighbours import MEETING
from misstep.diagnosis.observation import Observation
from misstep.diagnosis.window import SECOND

_PATIENCE = 5 * SECOND
"""A rank that sleeps at one line while the others wait: so long, or so many of the job's usual pauses."""
_PAUSES = 5
_HELD, _LONGER = 9 * SECOND, 18
"""The same for one that works in one function, where the job's pauses were so many times shorter; else, and for one that moves from function to function:"""
_BUSY = 30 * SECOND
_SLOW = 120 * SECOND
"""The same in code that is known to take its time: checkpoints, evaluation, compilation, downloads."""
_CERTAIN = 3 * SECOND
_BARRIER, _IDLE = 15 * SECOND, 7 * SECOND
"""The least that is waited in a barrier, which stands in the code because one rank has work of its own; and the same for a rank that does none: it sleeps at one line and its process uses no CPU."""
_SETTLED = 20
"""Collectives of a rank before which a job is still being set up: one rank unpacks data or asks for it, and may sleep over that."""
_MEANING = {
    "SIGSEGV": "an invalid memory access", "SIGBUS": "a bus error, often a full /dev/shm", "SIGABRT": "an abort, as failed checks in native code make it",
    "SIGILL": "an illegal instruction, often a wheel built for another CPU", "SIGFPE": "an arithmetic fault in native code",
}  # fmt: skip


_ABORT = "compare what it brought to its last collective with the others': Gloo aborts a rank whose tensor is smaller"


def either(*claims: Callable[[Case, Context], Claim | None]) -> Callable[[Case, Context], Claim | None]:
    """The first claim that can be made: one cause befalls Ray's tasks and torch's ranks alike, each told in its own words."""

    def claim(case: Case, ctx: Context) -> Claim | None:
        return next((made for one in claims if (made := one(case, ctx)) is not None), None)

    return claim


# -- a job that stands still ---------------------------------------------------------------------------
def stuck(case: Case, ctx: Context) -> Claim | None:
    """A rank stands elsewhere in its code and does not come to the collective that the others wait in."""
    told = case.first("rank.missing")
    if told is None:
        return None
    facts = told.facts
    at = str(facts["standing"])
    limit, patience = _patience(facts)
    if facts["ended"] and facts["ended"] - facts["since"] < limit:
        return None
    does = "computes" if facts["busy"] else "stands still"
    where = f"it {does} in {at}" if at else "where it stands could not be read"
    function = facts["function"] or "its code"
    return Claim(
        blamed=_blame(case, "rank.missing", place=facts["place"], path=facts.get("path", "")),
        title=(f"{_guilty(case, 'rank.missing')} never came to {facts['call']}" if facts["paired"] else f"{_guilty(case, 'rank.missing')} keeps the others waiting in {facts['call']}")
        + (f": stuck in {facts['function']} ({facts['place']})" if facts["place"] else ""),
        sentence=f"{_others(facts)} {facts['call']}; {told.name} ({facts['where']}) {'has not called it' if facts['paired'] else 'makes no such call'}: {where}.",
        action=[
            f"look at {facts['path']}: what {function} waits for (a file, a queue, a lock, the network, a worker of the data loader) does not come"
            if facts["place"] and not facts["busy"]
            else f"look at {facts['path']}: it may be an endless loop, or work that only this rank has"
            if facts["place"]
            else f"see where it stands: misstep stacks {ctx.window.session}",
        ],
        score=0.95 if facts["steady"] else 0.75,
        decisive=tuple(case.all("rank.missing")),
        key=told.name,
        ripe=facts["over"] or ctx.at - int(facts["since"]) >= limit,
        until=int(facts["since"]) + limit,
        patience=patience,
        impact=_impact(facts),
        more=(f"misstep stacks {ctx.window.session}",),
    )  # fmt: skip


def _patience(facts: Any) -> tuple[int, str]:
    """Nanoseconds for which a rank may keep the others waiting before it is called stuck, and why."""
    reasons = [(_PATIENCE, "so long a step may take")]
    if not facts["steady"] and not facts["held"]:
        reasons.append((_BUSY, "it is not sure that it stands still"))
    elif facts["busy"] or not facts["steady"]:
        usual = _LONGER * int(facts["pause"]) <= _HELD
        reasons.append((_HELD if usual else _BUSY, "it works, if in one function"))
    still = facts["steady"] and not facts["busy"] and not facts["computes"]
    if "barrier" in str(facts["call"]):
        idle = still and facts["made"] >= _SETTLED
        reasons.append((_IDLE if idle else _BARRIER, "a barrier stands where one rank has work of its own"))
    if facts["call"] == MEETING:
        reasons.append((_IDLE if still else _BARRIER, "not all ranks start at one time"))
    elif not facts["paired"]:
        reasons.append((_IDLE if still else _BUSY, "how long a stage of a pipeline takes is not recorded"))
    if facts["delegates"]:
        reasons.append((_BUSY, "it waits for a program that it has started"))
    if facts["slow"]:
        idle = still and facts["asleep"]
        reasons.append(
            (_BUSY if idle else _SLOW, "saving, evaluating, compiling and loading take their time")
        )
    reasons.append((_PAUSES * int(facts["pause"]), "the job has made long pauses before"))
    return max(reasons, key=lambda one: one[0])


def frozen(case: Case, ctx: Context) -> Claim | None:
    """A signal stopped a rank's process."""
    told = case.first("rank.frozen")
    if told is None:
        return None
    facts = told.facts
    return Claim(
        blamed=_blame(case, "rank.frozen", state="T"),
        title=f"{_guilty(case, 'rank.frozen')} is stopped (SIGSTOP) while the others wait in {facts['call']}",
        sentence=f"{_others(facts)} {facts['call']}; the process of {told.name} ({facts['where']}) is stopped by a signal and runs no instruction.",
        action=[
            f"let it go on: kill -CONT {facts['pid']}",
            "find who stopped it: a debugger, a batch system that suspends jobs, Ctrl-Z, a checkpoint tool",
        ],
        score=0.97,
        decisive=tuple(case.all("rank.frozen")),
        key=told.name,
        ripe=ctx.at - int(facts["since"]) >= max(_CERTAIN, 2 * int(facts["pause"])),
        impact=_impact(facts),
    )  # fmt: skip


def skipped(case: Case, ctx: Context) -> Claim | None:
    """A rank went past a collective that the others are in; it will never come."""
    told = case.first("rank.skipped", "rank.left")
    if told is None:
        return None
    facts = told.facts
    left = told.kind == "rank.left"
    instead = facts["instead"]
    does = (
        "has ended with status 0" if left
        else f"went on to {instead.name} #{instead.sequence} of {facts['instead_group']} and waits there in turn" if instead is not None
        else "went on to another call"
    )  # fmt: skip
    at = f" ({facts['standing']})" if facts["standing"] else ""
    return Claim(
        blamed=_blame(case, told.kind, place=facts["place"], call=facts["call"]),
        title=f"{_guilty(case, told.kind)} left out {facts['call']}",
        sentence=f"{_others(facts)} {facts['call']}; {told.name} ({facts['where']}) never called it and {does}{at}. Neither can get on.",
        action=[
            f"look for a condition around {facts['call'].partition(' ')[0]} that is false on {told.name} alone: `if rank …`, a `continue` or `return` in the loop, a shorter data set",
            "every rank of a group has to make the same calls in the same order",
        ],
        score=0.95,
        decisive=tuple(case.all(told.kind)),
        key=told.name,
        ripe=ctx.at - int(facts["since"]) >= _CERTAIN,
        impact=_impact(facts),
    )  # fmt: skip


def mismatch(case: Case, ctx: Context) -> Claim | None:
    """Ranks made different calls at the same place."""
    told = case.first("rank.mismatch")
    if told is None:
        return None
    facts = told.facts
    instead, expected = facts["instead"], facts["expected"]
    place = facts["call"].partition(" ")[2]
    if not facts["paired"]:
        title = f"{_guilty(case, 'rank.mismatch')} wait in {facts['call']}, each for another"
        sentence = f"{title[:1].upper()}{title[1:]}: nobody makes the call that would meet one of them."
    elif instead is None:
        does = (
            "are in {}, which all have made, and do"
            if len(facts["guilty"]) > 1
            else "is in {}, which all have made, and does"
        )
        title = f"{_guilty(case, 'rank.mismatch')} {does.format(facts['call'])} not get out of it"
        sentence = f"{title[:1].upper()}{title[1:]}. All ranks have called it alike as far as torch records it: either they name different roots, or what is sent does not arrive."
    elif facts["tied"]:
        sentence = (
            f"The ranks disagree about {place}, and nothing tells which of them is right: {told.statement}."
        )
        title = f"ranks disagree about collective {place}"
    else:
        what, others = _difference(instead, expected)
        sentence = (
            f"At {place}, {told.name} ({facts['where']}) called {what} where the others called {others}"
        )
        sentence += (
            ": it left a call out, or makes its calls in another order."
            if instead.name != expected.name
            else "."
        )
        title = f"{_guilty(case, 'rank.mismatch')} called {what} where the others called {others}"
    sentence += (
        "" if facts["waiting"] or instead is None else " The job runs on, with a result that is wrong."
    )
    return Claim(
        blamed=_blame(case, "rank.mismatch", place=facts["place"], call=facts["call"]),
        title=title,
        sentence=sentence,
        action=[
            "compare the root, source and destination that each rank names, then the network between their machines: misstep query 'rate(system_network_errors_total[5m])'"
            if instead is None and facts["paired"] else
            "look for a branch that depends on the rank, on the data or on an unordered set, and changes which collectives are called, or with what size",
            f"see where each rank stands: misstep stacks {ctx.window.session}",
        ],
        score=0.6 if facts["tied"] else 0.95,
        decisive=tuple(case.all("rank.mismatch")),
        key=told.name,
        ripe=ctx.at - int(facts["since"]) >= (_CERTAIN if facts["paired"] else _IDLE),
        impact="the job stands still" if instead is None else _impact(facts) if facts["waiting"] else "the job runs on, with a result that is wrong",
        lasting=not facts["waiting"] and instead is not None,
    )  # fmt: skip


def _difference(instead: Any, expected: Any) -> tuple[str, str]:
    if instead.name != expected.name:
        return instead.name, expected.name
    if instead.sizes != expected.sizes:
        return f"{instead.name} of {instead.sizes}", f"one of {expected.sizes}"
    return f"{instead.name} of {instead.dtypes}", f"one of {expected.dtypes}"


# -- ranks that died -------------------------------------------------------------------------------------
def raised(case: Case, ctx: Context) -> Claim | None:
    """A rank raised an exception; the others then lose their connections."""
    told = case.first("rank.raised")
    if told is None:
        return None
    facts = told.facts
    at = f" at {facts['path']}, in {facts['function']}" if facts["place"] else ""
    # All that was seen are ranks that lost another: that one ended before it could be watched.
    lost = (
        " It lost its connection to a rank whose own end was not seen; look there first."
        if facts["lost"]
        else ""
    )
    return Claim(
        blamed=_blame(case, "rank.raised", type=facts["type"], message=facts["message"], place=facts["place"]),
        title=f"{told.name} raised {facts['type']}" + (f" at {facts['place']}" if facts["place"] else ""),
        sentence=f"{told.name.capitalize()} ({facts['where']}) raised {facts['type']}: {facts['message']}{at}.{lost}{_rest(case)}",
        action=[f"{facts['path']}: mend what raises {facts['type']} there" if facts["place"] else f"mend what raises {facts['type']}"],
        score=0.4 if facts["lost"] else 0.9,
        decisive=(told,),
        key=f"{facts['place']}/{facts['type']}",
        impact="the job failed",
    )  # fmt: skip


def crashed(case: Case, ctx: Context) -> Claim | None:
    """A rank died of a fault in native code."""
    told = case.first("rank.ended")
    if told is None or told.facts["signal"] not in CRASHES:
        return None
    signal = str(told.facts["signal"])
    return _death(
        case, told, f"{told.name} crashed ({signal})",
        f"died of {signal}, {_MEANING.get(signal, 'a fatal fault in native code')}",
        [
            *([_ABORT] if signal == "SIGABRT" else []),
            "run it again with PYTHONFAULTHANDLER=1: stderr of that rank then ends with the Python line it died at", "check that torch, its CUDA libraries and your own extensions fit together",
        ],
        0.93,
    )  # fmt: skip


def out_of_memory(case: Case, ctx: Context) -> Claim | None:
    """The kernel killed a rank for want of memory."""
    told, line = case.first("rank.ended"), case.first("kernel.oom_kill")
    if told is None or line is None or line.name != told.name:
        return None
    claim = _death(
        case, told, f"{told.name} was killed by the kernel for want of memory",
        "was killed by the kernel: its memory, or that of its cgroup, had run out",
        ["give its container more memory, or let it use less: fewer data loader workers, less prefetching, smaller caches", "see how its memory grew: misstep query"],
        0.98,
    )  # fmt: skip
    claim.decisive = (line, told)
    return claim


def killed(case: Case, ctx: Context) -> Claim | None:
    """A signal from outside ended a rank."""
    told = case.first("rank.ended")
    if told is None or not told.facts["signal"] or told.facts["signal"] in CRASHES:
        return None
    signal = str(told.facts["signal"])
    return _death(
        case, told, f"{told.name} was killed ({signal})", f"was killed from outside by {signal}: neither its launcher nor its own code asked for it",
        [f"find who sent {signal} to pid {told.facts['pid']}: a supervisor, a cgroup or container limit, a person, a cleanup script"],
        0.85,
    )  # fmt: skip


def left(case: Case, ctx: Context) -> Claim | None:
    """A rank left with a bad status and raised nothing."""
    told = case.first("rank.ended")
    if told is None or told.facts["signal"] or told.facts["code"] is None:
        return None
    code = told.facts["code"]
    return _death(
        case, told, f"{told.name} left with exit code {code}", f"ended its own process with exit code {code} and raised nothing",
        [f"look for sys.exit({code}) or os._exit({code}) in its code and in the libraries that it calls"],
        0.85,
    )  # fmt: skip


def _death(case: Case, told: Observation, title: str, how: str, action: list[str], score: float) -> Claim:
    facts = told.facts
    return Claim(
        blamed=_blame(case, "rank.ended", signal=facts["signal"], exit_code=facts["code"]),
        title=title,
        sentence=f"{told.name.capitalize()} ({facts['where']}) {how}.{_rest(case)}",
        action=action, score=score, decisive=(told,), key=told.name, impact="the job failed",
    )  # fmt: skip


# -- words -----------------------------------------------------------------------------------------------
def _blame(case: Case, kind: str, **attributes: Any) -> list[Blamed]:
    """The ranks first, then the first one's process."""
    told = {key: value for key, value in attributes.items() if value not in (None, "", 0)}
    found = [
        Blamed("rank", one.entity.partition("/")[2], str(one.facts["rank"]), {"pid": one.facts["pid"], "host": one.facts["host"]} | told)
        for one in case.all(kind)
    ]  # fmt: skip
    first = case.all(kind)[0]
    process = str(first.facts["process"]).partition("/")[2]
    return [*found, Blamed("process", process or str(first.facts["pid"]), f"pid {first.facts['pid']}", {"pid": first.facts["pid"]})]  # fmt: skip


def _guilty(case: Case, kind: str) -> str:
    return stacks.called(int(one.facts["rank"]) for one in case.all(kind))


def _others(facts: Any) -> str:
    waiting = facts["waiting"]
    who = stacks.called(waiting)
    return f"{who[:1].upper()}{who[1:]} {'wait' if len(waiting) != 1 else 'waits'} in"


def _impact(facts: Any) -> str:
    number = len(facts["waiting"])
    return f"{number} rank{'s' if number != 1 else ''} wait{'' if number != 1 else 's'}, and the job stands still"


def _rest(case: Case) -> str:
    number = len(case.all("rank.follows"))
    if not number:
        return ""
    return (
        f" The other {number} ranks ended because of it."
        if number > 1
        else " The other rank ended because of it."
    )
