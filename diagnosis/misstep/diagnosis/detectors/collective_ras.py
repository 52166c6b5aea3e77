"""What NCCL's RAS says of a job's communicators: said beside a fault that something else has shown, never a fault by itself.

Its counts are launches, and differ between two ranks of a healthy job; only where they are the same in two answers one
after the other do they say who is behind. Ranks are those of the communicator, except where a process is known by its pid.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from misstep.core import names, stacks
from misstep.diagnosis.observation import Observation, of_rows
from misstep.diagnosis.window import Window
from misstep.store.rows import LogRow

KIND = "ranks.ras"
_SHOWN = 4
"""Communicators that are told of."""


def observe(window: Window, links: frozenset[str], since: int, pids: Mapping[int, int]) -> list[Observation]:
    """At most one observation for each communicator, of the first answer since a moment that says something.

    Args:
        pids: numbers of the job's ranks by their process.
    """
    held: dict[str, list[LogRow]] = {}
    for row in window.rows("nccl.communicator", since=since):
        held.setdefault(row.attributes.get(names.COMMUNICATOR, ""), []).append(row)
    found = [one for _, rows in sorted(held.items()) if (one := _observed(rows, links, pids)) is not None]
    return found[:_SHOWN]


def _observed(rows: list[LogRow], links: frozenset[str], pids: Mapping[int, int]) -> Observation | None:
    first = next((row for row in rows if row.state in ("missing", "error")), None)
    if first is None:
        first = next((two for one, two in pairwise(rows) if two.state == "unequal" and one.body == two.body), None)  # fmt: skip
    said = _said(first, pids) if first is not None else ""
    if first is None or not said:
        return None
    held = first.attributes
    statement = f"{said} (communicator {held.get(names.COMMUNICATOR, '?')} of {held.get(names.WORLD_SIZE, '?')} ranks)"
    return Observation(
        kind=KIND, entity=first.entity, name="NCCL", ts=first.ts, statement=statement, source="nccl_ras", links=links,
        evidence=of_rows([first]),
    )  # fmt: skip


def _said(row: LogRow, pids: Mapping[int, int]) -> str:
    try:
        body: dict[str, Any] = json.loads(row.body)
        return _SAID[row.state](body, pids) or f"hears from {row.attributes.get(names.NCCL_PRESENT, '?')} ranks only"  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError):
        return ""  # another agent's, or a damaged one's


def _missing(body: dict[str, Any], pids: Mapping[int, int]) -> str:
    ranks = {pids.get(one["pid"], one["rank"]) for one in body["missing"]}
    return f"hears nothing from {stacks.called(ranks)}" if ranks else ""


def _error(body: dict[str, Any], pids: Mapping[int, int]) -> str:
    return "says of " + "; of ".join(f"rank {rank}: {what}" for rank, what in sorted(body["wrong"].items())[:_SHOWN])  # fmt: skip


def _unequal(body: dict[str, Any], pids: Mapping[int, int]) -> str:
    told = []
    for operation, by in sorted(body["counts"].items()):
        ordered = sorted(by.items(), key=lambda one: int(one[0]))
        if len(ordered) > 1:
            told.append(f"{operation} launched " + ", ".join(f"{times} times by {_ranks(ranks)}" for times, ranks in ordered))  # fmt: skip
    return "counts " + "; ".join(told[:_SHOWN])


def _ranks(numbers: str) -> str:
    return f"rank {numbers}" if numbers.isdecimal() else f"ranks {numbers}"


_SAID = {"missing": _missing, "error": _error, "unequal": _unequal}
