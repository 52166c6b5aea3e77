"""Training jobs: ranks that keep the others waiting, ranks that ended, and how the job as a whole stands."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from misstep.core import names, stacks
from misstep.diagnosis import neighbours, waits
from misstep.diagnosis.detectors import collective_logs, collective_ras, progress
from misstep.diagnosis.detectors.driver import Outcome
from misstep.diagnosis.detectors.processes import ending, exits, kernel_of, manner
from misstep.diagnosis.neighbours import MEETING
from misstep.diagnosis.observation import Evidence, Observation, of_rows
from misstep.diagnosis.team import Member, Team
from misstep.diagnosis.traceback import parse
from misstep.diagnosis.waits import Fault, Standing, Wait
from misstep.diagnosis.window import SECOND, Window
from misstep.store.rows import LogRow

LINK = "training"
_FATE = 2 * SECOND
_ENDLESS = 20 * SECOND
_SENDS = 0.02
"""Of a core: what a rank takes at least that sends or receives, even over a slow network."""
_CASCADE = re.compile(
    r"Connection (?:closed|reset) by (?:remote )?peer|Connection refused|Timed out waiting \d+ms for|Application timeout caused pair closure|"
    r"Read error \[|Write error \[|Socket closed|Broken pipe|remote process exited|NCCL error|DistBackendError|DistNetworkError|DistStoreError|"
    r"Watchdog caught collective operation timeout|Some other rank|gloo/transport"
)  # fmt: skip
"""What a rank raises because another one is gone or does not come."""
_ORDERED = ("SignalException", "KeyboardInterrupt")
_SLOW = re.compile(r"save|checkpoint|eval|valid|compil|warm_?up|download|serializ", re.IGNORECASE)
_SLOW_FILES = ("torch/serialization.py", "torch/distributed/checkpoint", "torch/_inductor", "torch/_dynamo", "safetensors", "huggingface_hub", "importlib._bootstrap")  # fmt: skip
_DELEGATED = ("subprocess.py", "torch/_inductor", "torch/_dynamo", "concurrent/futures", "multiprocessing/")
"""Who sleeps there waits for another process or thread that may well be at work."""


def observe(window: Window, team: Team) -> list[Observation]:
    """What is wrong with a job's ranks; nothing for a session without ranks."""
    if not team.members:
        return []
    outcome = of_launcher(window, team)
    stopped = outcome.ended if outcome is not None and outcome.state == "interrupted" else 0
    ends = [
        one for one in team.members.values() if one.end is not None and (one.failed or one.raised is not None)
    ]
    if stopped:
        ends = [one for one in ends if one.end is not None and one.end.ts < stopped - _FATE]
    first = min(map(_when, ends), default=0)
    found = _standing_still(window, team, first)
    late = {one.facts["rank"] for one in found if one.facts.get("ended")}
    found += _ended(team, ends, bool(found) and not late)
    found += [told for one in ends for told in _by_kernel(window, one)]
    return found + _beside(window, team, found) if found else []


def _beside(window: Window, team: Team, found: list[Observation]) -> list[Observation]:
    """What others say of it."""
    links, pids = frozenset({LINK}), {member.pid: number for number, member in team.members.items()}
    since = min(one.ts for one in found)
    return collective_logs.observe(window, links) + collective_ras.observe(window, links, since, pids)


def _by_kernel(window: Window, member: Member) -> list[Observation]:
    """What the kernel log says of a rank that was killed."""
    if member.end is None or ending(member.end)[0] != "SIGKILL":
        return []
    told = kernel_of(window, member.pid, member.end.ts, name=member.name)
    return [replace(one, links=frozenset({LINK})) for one in told]


def of_launcher(window: Window, team: Team) -> Outcome | None:
    """How the process that started the ranks stands; where it is not known, how the ranks ended together."""
    if not team.members:
        return None
    state, how, ended, signal, code = "running", "", 0, "", None
    rows = exits(window, team.launcher) if team.launcher else []
    for row in rows:
        ended, how = row.ts, manner(row)
        signal, code = ending(row)
        state = "ok" if code == 0 else "interrupted" if signal in ("SIGINT", "SIGTERM", "SIGHUP") or code == 130 else "failed"  # fmt: skip
    if not team.launcher and all(one.end is not None for one in team.members.values()):
        ended = max(one.end.ts for one in team.members.values() if one.end is not None)
        state = "failed" if any(one.failed for one in team.members.values()) else "ok"
        how = "all ranks have ended"
    for row in window.rows("process.exception", attributes={names.PID: str(team.launcher)}):
        if row.attributes.get(names.EXCEPTION_TYPE, "").rpartition(".")[2] in _ORDERED:
            state, ended = "interrupted", min(ended or row.ts, row.ts)
    command = next((row.attributes.get(names.COMMAND, "") for row in window.rows("session.start")), "")
    return Outcome(
        "", team.launcher, command, state, ended, how or "fails", signal, code, frozenset(), None, "", "", of_rows(rows), "",
    )  # fmt: skip


def moving(team: Team) -> bool:
    """Whether every rank that was read last moved then."""
    newest = [one.snapshots[-1] for one in team.members.values() if one.snapshots]
    return bool(newest) and all(one.state == "moving" for one in newest)


# -- standing still ------------------------------------------------------------------------------------
def _standing_still(window: Window, team: Team, first_end: int) -> list[Observation]:
    until = first_end - 1 if first_end else window.at
    ranks = {number: member.standing(until) for number, member in team.members.items()}
    fault = waits.find(ranks, team.groups) or neighbours.apart(
        team.members, frozenset().union(*team.groups.values()), until
    )
    fault = fault or _none_gets_out(window, team, ranks, until)
    if fault is not None and fault.kind == "missing" and fault.wait.sequence:
        # Of those who are not in the call some may wait for another rank in a call that is not recorded.
        fault = fault._replace(ranks=fault.ranks - neighbours.waiting(team.members, until) or fault.ranks)
    if fault is None:
        well = {n: m for n, m in team.members.items() if m.end is not None and not m.failed}
        if not well or len(well) == len(team.members):
            return []
        left = {n: m for n, m in well.items() if m.end is not None and m.end.ts <= until}
        ranks |= {number: member.standing(until, "left") for number, member in left.items()}
        fault = waits.find(ranks, team.groups)
        if fault is None or fault.kind != "left":
            fault = _left_early(team, well)
        if fault is None:
            return []
    pause = waits.pause(ranks, fault.wait.group, fault.wait.sequence)
    guilty = [team.members[number] for number in sorted(fault.ranks) if number in team.members]
    if not guilty or (
        first_end and first_end - fault.wait.since < 3 * SECOND and fault.kind not in ("mismatch", "left")
    ):
        return []  # they had no time to come before the end came
    found = [_waiting(team, fault.wait)] if fault.wait.inside - fault.ranks else []
    # Did one of them end by itself before anybody else did, or did the others give up on it?
    itself = any(member.failed and _when(member) == first_end and not _lost(member) for member in guilty)
    over = {"ended": first_end if itself else 0, "over": bool(first_end) and not itself}
    found += [_guilty(window, team, member, fault, pause, until, over) for member in guilty[:8]]
    shared = _stacks(team, fault.wait, until)
    return found + ([shared] if shared is not None else [])


def _none_gets_out(window: Window, team: Team, ranks: Mapping[int, Standing], until: int) -> Fault | None:
    """A call that all have made, alike, and that some do not get out of: everybody has slept for long and sends nothing."""
    held = waits.pending(ranks, team.groups)
    everybody = [team.members[one] for one in team.groups[held.group]] if held is not None else []
    if held is None or any(one.asleep(held.since, until) < _ENDLESS for one in everybody):
        return None
    since = max(held.since, until - _ENDLESS)
    if any(progress.computes(window, [one.pid], since, _SENDS) for one in everybody):
        return None
    return Fault("mismatch", held.inside, held, tied=True)


def _left_early(team: Team, left: Mapping[int, Member]) -> Fault | None:
    """Ranks that ended well before a call of the others, who have nothing to tell but lost connections."""
    others = {number: one for number, one in team.members.items() if number not in left}
    ends = [one for one in others.values() if one.failed]
    if not ends or any(not _is_cascade(one.raised) for one in ends if one.raised is not None):
        return None
    if all(one.raised is None for one in ends):
        return None
    for group, members in sorted(team.groups.items()):
        mine = max((one.begun(group) for number, one in left.items() if number in members), default=-1)
        inside = frozenset(number for number, one in others.items() if one.begun(group) > mine)
        if mine >= 0 and inside:
            sequence = max(others[number].begun(group) for number in inside)
            since = min(
                _when(one) for one in team.members.values() if one.end is not None or one.raised is not None
            )
            missing = frozenset(left) & members
            return Fault("left", missing, Wait(group, sequence, "collective", since, inside, missing))
    return None


def _waiting(team: Team, wait: Wait) -> Observation:
    inside = sorted(wait.inside)
    rows = [
        held[1] for number in inside if (held := team.members[number].calls.get((wait.group, wait.sequence)))
    ]
    first = team.members[inside[0]]
    return Observation(
        kind="ranks.wait", entity=first.entity, name=stacks.called(inside), ts=wait.since, source="torch_collectives",
        statement=f"{'wait' if len(inside) > 1 else 'waits'} in {call_name(team, wait)}",
        links=frozenset({LINK}), facts={"inside": tuple(inside)}, evidence=of_rows(rows),
    )  # fmt: skip


def call_name(team: Team, wait: Wait) -> str:
    """``all_reduce #10 of default_pg``."""
    return f"{wait.name} #{wait.sequence} of {team.group(wait.group)}" if wait.sequence else wait.name


def _guilty(
    window: Window, team: Team, member: Member, fault: Fault, pause: int, until: int, over: dict[str, Any]
) -> Observation:
    wait, held = fault.wait, member.at(until)
    facts: dict[str, Any] = {
        "rank": member.number, "pid": member.pid, "host": member.host, "process": member.process, "where": member.where,
        "call": call_name(team, wait), "paired": wait.sequence > 0 or wait.name == MEETING, "waiting": tuple(sorted(wait.inside - fault.ranks)), "since": wait.since, "pause": pause,
        "made": sum(held.begun.values()) if held is not None else 0, "computes": progress.computes(window, [member.pid], wait.since),
        "tied": fault.tied, "guilty": tuple(sorted(fault.ranks)),
        "instead": fault.instead, "instead_group": team.group(fault.instead.group) if fault.instead else "", "expected": fault.expected,
    }  # fmt: skip
    facts |= over | _place(member, wait, until)
    at = facts["standing"]
    statement = {
        "missing": f"is not in {facts['call']}" + (f": it stands in {at}" if at else ""),
        "frozen": "is stopped by a signal (process state T)",
        "left": f"has ended with status 0 and never called {facts['call']}",
        "dead": f"is gone and never called {facts['call']}",
        "skipped": f"never called {facts['call']}" + (f"; it is in {_named(fault.instead)} of {facts['instead_group']}" if fault.instead else ""),
        "mismatch": f"waits in {facts['call']}" if fault.instead is None else f"called {_told(fault, instead=True)} as #{wait.sequence} of {team.group(wait.group)}"
        + (f", the others {_told(fault, instead=False)}" if fault.expected else ""),
    }[fault.kind]  # fmt: skip
    return Observation(
        kind=f"rank.{fault.kind}", entity=member.entity, name=member.name, ts=wait.since, statement=statement,
        source="torch_collectives", links=frozenset({LINK, f"rank/{member.number}"}), facts=facts,
        evidence=_evidence(member, wait, until),
    )  # fmt: skip


def _named(call: waits.Call | None) -> str:
    return f"{call.name} #{call.sequence}" if call is not None else "another call"


def _told(fault: Fault, *, instead: bool) -> str:
    """What differs of two calls, and no more: their names, else their sizes, else their types."""
    call, other = (fault.instead, fault.expected) if instead else (fault.expected, fault.instead)
    if call is None:
        return "something else"
    if other is None or call.name != other.name:
        return call.name
    return f"{call.name} of {call.sizes}" if call.sizes != other.sizes else f"{call.name} of {call.dtypes}"


def _place(member: Member, wait: Wait, until: int) -> dict[str, Any]:
    """Where a rank stands in its code, and how surely it does not move there."""
    dumps = [one for one in member.stacks(wait.since, until) if one.frames]
    if not dumps:
        return {"standing": "", "steady": False, "held": False, "busy": False, "slow": False, "asleep": False, "delegates": False, "place": "", "function": ""}  # fmt: skip
    last = dumps[-1]
    own = next((frame for frame in reversed(last.frames) if frame.own), last.frames[-1])
    same = [one for one in dumps if one.frames[-1] == last.frames[-1] and own in one.frames]
    held = [one for one in dumps if any((f.function, f.file) == (own.function, own.file) for f in one.frames)]
    slow = any(_SLOW.search(frame.function) or any(part in frame.file for part in _SLOW_FILES) for frame in last.frames)  # fmt: skip
    return {
        "standing": stacks.standing(last.frames), "steady": len(same) > 1 and last.ts - same[0].ts >= 2 * SECOND,
        "held": len(held) > 1 and last.ts - held[0].ts >= 2 * SECOND, "busy": all(one.active for one in dumps[-2:]), "slow": slow,
        "delegates": last.frames[-1].file.endswith("/subprocess.py"), "asleep": member.asleep(wait.since, until) >= 2 * SECOND and not any(part in frame.file for frame in last.frames for part in _DELEGATED),
        "place": own.place, "path": f"{own.file}:{own.line}", "function": own.function,
    }  # fmt: skip


def _evidence(member: Member, wait: Wait, until: int) -> tuple[Evidence, ...]:
    rows = [one.row for one in member.snapshots if one.ts <= until][-1:]
    rows += [one.row for one in member.dumps if one.ts <= until][-1:]
    held = member.calls.get((wait.group, wait.sequence))
    return of_rows([*rows, *([held[1]] if held else [])])


def _stacks(team: Team, wait: Wait, until: int) -> Observation | None:
    dumps = team.dumps(wait.since, until)
    if not dumps:
        return None
    first = min(dumps)
    steps = stacks.steps({n: (one.row.attributes.get(names.STEP, ""), one.row.attributes.get(names.PHASE, "")) for n, one in dumps.items()})  # fmt: skip
    return Observation(
        kind="ranks.stand", entity=team.members[first].entity, name=stacks.called(dumps), ts=min(one.ts for one in dumps.values()),
        statement=f"stand: {stacks.summary({n: one.frames for n, one in dumps.items()})}" + (f"; {steps}" if steps else ""), source="torch_stacks",
        links=frozenset({LINK}), evidence=of_rows([one.row for one in dumps.values()]),
    )  # fmt: skip


# -- ended ---------------------------------------------------------------------------------------------
def _ended(team: Team, ends: list[Member], hung: bool) -> list[Observation]:
    """The rank that ended first by its own fault, and what followed from it."""
    ordered = sorted(ends, key=lambda one: (_when(one), one.number))
    roots = [one for one in ordered if not _follows(one, ordered)]
    lost = [one for one in ordered if _lost(one)]
    if ends and not roots and not hung:
        roots = _earlier(team)
        ordered += roots
    first = None if hung else next(iter(roots or lost), None)
    return [_end(member, root=member is first, lost=not roots) for member in ordered]


def _earlier(team: Team) -> list[Member]:
    """Who ended an earlier life by its own fault: what is left of it may keep the next one from beginning."""
    for life in reversed(team.past):
        ends = sorted((one for one in life.values() if one.failed or one.raised is not None), key=_when)
        roots = [one for one in ends if not _follows(one, ends)]
        if roots:
            return roots[:1]
    return []


def _when(member: Member) -> int:
    """When it was known to fail: its exception comes before its end."""
    held = [row.ts for row in (member.raised, member.end) if row is not None]
    return min(held)


def _follows(member: Member, ordered: list[Member]) -> bool:
    """Whether a rank's end is the consequence of another's."""
    signal, code = ending(member.end) if member.end is not None else ("", None)
    if member.raised is not None:
        if member.raised.attributes.get(names.EXCEPTION_TYPE, "").rpartition(".")[2] in _ORDERED:
            return True
        return len(ordered) > 1 and _is_cascade(member.raised)
    return (signal == "SIGTERM" and member is not ordered[0]) or (not signal and code is None)


def _lost(member: Member) -> bool:
    """Whether what it raised is the loss of another rank."""
    return member.raised is not None and _is_cascade(member.raised)


def _is_cascade(row: LogRow) -> bool:
    text = row.attributes.get(names.EXCEPTION_TYPE, "") + row.attributes.get(names.EXCEPTION_MESSAGE, "")
    return bool(_CASCADE.search(text))


def _end(member: Member, *, root: bool, lost: bool) -> Observation:
    signal, code = ending(member.end) if member.end is not None else ("", None)
    facts: dict[str, Any] = {
        "rank": member.number, "pid": member.pid, "host": member.host, "process": member.process, "where": member.where,
        "signal": signal, "code": code, "lost": lost,
    }  # fmt: skip
    rows = [row for row in (member.raised, member.end) if row is not None]
    kind, statement, source = "rank.ended", manner(rows[-1]), "process_exits"
    if member.raised is not None:
        chain = parse(member.raised.body)
        last = chain[-1] if chain else None
        frame = last.user_frame if last is not None else None
        facts |= {
            "type": member.raised.attributes.get(names.EXCEPTION_TYPE, ""),
            "message": member.raised.attributes.get(names.EXCEPTION_MESSAGE, "")[:300],
            "place": frame.place if frame else "", "path": frame.path if frame else "", "function": frame.function if frame else "",
        }  # fmt: skip
        told = " ".join(facts["message"].split())[:120]
        kind, statement, source = (
            "rank.raised",
            f"raises {facts['type']}: {told}".rstrip(": "),
            "driver_exceptions",
        )
    return Observation(
        kind=kind if root else "rank.follows", entity=member.entity, name=member.name, ts=_when(member), statement=statement,
        source=source, links=frozenset({LINK, f"rank/{member.number}"}), facts=facts, evidence=of_rows(rows),
    )  # fmt: skip
