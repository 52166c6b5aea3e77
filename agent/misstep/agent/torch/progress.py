"""Step, phase, tokens and loss of a rank, as its script tells them with `misstep.workload`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from misstep.agent.otlp import Value
from misstep.agent.records import Records
from misstep.agent.series import Series, declared
from misstep.core import names

_MARK = b'{"workload":'
_NAME = 40
_PHASES = 33


class Told(NamedTuple):
    """What a rank told last.

    Attributes:
        step: -1 where it does not say.
        seconds: for how long it has been in the phase.
        spent: seconds by phase, those that are over.
    """

    step: int = -1
    phase: str = ""
    seconds: float = 0.0
    tokens: int = 0
    loss: float | None = None
    spent: Mapping[str, float] = {}

    def attributes(self) -> dict[str, Value]:
        """For an event of the rank; nothing where it tells nothing."""
        held: dict[str, Value] = {} if self.step < 0 else {names.STEP: self.step}
        return held | ({names.PHASE: self.phase, names.PHASE_SECONDS: self.seconds} if self.phase else {})


NOTHING = Told()


def part(body: bytes) -> tuple[bytes, Told]:
    """The hook's answer without what the script tells, and that."""
    at = body.rfind(_MARK)
    if at < 0:
        return body, NOTHING
    return body[:at].rstrip(b",") + b"]", _read(body[at:-1])


def _read(text: bytes) -> Told:
    """Whatever is missing or of another type is left out."""
    try:
        held: dict[str, Any] = json.loads(text)["workload"]
        spent = {
            str(name)[:_NAME]: float(seconds)
            for name, seconds in list(dict(held["spent"]).items())[:_PHASES]
            if seconds >= 0
        }
        loss = held.get("loss")
        return Told(
            int(held["step"]), str(held["phase"])[:_NAME], float(held["for_s"]), max(0, int(held["tokens"])),
            None if loss is None else float(loss), spent,
        )  # fmt: skip
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return NOTHING


class Points:
    """The series of one rank, made as it comes to tell of them."""

    def __init__(self, labels: Mapping[str, Value]) -> None:
        self._labels = dict(labels)
        self._series: dict[tuple[str, str], Series] = {}

    def add(self, told: Told, out: Records) -> None:
        """What it tells now."""
        if told.step >= 0:
            out.point(self._of("training.step"), told.step)
        if told.tokens:
            out.point(self._of("training.tokens"), told.tokens)
        if told.loss is not None:
            out.point(self._of("training.loss"), told.loss)
        for phase, seconds in told.spent.items():
            out.point(self._of("training.phase.time", phase), seconds)

    def _of(self, name: str, phase: str = "") -> Series:
        held = self._series.get((name, phase))
        if held is None:
            labels = {**self._labels, names.PHASE: phase} if phase else self._labels
            held = self._series[name, phase] = declared(name, labels)
        return held
