"""The agent's heart: every probe at its time; what they bring goes into the spool, at once or two ticks together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from misstep.agent.context import Context
from misstep.agent.probe import Probe, SourceState, failing
from misstep.agent.records import Records
from misstep.agent.series import Series, Sheet, declared
from misstep.core import names
from misstep.core.clock import SECOND
from misstep.core.errors import StorageError

_ASK_AGAIN = 30 * SECOND
_TOGETHER = 2
"""Ticks that are kept and sent as one when no event came: each transaction and request costs more than what it holds."""
_SELF_EVERY = 10 * SECOND
_LAST = "agent.tick"  # cursor: time of the last tick of an agent that was not closed
_KILLED = "the agent was killed and did not run"


class _Slot:
    """One probe and what the loop remembers of it."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.sheet = Sheet()
        self.supported = False
        self.due = 0
        self.took = 0.0
        self.duration = declared("misstep.probe.duration", {names.SOURCE: probe.source})

    def check(self, now: int, monotonic: int, out: Records, eventful: bool) -> SourceState | None:
        """Ask the probe if it is time; None when it is not or when the probe reports by itself.

        Args:
            eventful: another probe brought an event in this tick or the last.
        """
        if monotonic < self.due and not (eventful and self.probe.follows_events):
            return None
        started = time.perf_counter()
        if monotonic >= self.due:
            self._schedule(monotonic)
        try:
            if not self.supported:
                state = self.probe.supported()
                if state.name != "ok":
                    self.due = monotonic + _ASK_AGAIN
                    return state
                self.supported = True
            return self.probe.check(now, out)
        except OSError as error:
            return failing(error.strerror or str(error))
        except Exception as error:  # noqa: BLE001  one probe's bug must not cost the others their evidence
            return failing(f"the probe failed: {type(error).__name__}: {error}")
        finally:
            self.took = time.perf_counter() - started

    def _schedule(self, monotonic: int) -> None:
        step = round(self.probe.interval * SECOND)
        self.due = max(self.due + step, monotonic + step // 2)


class _Held:
    """What was read and is not in the spool yet."""

    def __init__(self) -> None:
        self.readings: list[Records] = []
        self.metrics: list[bytes] = []
        self.points = 0

    def add(self, reading: Records, sheet: Sheet) -> None:
        """Take a reading; its points are encoded now, with the sheet of who brought it."""
        self.readings.append(reading)
        if reading.series or reading.encoded:
            self.metrics.append(reading.metrics(sheet))
            self.points += len(reading.series) + reading.points


class Agent:
    """Runs probes and commits what they bring.

    Args:
        probes: in the order in which they are called.
        watch: called each tick, for threads that have to be looked after.
    """

    def __init__(
        self, context: Context, probes: Sequence[Probe], watch: Callable[[], None] = lambda: None
    ) -> None:
        self._context = context
        self._slots = [_Slot(probe) for probe in probes]
        self._watch = watch
        self._own = Sheet()
        self._own_due = 0
        self._missed = 0
        self._ticks = 0
        self._eventful = False
        self._held = _Held()
        self._resumed = False
        self._usage = declared("misstep.agent.spool.usage")
        self._cpu = declared("misstep.agent.cpu.time", start=context.clock.now())
        self._memory = declared("misstep.agent.memory.usage")
        self._dropped: dict[str, Series] = {}

    def tick(self) -> None:
        """Call the probes that are due, then keep what they brought."""
        context = self._context
        now, monotonic = context.clock.now(), context.clock.monotonic()
        before, self._eventful = self._eventful, False
        for slot in self._slots:
            out = Records(now)
            state = slot.check(now, monotonic, out, before or self._eventful)
            if state is not None:
                context.coverage.report(slot.probe.source, state)
            if out:
                self._held.add(out, slot.sheet)
                self._eventful = self._eventful or bool(out.events)
        own = Records(now)
        if not self._resumed:
            self._resume(now, own)
        if monotonic >= self._own_due:
            self._own_due = monotonic + _SELF_EVERY
            self._measure(own)
        if self._missed:
            own.gap("tick", self._missed, "the agent was not given the processor in time")
            self._missed = 0
        context.coverage.check(now, own)
        presses = self._eventful or bool(own.events or own.gaps)
        if presses or self._ticks % _TOGETHER == 0:
            if self._resumed:
                own.cursor(_LAST, str(now))
            self._held.add(own, self._own)
            self._keep()
        else:
            self._held.add(own, self._own)
        self._ticks += 1
        self._watch()

    def _keep(self) -> None:
        """Commit what is held."""
        held, self._held = self._held, _Held()
        try:
            self._context.spool.commit(held.readings, b"".join(held.metrics), held.points)
        except StorageError as error:
            self._context.spool.lose(held.readings, held.points, "the disk refused the spool")
            self._context.coverage.report("agent", failing(str(error)))

    def run(self, wait: Callable[[float], bool]) -> None:
        """Tick at the interval of the settings until `wait(seconds)` says True.

        Deadlines stand on a fixed grid: a slow tick does not shift those after it, and ticks that a stopped or
        starved process missed are left out and counted.
        """
        clock = self._context.clock
        step = max(1, round(self._context.settings.agent.interval * SECOND))
        deadline = clock.monotonic()
        while True:
            self.tick()
            deadline += step
            behind = clock.monotonic() - deadline
            if behind > step // 2:
                missed = behind // step + 1
                self._missed += missed
                deadline += missed * step
            if wait(max(0, deadline - clock.monotonic()) / SECOND):
                return

    def close(self) -> None:
        """Close every probe; what the last ticks brought is in the spool."""
        if self._resumed:
            end = Records(self._context.clock.now())
            end.cursor(_LAST, "")
            self._held.add(end, self._own)
            self._keep()
        for slot in self._slots:
            try:
                slot.probe.close()
            except OSError:
                pass  # nothing is left to be done with it

    def _resume(self, now: int, out: Records) -> None:
        """Tell the seconds between the last tick of an agent that was killed and the first one of this."""
        try:
            last = self._context.spool.cursor(_LAST)
        except StorageError:
            return  # asked again at the next tick, before the mark is overwritten
        if last.isdecimal():
            step = max(1, round(self._context.settings.agent.interval * SECOND))
            out.gap("tick", max(1, (now - int(last)) // step), _KILLED)
        self._resumed = True

    def _measure(self, out: Records) -> None:
        out.point(self._usage, self._context.spool.waiting_bytes)
        out.point(self._cpu, time.process_time())
        out.point(self._memory, _resident())
        for kind, total in sorted(self._context.spool.dropped().items()):
            series = self._dropped.get(kind)
            if series is None:
                series = self._dropped[kind] = declared("misstep.agent.dropped", {names.DROPPED_KIND: kind})
            out.point(series, total)
        for slot in self._slots:
            out.point(slot.duration, slot.took)


def _resident() -> int:
    """Bytes of this process in memory."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * 4096
    except OSError:
        return 0
