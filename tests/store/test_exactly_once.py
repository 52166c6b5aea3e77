"""A model of the store against the store: whatever happens to it, what was acknowledged is there, once."""

from __future__ import annotations

import shutil
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from misstep.core import names
from misstep.core.clock import SettableClock
from misstep.core.settings import StoreSettings
from misstep.store.request import Batch, Receipt
from misstep.store.store import Store

Sent = tuple[str, int, bytes]


class Model(RuleBasedStateMachine):
    """Two agents send numbered log requests, some of them with copies of events, into one store."""

    otlp: Any
    root: Path
    sent = Bundle("sent")

    @initialize(hot_bytes=st.sampled_from([0, 1 << 30]))
    def begin(self, hot_bytes: int) -> None:
        self.settings = StoreSettings(hot_bytes=hot_bytes)
        self.clock = SettableClock()
        self.bodies: list[tuple[int, str]] = []
        self.samples: list[tuple[int, float]] = []
        self.high: dict[str, int] = {}
        self.events: set[str] = set()
        self.number = 0
        self.received = 0
        self.changed = True
        self.folder = self._new_folder()
        self.store = self._open()

    @rule(
        target=sent,
        agent=st.sampled_from(["a", "b"]),
        skip=st.integers(1, 3),
        lines=st.integers(1, 3),
        event=st.integers(0, 5),
    )
    def send_logs(self, agent: str, skip: int, lines: int, event: int) -> Sent:
        seq = self.high.get(agent, 0) + skip
        records: list[tuple[str, int, dict[str, str], str]] = []
        stored: list[str] = []
        for _ in range(lines):
            self.number += 1
            records.append(("", 5, {}, f"line {self.number}"))
            stored.append(f"line {self.number}")
        records.append(("e", 5, {names.EVENT_ID: f"id{event}"}, f"event {event}"))
        if f"id{event}" not in self.events:
            stored.append(f"event {event}")
        body = self.otlp.log(*records)
        receipt = self._append("logs", agent, seq, body)
        assert not receipt.duplicate
        assert receipt.rejected == 0
        self.events.add(f"id{event}")
        self.bodies += [(receipt.seq, text) for text in stored]
        return agent, seq, body

    @rule(agent=st.sampled_from(["a", "b"]), value=st.integers(0, 9))
    def send_metrics(self, agent: str, value: int) -> None:
        seq = self.high.get(agent, 0) + 1
        body = self.otlp.gauge("m", (self.number, float(value), {"agent": agent}))
        receipt = self._append("metrics", agent, seq, body)
        self.samples.append((receipt.seq, float(value)))

    @rule(again=sent)
    def send_again(self, again: Sent) -> None:
        """A repetition, however late: by then it is out of order."""
        agent, seq, body = again
        receipt = self.store.append(Batch("logs", body, "", agent, "boot", seq), body).result()
        assert receipt.duplicate

    @rule(jump=st.integers(-5, 5))
    def jump(self, jump: int) -> None:
        self.clock.jump(jump)

    @rule(tail=st.sampled_from(["nothing", "zeroes", "noise"]))
    def kill(self, tail: str) -> None:
        """Go on from a copy of the files as they lie; something may have begun to be written behind them."""
        old, folder = self.folder, self._new_folder()
        shutil.copytree(old, folder, dirs_exist_ok=True)
        self.store.close()
        shutil.rmtree(old)
        for log in (folder / "journal").glob("*-wal"):
            with log.open("ab") as file:
                file.write({"nothing": b"", "zeroes": bytes(4120), "noise": b"\xa5" * 700}[tail])
        self.folder = folder
        self.store = self._open()
        self.changed = True

    @rule()
    def seal(self) -> None:
        before = self.store.stats()["position"]
        self.store.seal()
        assert self.store.stats()["position"] == before
        assert self.store.stats()["journal_segments"] == 1
        self.changed = True

    @rule()
    def merge(self) -> None:
        self.store.maintain()
        self.changed = True

    @invariant()
    def everything_is_there_once(self) -> None:
        if not self.changed:
            return
        self.changed = False
        view = self.store.view()
        logs = view.logs()
        assert [(row.seq, row.body) for row in logs] == self.bodies
        received = [row.received for row in logs]
        assert received == sorted(received)
        assert all(a.received < b.received for a, b in pairwise(logs) if a.seq < b.seq)
        found = [value for one in view.samples("m") for value in one.values.tolist()]
        assert sorted(found) == sorted(value for _, value in self.samples)
        marks = {agent: mark.agent_seq for (agent, _), mark in self.store._commit._journal.marks.items()}
        assert marks == self.high

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.folder)

    def _append(self, signal: str, agent: str, seq: int, body: bytes) -> Receipt:
        receipt = self.store.append(Batch(signal, body, "", agent, "boot", seq), body).result()
        assert receipt.received > self.received
        self.received = receipt.received
        self.high[agent] = seq
        self.changed = True
        return receipt

    def _new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.root))

    def _open(self) -> Store:
        return Store.open(self.folder, self.settings, clock=self.clock, background=False)


def test_acknowledged_is_stored_and_nothing_twice(otlp: Any, tmp_path: Path) -> None:
    bound = type("Bound", (Model,), {"otlp": otlp, "root": tmp_path})
    run_state_machine_as_test(
        bound,
        settings=settings(
            max_examples=4,
            stateful_step_count=16,
            deadline=None,
            phases=(Phase.generate,),
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


@pytest.mark.soak
def test_acknowledged_is_stored_and_nothing_twice_at_length(otlp: Any, tmp_path: Path) -> None:
    bound = type("Bound", (Model,), {"otlp": otlp, "root": tmp_path})
    run_state_machine_as_test(
        bound,
        settings=settings(
            max_examples=200, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
