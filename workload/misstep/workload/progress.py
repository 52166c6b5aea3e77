"""Where this process stands in its training; the hook in the process reads it from another thread."""

from __future__ import annotations

import time
from numbers import Real
from typing import Any

from misstep.workload.telemetry import Telemetry

_NAMES = 32
"""Different phases that are told apart; what comes after them is ``other``."""


class Progress:
    """One process's step and phase. Told from the thread that trains, read from any.

    Attributes:
        step: number of the step at work or ended last; -1 before the first.
        phase: empty between phases.
        tokens: of all steps so far.
        loss: the last that was told.
        spent: seconds in each phase, those that are over.
    """

    def __init__(self) -> None:
        self.step = -1
        self.phase = ""
        self.tokens = 0
        self.loss: float | None = None
        self.spent: dict[str, float] = {}
        self._since = time.monotonic()
        self._telemetry: Telemetry | None = None
        self._connected = False

    def begin(self, number: int | None = None) -> None:
        """A step begins; without a number it is the next one."""
        self.step = self.step + 1 if number is None else number
        telemetry = self._connect()
        if telemetry is not None:
            telemetry.begin(self.step)

    def add(self, tokens: int = 0, loss: object = None) -> None:
        """What the step brought. A loss that lies on a GPU is left alone: to read it would halt the GPU."""
        self.tokens += tokens
        held = _number(loss)
        if held is not None:
            self.loss = held

    def end(self) -> None:
        """The step is over."""
        if self._telemetry is not None:
            self._telemetry.end(self.tokens, self.loss)

    def enter(self, phase: str) -> str:
        """Go over to a phase, empty for none; returns the one before."""
        before, now = self.phase, time.monotonic()
        if phase not in self.spent and phase and len(self.spent) >= _NAMES:
            phase = "other"
        if before:
            self.spent[before] = self.spent.get(before, 0.0) + now - self._since
        self.phase, self._since = phase, now
        telemetry = self._connect()
        if telemetry is not None:
            telemetry.turn(phase)
        return before

    def standing(self) -> dict[str, Any]:
        """What the hook tells: step, phase and for how many seconds, tokens, loss and seconds by phase."""
        return {
            "step": self.step, "phase": self.phase, "for_s": round(time.monotonic() - self._since, 3),
            "tokens": self.tokens, "loss": self.loss, "spent": dict(self.spent),
        }  # fmt: skip

    def _connect(self) -> Telemetry | None:
        if not self._connected:
            self._connected = True
            self._telemetry = Telemetry.find(self)
        return self._telemetry


def _number(value: object) -> float | None:
    """A plain number, or a tensor of one element in the memory of the host; anything else is None."""
    if isinstance(value, Real):
        return float(value)
    kind = type(value)
    if kind.__module__ == "torch" and kind.__name__ == "Tensor":  # no DTensor: to read one takes a collective
        tensor: Any = value
        if tensor.device.type == "cpu" and tensor.numel() == 1:
            return float(tensor.item())
    return None


CURRENT = Progress()
"""Of this process; `misstep.agent.hook` finds it here by name."""
