"""What torch's Flight Recorder holds, from its JSON. Formats 2.x, of Gloo and NCCL, as of torch 2.13.

A Gloo entry never leaves ``scheduled``: that it is over shows in ``retired``. An NCCL entry that is retired without
having completed has failed or timed out. `pg_id` counts a process's own groups and means nothing elsewhere, so
groups go by name. Whatever is missing or of another type is left out, never guessed.

Two threads end Gloo's calls, and the last that writes into ``pg_status`` wins: on a busy machine it tells for as long as
the rank makes no other call that the one before was the last to end. Entries tell each their own end. It also counts
sends and receives, of which Gloo keeps no entries: only entries tell how many collectives a rank has begun.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

NEWEST = 200
"""Entries that are decoded of a ring of 2,000 or more: 1 ms where all of it would take ten."""
_VERSION, _NCCL = "2", "nccl:"
_HEAD, _ENTRY = b'"entries":[', b'{"collective_seq_id":'
_STATES = frozenset(("scheduled", "started", "completed"))


class Collective(NamedTuple):
    """One call of a collective.

    Attributes:
        record: its number in the ring of this process; no other process counts alike.
        sequence: its number in its group, the same on every rank that calls alike.
        sizes: shapes of the inputs, as JSON.
        state: ``scheduled``, ``started``, ``completed`` or ``failed``.
        created: when the rank called it, Unix nanoseconds by its host's clock.
    """

    record: int
    group: str
    label: str
    sequence: int
    operation: str
    sizes: str
    dtypes: str
    state: str
    created: int

    @property
    def open(self) -> bool:
        """Whether the rank is still in it."""
        return self.state in ("scheduled", "started")


class Position(NamedTuple):
    """How many collectives of a group a rank has begun, and how many came to their end; -1 where it does not say."""

    enqueued: int
    completed: int


class Trace(NamedTuple):
    """A reading.

    Attributes:
        collectives: the newest of each group, oldest first.
        positions: by `pg_id`.
        names: group name by `pg_id`, as far as the entries tell.
        mixed: `pg_id` of the groups whose status counts more than collectives.
        unknown: versions that this was not written for; their entries were left out.
    """

    collectives: list[Collective]
    positions: dict[str, Position]
    names: dict[str, str]
    mixed: frozenset[str] = frozenset()
    unknown: tuple[str, ...] = ()

    def by_group(self) -> dict[str, Position]:
        """Positions by the group's name, those whose name is not known left out."""
        return {self.names[id]: held for id, held in self.positions.items() if id in self.names}


def read(texts: Iterable[bytes], newest: int = NEWEST) -> Trace:
    """Read the answers of one process's recorders (NCCL's and everything else's) as one.

    Raises:
        ValueError: one of them is not JSON.
    """
    collectives: list[Collective] = []
    positions: dict[str, Position] = {}
    names: dict[str, str] = {}
    mixed: set[str] = set()
    unknown: list[str] = []
    for text in texts:
        held = _decode(text, newest)
        version = str(held.get("version", ""))
        if version.partition(".")[0] != _VERSION:
            unknown.append(version or "none")
            continue
        positions |= _positions(held.get("pg_status"))
        calls: dict[str, list[Collective]] = {}
        for entry in _dicts(held.get("entries")):
            one = _collective(entry)
            if one is not None:
                calls.setdefault(str(entry.get("pg_id")), []).append(one)
        for id, mine in calls.items():
            collectives += mine
            names[id] = mine[-1].group
            if id in positions and not mine[-1].operation.startswith(_NCCL):
                begun = max(one.sequence for one in mine)
                if positions[id].enqueued > begun + 1:  # by one it may be ahead of the entry
                    mixed.add(id)
                positions[id] = Position(begun, _ended(mine))
    collectives.sort(key=lambda one: (one.created, one.record))
    return Trace(collectives, positions, names, frozenset(mixed), tuple(unknown))


def status(body: bytes) -> tuple[dict[str, Position], bool]:
    """Positions from the short answer of the hook, and whether a recorder is on at all.

    Raises:
        ValueError: it is not what the hook says.
    """
    held = json.loads(body)
    positions: dict[str, Position] = {}
    for one in _dicts(held):
        positions |= _positions(one.get("pg_status"))
    return positions, bool(held)


def _decode(text: bytes, newest: int) -> dict[str, Any]:
    """The JSON, of its entries only the newest; the whole of it where it is not laid out as we know it."""
    head = text.find(_HEAD)
    if head >= 0:
        at = len(text)
        for _ in range(newest):
            found = text.rfind(_ENTRY, head, at)
            if found < 0:
                break
            at = found
        else:
            try:
                return dict(json.loads(text[: head + len(_HEAD)] + text[at:]))
            except ValueError:
                pass  # an entry held the mark of another's beginning
    held = json.loads(text)
    if not isinstance(held, dict):
        raise ValueError("a flight record is an object")  # noqa: TRY004  it came as text
    entries = held.get("entries")
    if isinstance(entries, list):
        held["entries"] = entries[-newest:]
    return held


def _collective(entry: Mapping[str, Any]) -> Collective | None:
    group, operation = entry.get("process_group"), entry.get("profiling_name")
    sequence, created = entry.get("collective_seq_id"), entry.get("time_created_ns")
    if entry.get("is_p2p") or not isinstance(operation, str):
        return None  # a send is matched with its receive, not with a place in the group
    if (
        not isinstance(group, list)
        or not group
        or not isinstance(sequence, int)
        or not isinstance(created, int)
    ):
        return None
    record = entry.get("record_id")
    return Collective(
        record=record if isinstance(record, int) else -1,
        group=str(group[0]),
        label=str(group[1]) if len(group) > 1 else "",
        sequence=sequence,
        operation=operation[:100],
        sizes=json.dumps(entry.get("input_sizes"), separators=(",", ":"))[:400],
        dtypes=json.dumps(entry.get("input_dtypes"), separators=(",", ":"))[:200],
        state=_state(entry, operation),
        created=created,
    )


def _state(entry: Mapping[str, Any], operation: str) -> str:
    state, retired = str(entry.get("state", "")), bool(entry.get("retired"))
    if retired and state != "completed":
        return "failed" if operation.startswith(_NCCL) else "completed"
    return state if state in _STATES else "scheduled"


def _positions(held: object) -> dict[str, Position]:
    if not isinstance(held, dict):
        return {}
    return {
        str(id): Position(_number(one.get("last_enqueued_collective")), _number(one.get("last_completed_collective")))
        for id, one in held.items()
        if isinstance(one, dict)
    }  # fmt: skip


def _ended(calls: list[Collective]) -> int:
    """Up to which of a group's calls all came to their end, by the entries of the newest."""
    return min((one.sequence - 1 for one in calls if one.open), default=max(one.sequence for one in calls))


def _number(value: object) -> int:
    """Integers are strings in this JSON, and were integers in older ones."""
    try:
        return int(value)  # type: ignore[call-overload, no-any-return]
    except (TypeError, ValueError):
        return -1


def _dicts(held: object) -> list[dict[str, Any]]:
    return [one for one in held if isinstance(one, dict)] if isinstance(held, list) else []
