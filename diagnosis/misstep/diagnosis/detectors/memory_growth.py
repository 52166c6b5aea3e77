"""How a process's memory grew before it was killed, beside its peers and its machine."""

from __future__ import annotations

from statistics import median
from typing import NamedTuple

from misstep.core import names
from misstep.diagnosis.observation import Evidence, Observation
from misstep.diagnosis.window import SECOND, Window

_BEFORE = 180 * SECOND
_POINTS = 60
_METRIC = "process.memory.usage"


class Growth(NamedTuple):
    """A rise; sizes in bytes, `rate` in bytes a second, times in Unix nanoseconds."""

    start: int
    end: int
    low: float
    peak: float
    rate: float


def growth(times: list[int], values: list[float]) -> Growth | None:
    """The last rise of a series: from its lowest point before the peak, with a slope that outliers do not move.

    The slope is the median of all pairwise slopes (Theil and Sen).
    """
    if len(values) < 2:
        return None
    top = max(range(len(values)), key=lambda i: (values[i], -i))
    times, values = times[: top + 1][-_POINTS:], values[: top + 1][-_POINTS:]
    floor = min(values) + (max(values) - min(values)) / 10
    low = max((i for i in range(len(values) - 1) if values[i] <= floor), default=0)
    times, values = times[low:], values[low:]
    if len(values) < 2 or times[-1] <= times[0]:
        return None
    slopes = [
        (values[j] - values[i]) / ((times[j] - times[i]) / 1e9)
        for i in range(len(values))
        for j in range(i + 1, len(values))
        if times[j] > times[i]
    ]
    return Growth(times[0], times[-1], values[0], values[-1], median(slopes))


def memory_growth(window: Window, pid: int, at: int, *, name: str, entity: str) -> Observation | None:
    """How the memory of a process grew up to a moment, or None if it was not watched."""
    best: tuple[Growth, str] | None = None
    for series in window.view.samples(
        _METRIC, {names.PID: str(pid)}, since=at - _BEFORE, until=at + 2 * SECOND
    ):
        found = growth([int(ts) for ts in series.ts], [float(value) for value in series.values])
        if found is not None and (best is None or found.peak > best[0].peak):
            best = (found, series.labels.get(names.ENTITY, f"process/{pid}"))
    if best is None:
        return None
    rise, source = best
    peers = _peers(window, pid, at)
    facts = {
        "rate": rise.rate,
        "peak": rise.peak,
        "low": rise.low,
        "start": rise.start,
        "end": rise.end,
        "seconds": (rise.end - rise.start) / 1e9,
    }
    told = f"grows by {_size(rise.rate)}/s to {_size(rise.peak)}"
    if peers:
        facts["peers"] = median(peers)
        told += (
            f"; its {len(peers)} peers stay at {_size(median(peers))}"
            if len(peers) > 1
            else f"; its peer stays at {_size(median(peers))}"
        )
    return Observation(
        kind="memory.growth",
        entity=entity,
        name=name,
        ts=rise.start,
        statement=told,
        source="processes",
        facts=facts,
        evidence=(Evidence("samples", series=f"{_METRIC}{{{names.ENTITY}={source}}}"),),
    )


def _peers(window: Window, pid: int, at: int) -> list[float]:
    """What the other workers of the session held just before."""
    workers = {
        row.attributes.get(names.PID, "")
        for row in window.rows("ray.worker.definition", limit=300, newest=True)
    }
    held = []
    for series in window.view.samples(
        _METRIC, {names.SESSION: window.session}, since=at - 5 * SECOND, until=at + SECOND
    ):
        other = series.labels.get(names.PID, "")
        if other != str(pid) and other in workers and len(series.values):
            held.append(float(series.values[-1]))
    return sorted(held)


def _size(number: float) -> str:
    return f"{number / 1e9:.1f} GB" if abs(number) >= 1e9 else f"{number / 1e6:.0f} MB"
