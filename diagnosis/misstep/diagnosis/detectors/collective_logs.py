"""What log files say of a training job's ranks: said beside a fault that something else has shown, never a fault by itself.

A watchdog gives up minutes after the fault, and on the ranks that wait: the line is a consequence.
"""

from __future__ import annotations

from misstep.core import names, stacks
from misstep.diagnosis.observation import Observation, of_rows
from misstep.diagnosis.window import Window
from misstep.store.rows import LogRow

KIND = "ranks.log"
_STATES = ("watchdog_timeout", "gloo_timeout", "mismatch", "size_mismatch", "init_open")
_SHOWN = 8


def observe(window: Window, links: frozenset[str]) -> list[Observation]:
    """One observation for each kind of line, at the time of the first."""
    said: dict[str, list[LogRow]] = {}
    for row in window.rows("torch.log", states=_STATES):
        said.setdefault(row.state, []).append(row)
    return [_observation(state, rows, links) for state, rows in sorted(said.items())]


def _observation(state: str, rows: list[LogRow], links: frozenset[str]) -> Observation:
    first = rows[0]
    ranks = {int(rank) for row in rows if (rank := row.attributes.get(names.RANK, "")).isdecimal()}
    return Observation(
        kind=KIND, entity=first.entity, name=stacks.called(ranks) if ranks else "the job", ts=first.ts,
        statement=_statement(state, first, len(ranks) > 1), source="training_logs", links=links, evidence=of_rows(rows[:_SHOWN]),
    )  # fmt: skip


def _statement(state: str, row: LogRow, several: bool) -> str:
    held = row.attributes
    call = f"{held.get(names.OPERATION, 'collective')} #{held.get(names.SEQUENCE, '?')}"
    logs = "log" if several else "logs"
    if state == "watchdog_timeout":
        return f"{logs} that the watchdog gives up on {call} after {_seconds(held.get(names.WAITED, ''))}"
    if state == "gloo_timeout":
        return f"{logs} that Gloo waited {_seconds(held.get(names.TIMEOUT, ''))} in vain"
    if state == "mismatch":
        other = f"rank {held.get(names.OTHER_RANK, '?')} called {held.get(names.OTHER_OPERATION, 'another')}"
        return f"{logs} that it called {call} where {other}"
    if state == "size_mismatch":
        return f"{logs} that a message had another size than expected ({held.get(names.SIZES, '?')} bytes)"
    return f"{logs} the beginning of a communicator of {held.get(names.WORLD_SIZE, '?')} ranks and no end of it for 30 s"


def _seconds(milliseconds: str) -> str:
    return f"{int(milliseconds) / 1000:g} s" if milliseconds.isdecimal() else "a time"
