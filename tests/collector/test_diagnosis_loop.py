"""The loop on a real store and a clock that stands still: same rows, same bytes, whatever happened in between."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from misstep.collector import ticker as loop
from misstep.collector.telemetry import Telemetry
from misstep.collector.ticker import Ticker
from misstep.core.clock import SECOND, SettableClock
from misstep.core.errors import StorageError
from misstep.core.settings import StoreSettings
from misstep.diagnosis import Incident, Recall
from misstep.store.store import Batch, Store
from misstep.store.view import View

QUIET = 5
START = 1_700_000_000 * SECOND


def count_failures(
    view: View, session: str, at: int, previous: Sequence[Incident], recall: Recall
) -> list[Incident]:
    """An incident per failed task; it remembers how many ticks have seen it, and when the last change came."""
    found = {i.id: i for i in previous}
    for row in view.logs(session=session, events=["ray.task.lifecycle"], states=["FAILED"]):
        known = found.get(row.entity)
        seen = known.data["seen"] if known else 0
        if seen < 3:
            found[row.entity] = Incident(
                {"id": row.entity, "session": session, "status": "open", "seen": seen + 1, "at": at}
            )
    return list(found.values())


class Bench:
    """A store, its clock and loops on it, one after another."""

    def __init__(self, folder: Path, otlp: Any) -> None:
        self.folder = folder
        self.otlp = otlp
        self.clock = SettableClock(START)
        self.store = self._open()
        self.telemetry = Telemetry()
        self.ticker: Ticker | None = None

    def _open(self) -> Store:
        return Store.open(self.folder, StoreSettings(), clock=self.clock, background=False)

    def send(self, *records: dict[str, Any]) -> None:
        body = self.otlp.logs(*records).SerializeToString()
        self.store.append(Batch("logs", body)).result()

    def session(self, name: str = "one") -> None:
        self.send(
            {
                "event": "session.start",
                "attributes": {
                    "misstep.session": f"s/ray/{name}/1",
                    "misstep.entity": f"session/s/ray/{name}/1",
                },
            }
        )

    def fail(self, task: str, name: str = "one") -> None:
        attributes = {
            "misstep.session": f"s/ray/{name}/1",
            "misstep.entity": f"task/{task}",
            "misstep.state": "FAILED",
        }
        self.send({"event": "ray.task.lifecycle", "attributes": attributes})

    def start(self, diagnose: Callable[..., list[Incident]] = count_failures) -> Ticker:
        self.telemetry = Telemetry()
        self.ticker = Ticker(self.store, diagnose, self.clock, self.telemetry)
        self.ticker.start()
        return self.ticker

    def reach(self, seconds: float, ticker: Ticker | None = None) -> None:
        """Let time pass and diagnosis follow it."""
        self.clock.advance(seconds)
        self.follow()

    def follow(self) -> None:
        wanted = self.clock.now() // SECOND * SECOND
        deadline = time.monotonic() + 60
        assert self.ticker is not None
        while self.ticker.tick() < wanted:
            assert time.monotonic() < deadline, f"{self.ticker.tick()} of {wanted}"
            time.sleep(0.005)

    def restart(self, diagnose: Callable[..., list[Incident]] = count_failures) -> None:
        self.close()
        self.store = self._open()
        self.start(diagnose)

    def close(self) -> None:
        if self.ticker:
            self.ticker.stop()
            self.ticker = None
        self.store.close()

    def history(self) -> list[str]:
        """What each second of the past said."""
        first, last = START // SECOND, self.clock.now() // SECOND
        return [
            json.dumps(self.store.incidents(at=t * SECOND), sort_keys=True)
            for t in range(first - 1, last + 1)
        ]

    def ticks(self) -> float:
        return float(self.telemetry.registry.get_sample_value("misstep_collector_diagnosis_ticks_total") or 0)

    def failures(self) -> float:
        return float(
            self.telemetry.registry.get_sample_value("misstep_collector_diagnosis_failures_total") or 0
        )


@pytest.fixture
def bench(tmp_path: Path, otlp: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(loop, "QUIET_SECONDS", QUIET)
    made = Bench(tmp_path / "data", otlp)
    yield made
    made.close()


def story(bench: Bench, pauses: Sequence[int] = ()) -> None:
    """Two sessions, three failures, in 8 seconds; restarts behind the numbered steps."""
    steps: list[Callable[[], None]] = [
        bench.session, lambda: bench.fail("a"), lambda: bench.session("two"), lambda: bench.fail("b", "two"),
        lambda: None, lambda: bench.fail("c"),
    ]  # fmt: skip
    for number, step in enumerate(steps):
        step()
        bench.reach(0.7)
        if number in pauses:
            bench.restart()
    for number in range(4):
        bench.reach(1)
        if len(steps) + number in pauses:
            bench.restart()


def test_an_incident_is_found_at_the_first_whole_second_behind_its_rows(bench: Bench) -> None:
    bench.start()
    bench.session()
    bench.reach(1.25)
    bench.fail("a")
    bench.reach(0.5)
    assert bench.store.incidents() == []
    bench.reach(0.25)
    (incident,) = bench.store.incidents()
    assert (incident["id"], incident["at"]) == ("task/a", START + 2 * SECOND)
    bench.reach(5)
    assert bench.store.incidents()[0]["at"] == START + 4 * SECOND
    assert bench.store.incidents(at=START + 2 * SECOND) == [incident]
    assert bench.store.last_tick() >= START + 6 * SECOND


def test_restarts_change_nothing(bench: Bench, tmp_path: Path, otlp: Any) -> None:
    bench.start()
    story(bench)
    whole = bench.history()
    assert len(set(whole)) > 5

    other = Bench(tmp_path / "restarted", otlp)
    other.start()
    story(other, pauses=(1, 3, 6))
    assert other.history() == whole
    other.close()


def test_the_same_journal_diagnosed_again_gives_the_same_bytes(bench: Bench) -> None:
    bench.start()
    story(bench)
    whole = bench.history()
    bench.close()
    for file in bench.folder.glob("incidents.sqlite*"):
        file.unlink()
    bench.store = bench._open()
    bench.start()
    bench.follow()
    assert bench.history() == whole


def test_quiet_stretches_are_passed_at_once(bench: Bench) -> None:
    bench.start()
    bench.session()
    bench.fail("a")
    bench.reach(5)
    bench.reach(QUIET + 5)
    busy = bench.ticks()
    bench.reach(24 * 3600)
    assert bench.ticks() - busy < 5
    bench.fail("b")
    bench.reach(1)
    assert [i["id"] for i in bench.store.incidents()] == ["task/a", "task/b"]
    assert bench.store.incidents()[1]["at"] == bench.clock.now()


def test_a_day_without_a_collector_is_caught_up_as_if_it_had_been_there(
    bench: Bench, tmp_path: Path, otlp: Any
) -> None:
    def day(bench: Bench) -> None:
        bench.session()
        bench.clock.advance(3600)
        bench.fail("a")
        bench.clock.advance(3600.4)
        bench.fail("b")
        bench.clock.advance(12 * 3600)

    bench.start()
    day(bench)
    bench.follow()
    assert [i["at"] // SECOND for i in bench.store.incidents()] == [
        START // SECOND + 3603,
        START // SECOND + 7203,
    ]
    assert bench.ticks() < 4 * (QUIET + 5)

    late = Bench(tmp_path / "late", otlp)
    day(late)
    late.start()
    late.follow()
    assert late.store.incidents() == bench.store.incidents()
    late.close()


def test_diagnosis_that_raises_is_counted_and_shown_and_stops_nothing(bench: Bench) -> None:
    broken = True

    def diagnose(
        view: View, session: str, at: int, previous: Sequence[Incident], recall: Recall
    ) -> list[Incident]:
        if broken and session == "s/ray/two/1":
            raise KeyError("a detector's mistake")
        return count_failures(view, session, at, previous, recall)

    ticker = bench.start(diagnose)
    bench.session("one")
    bench.session("two")
    bench.fail("a", "one")
    bench.fail("b", "two")
    bench.reach(2)
    assert [i["id"] for i in bench.store.incidents()] == ["task/a"]
    assert bench.failures() == 2
    assert ticker.failures("s/ray/two/1") == ['KeyError: "a detector\'s mistake"']
    assert ticker.failures("s/ray/one/1") == []
    broken = False
    bench.reach(1)
    assert [i["id"] for i in bench.store.incidents()] == ["task/a", "task/b"]
    assert ticker.failures("s/ray/two/1") == []


def test_a_tick_that_the_disk_refuses_is_run_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_RETRY_SECONDS", 0.02)
    save, refusals = bench.store.save_incidents, [3]

    def refuse(tick: int, incidents: Sequence[tuple[str, str, str]]) -> None:
        if incidents and refusals[0]:
            refusals[0] -= 1
            raise StorageError("no space left on device")
        save(tick, incidents)

    monkeypatch.setattr(bench.store, "save_incidents", refuse)
    bench.start()
    bench.session()
    bench.fail("a")
    bench.reach(6)
    assert refusals == [0]
    first = bench.store.incidents(at=START + SECOND)
    assert [(i["id"], i["seen"], i["at"]) for i in first] == [("task/a", 1, START + SECOND)]
    assert bench.store.incidents()[0]["seen"] == 3


def test_a_clock_that_goes_back_does_not_undo_ticks(bench: Bench) -> None:
    bench.start()
    bench.session()
    bench.reach(5)
    bench.clock.jump(-5)
    bench.fail("a")
    assert bench.ticker is not None
    assert bench.ticker.tick() == START + 5 * SECOND
    bench.clock.advance(7)
    bench.follow()
    assert bench.store.incidents()[0]["at"] > START + 5 * SECOND
