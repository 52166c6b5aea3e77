"""An in-memory view over lists of rows, by the same contract as the store's, and replays of captured sessions."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from misstep.diagnosis import Incident, Recall, awaited, diagnose
from misstep.store.rows import EntityRow, LogRow, RelationRow, SeriesSamples, SessionRow

SECOND = 1_000_000_000
DATA = Path(__file__).parent.parent / "data" / "diagnosis"


class FakeView:
    """Rows received before `until`."""

    def __init__(
        self,
        rows: Iterable[LogRow],
        samples: Sequence[tuple[str, dict[str, str], int, float]] = (),
        until: int | None = None,
    ) -> None:
        self.rows = sorted(
            (r for r in rows if until is None or r.received < until), key=lambda r: (r.seq, r.row)
        )
        self._by_event: dict[str, list[LogRow]] = {}
        for row in self.rows:
            self._by_event.setdefault(row.event, []).append(row)
        self._samples = [one for one in samples if until is None or one[2] < until]
        self.queries = 0

    def logs(
        self,
        *,
        session: str | None = None,
        events: Sequence[str] = (),
        entities: Sequence[str] = (),
        states: Sequence[str] = (),
        attributes: Mapping[str, str] = {},
        contains: Sequence[str] = (),
        plain: bool | None = None,
        min_severity: int = 0,
        since: int | None = None,
        until: int | None = None,
        after: tuple[int, int] | None = None,
        limit: int | None = None,
        newest: bool = False,
    ) -> list[LogRow]:
        self.queries += 1
        found = [
            r
            for r in self._candidates(events)
            if (session is None or r.session == session)
            and (not events or r.event in events)
            and (not entities or r.entity in entities)
            and (not states or r.state in states)
            and all(r.attributes.get(key) == value for key, value in attributes.items())
            and (not contains or any(part in r.body for part in contains))
            and (plain is None or plain == (not r.event))
            and r.severity >= min_severity
            and (since is None or r.ts >= since)
            and (until is None or r.ts < until)
            and (after is None or (r.seq, r.row) > after)
        ]
        if limit is not None:
            found = found[-limit:] if newest else found[:limit]
        return found

    def _candidates(self, events: Sequence[str]) -> list[LogRow]:
        if not events:
            return self.rows
        found = [row for event in dict.fromkeys(events) for row in self._by_event.get(event, ())]
        return found if len(events) == 1 else sorted(found, key=lambda r: (r.seq, r.row))

    def position(self) -> tuple[int, int]:
        last = self.rows[-1] if self.rows else None
        return (last.seq, last.received) if last else (0, 0)

    def count_logs(self, *, by: str = "", **filters: Any) -> dict[str, int]:
        found = self.logs(**filters)
        return dict(Counter(str(getattr(r, by)) if by else "" for r in found))

    def samples(
        self, name: str, labels: Mapping[str, str] = {}, *, since: int | None = None, until: int | None = None
    ) -> list[SeriesSamples]:
        grouped: dict[tuple[tuple[str, str], ...], list[tuple[int, float]]] = {}
        for metric, have, ts, value in self._samples:
            if (
                metric == name
                and all(have.get(k) == v for k, v in labels.items())
                and (since is None or ts >= since)
                and (until is None or ts < until)
            ):
                grouped.setdefault(tuple(sorted(have.items())), []).append((ts, value))
        return [
            SeriesSamples(
                name,
                dict(key),
                np.array([ts for ts, _ in points], dtype=np.int64),
                np.array([v for _, v in points]),
            )
            for key, points in sorted(grouped.items())
        ]

    def sessions(self) -> list[SessionRow]:
        names = sorted({r.session for r in self.rows if r.session})
        found = []
        for name in names:
            end = next((r for r in self.rows if r.session == name and r.event == "session.end"), None)
            heard = max(r.received for r in self.rows if r.session == name)
            started = min(r.ts for r in self.rows if r.session == name)
            found.append(
                SessionRow(
                    name,
                    "ray",
                    "ray",
                    started,
                    end.ts if end else None,
                    heard,
                    end.state if end else "live",
                    {},
                )
            )
        return found

    def entities(
        self, *, session: str | None = None, kind: str | None = None, ids: Sequence[str] = ()
    ) -> list[EntityRow]:
        return []

    def relations(
        self,
        *,
        session: str | None = None,
        source: str | None = None,
        target: str | None = None,
        at: int | None = None,
    ) -> list[RelationRow]:
        return []


class Replay:
    """A captured session, diagnosed second by second as the collector does it."""

    def __init__(
        self, info: dict[str, Any], rows: list[LogRow], samples: list[tuple[str, dict[str, str], int, float]]
    ) -> None:
        self.info = info
        self.session = str(info["session"])
        self.rows = rows
        self.samples = samples

    def ticks(self, *, last: int | None = None, extra: int = 12) -> list[int]:
        first = min(r.received for r in self.rows) // SECOND * SECOND + SECOND
        end = last or max(r.received for r in self.rows) // SECOND * SECOND + extra * SECOND
        return list(range(first, end + 1, SECOND))

    def run(
        self,
        *,
        extra: int = 12,
        each: Callable[[int, list[Incident]], None] | None = None,
        remember: bool = True,
    ) -> list[Incident]:
        incidents: list[Incident] = []
        recall = Recall()
        for at in self.ticks(extra=extra):
            view = FakeView(self.rows, self.samples, at)
            found = diagnose(view, self.session, at, incidents, recall if remember else None)
            incidents = [Incident.from_json(i.to_json()) for i in found]
            if each:
                each(at, incidents)
        return incidents

    def at(self, at: int, previous: list[Incident]) -> list[Incident]:
        return diagnose(FakeView(self.rows, self.samples, at), self.session, at, previous)

    def awaited(self, at: int) -> list[dict[str, Any]]:
        return awaited(FakeView(self.rows, self.samples, at), self.session, at)

    def shuffled(self, random: Random) -> Replay:
        """The same rows, in another order within each second of their arrival."""
        order = sorted(self.rows, key=lambda row: (row.received // SECOND, random.random()))
        rows = [row._replace(seq=place, row=0) for place, row in enumerate(order, 1)]
        return Replay(self.info, rows, self.samples)

    def without(self, drop: Callable[[LogRow], bool]) -> Replay:
        return Replay(self.info, [r for r in self.rows if not drop(r)], self.samples)


def load(path: Path) -> Replay:
    """Read what the capture tool wrote: a line about the session, then a line for each row or sample."""
    rows, samples = [], []
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt") as file:
        info = json.loads(next(file))
        for line in file:
            one = json.loads(line)
            if "metric" in one:
                samples.append((one["metric"], one["labels"], one["ts"], float(one["value"])))
            else:
                rows.append(LogRow(**one))
    return Replay(info, rows, samples)


@pytest.fixture
def captured() -> Callable[[str], Replay]:
    """Gives a captured session by name."""
    return lambda name: load(DATA / f"{name}.jsonl.gz")


@pytest.fixture
def replayed() -> Callable[..., list[Incident]]:
    """Diagnoses rows second by second and gives what the last tick found."""

    def run(
        rows: list[LogRow],
        session: str,
        samples: Sequence[tuple[str, dict[str, str], int, float]] = (),
        **options: Any,
    ) -> list[Incident]:
        return Replay({"session": session}, rows, list(samples)).run(**options)

    return run
