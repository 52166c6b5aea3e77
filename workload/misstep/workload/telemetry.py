"""Steps and phases as spans and metrics of OpenTelemetry, by its API alone: without an SDK nothing comes of them.

Metrics are read when the SDK exports them, so a step costs its spans and no more. No span becomes the current one: what
is entered in one callback and left in another could not be unwound, and the API would complain on stderr.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from misstep.core import names

if TYPE_CHECKING:
    from misstep.workload.progress import Progress

_SCOPE = "misstep.workload"


class Telemetry:
    """Spans of the step and phase at work, and metrics of a process's progress."""

    def __init__(self, progress: Progress, trace: Any, metrics: Any) -> None:
        self._trace = trace
        self._tracer = trace.get_tracer(_SCOPE)
        self._step: Any = None
        self._phase: Any = None
        self._number = -1
        self._tokens = 0
        meter = metrics.get_meter(_SCOPE)
        for name, read in _READ.items():
            about = names.metric(name)
            create = (
                meter.create_observable_gauge if about.kind == "gauge" else meter.create_observable_counter
            )
            create(name, [_observer(metrics, progress, read)], unit=about.unit, description=about.meaning)

    @classmethod
    def find(cls, progress: Progress) -> Telemetry | None:
        """None where `opentelemetry-api` is not installed, or cannot be used."""
        try:
            from opentelemetry import metrics, trace

            return cls(progress, trace, metrics)
        except Exception:  # noqa: BLE001  another release, or a provider of the user's that fails
            return None

    def begin(self, step: int) -> None:
        """A step begins; one that was not ended ends."""
        self._close()
        self._number = step
        self._step = self._start("training.step", {names.STEP: step}, None)

    def end(self, tokens: int, loss: float | None) -> None:
        """The step is over; tokens of all steps so far."""
        if self._step is not None:
            told = {names.TOKENS: tokens - self._tokens, **({} if loss is None else {names.LOSS: loss})}
            self._step.set_attributes(told)
        self._tokens = tokens
        self._close()

    def turn(self, phase: str) -> None:
        """The phase before ends, and this one begins."""
        _end(self._phase)
        self._phase = None
        if phase:
            held = {names.PHASE: phase, names.STEP: self._number}
            self._phase = self._start(f"training.{phase}", held, self._step)

    def _close(self) -> None:
        _end(self._phase)
        _end(self._step)
        self._phase = self._step = None

    def _start(self, name: str, attributes: dict[str, Any], parent: Any) -> Any:
        try:
            context = self._trace.set_span_in_context(parent) if parent is not None else None
            return self._tracer.start_span(name, context=context, attributes=attributes)
        except Exception:  # noqa: BLE001  an SDK that fails must not end the training
            return None


def _end(span: Any) -> None:
    if span is not None:
        try:
            span.end()
        except Exception:  # noqa: BLE001, S110
            pass


_READ: dict[str, Callable[[Any], list[tuple[float, dict[str, Any]]]]] = {
    "training.step": lambda held: [(held.step, {})] if held.step >= 0 else [],
    "training.tokens": lambda held: [(held.tokens, {})] if held.tokens else [],
    "training.loss": lambda held: [(held.loss, {})] if held.loss is not None else [],
    "training.phase.time": lambda held: [(s, {names.PHASE: phase}) for phase, s in dict(held.spent).items()],
}


def _observer(metrics: Any, progress: Progress, read: Callable[..., Any]) -> Callable[[Any], list[Any]]:
    def observe(_options: Any) -> list[Any]:
        rank = os.environ.get("RANK", "")
        whose = {names.RANK: int(rank)} if rank.isdecimal() else {}
        return [metrics.Observation(value, {**whose, **more}) for value, more in read(progress)]

    return observe
