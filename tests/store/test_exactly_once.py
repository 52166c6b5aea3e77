"""A model of the store against the store: whatever happens to it, what was acknowledged is there, once."""

from __future__ import annotations

import contextlib
import resource
import shutil
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future
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
from misstep.core.errors import StorageError
from misstep.core.settings import StoreSettings
from misstep.store.request import Batch, Receipt, Waiting
from misstep.store.store import Store

Sent = tuple[str, int, bytes]
TOGETHER = 5
"""Requests in one commit at most."""
TAILS = {"nothing": b"", "zeroes": bytes(4120), "noise": b"\xa5" * 700}


@contextlib.contextmanager
def small_disk(room: int) -> Iterator[None]:
    """The kernel refuses to let any file grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def flip(log: Path, at: float, bit: int) -> None:
    """Turn one bit of a file round, at a fraction of its length."""
    content = bytearray(log.read_bytes())
    content[int(at * len(content))] ^= 1 << bit
    log.write_bytes(content)


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
        receipt = self._append("metrics", agent, seq, self._point(agent, value))
        self.samples.append((receipt.seq, float(value)))

    @rule(
        agent=st.sampled_from(["a", "b"]), steps=st.lists(st.integers(-1, 4), min_size=2, max_size=TOGETHER)
    )
    def send_together(self, agent: str, steps: list[int]) -> None:
        """In one commit, some twice and some in the wrong order: what comes too late is taken for a copy."""
        group, fresh = [], []
        start = high = self.high.get(agent, 0)
        for step in steps:
            seq = max(1, start + step)
            fresh.append(seq > high)
            high = max(high, seq)
            body = self._point(agent, step)
            group.append(Waiting(Batch("metrics", body, "", agent, "boot", seq), body, Future()))
        self.store._commit.store(group)
        self.store._arrivals.flush(self.store._hot)
        receipts = [waiting.future.result() for waiting in group]
        assert [not receipt.duplicate for receipt in receipts] == fresh
        for receipt, step in zip(receipts, steps, strict=True):
            if not receipt.duplicate:
                self._took(receipt, agent, max(1, start + step))
                self.samples.append((receipt.seq, float(step)))

    @rule(
        agent=st.sampled_from(["a", "b"]),
        room=st.integers(0, 120_000),
        size=st.sampled_from([10, 3000, 60_000]),
    )
    def send_to_a_full_disk(self, agent: str, room: int, size: int) -> None:
        """Refused or stored, never in between, and what was refused may come again."""
        seq = self.high.get(agent, 0) + 1
        self.number += 1
        text = f"line {self.number} ".ljust(size, "x")
        body = self.otlp.log(("", 5, {}, text))
        with small_disk(room):
            try:
                receipt = self._append("logs", agent, seq, body)
            except StorageError:
                receipt = None
        if receipt is None:
            receipt = self._append("logs", agent, seq, body)
        self.bodies.append((receipt.seq, text))

    @rule(room=st.integers(0, 60_000))
    def seal_to_a_full_disk(self, room: int) -> None:
        """It may fail, and then the journal still has everything."""
        self.changed = True
        with small_disk(room), contextlib.suppress(StorageError):
            self.store.seal()

    @rule(again=sent)
    def send_again(self, again: Sent) -> None:
        """A repetition, however late: by then it is out of order."""
        agent, seq, body = again
        receipt = self.store.append(Batch("logs", body, "", agent, "boot", seq), body).result()
        assert receipt.duplicate

    @rule(jump=st.integers(-300, 300))
    def jump(self, jump: int) -> None:
        self.clock.jump(jump)

    @rule(tail=st.sampled_from(list(TAILS)))
    def kill(self, tail: str) -> None:
        """Something may have begun to be written behind the journal's end."""
        self._die()
        for log in (self.folder / "journal").glob("*-wal"):
            with log.open("ab") as file:
                file.write(TAILS[tail])
        self.store = self._open()

    @rule(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
    def kill_and_flip_a_bit(self, at: float, bit: int) -> None:
        """What the bit lies in may be lost; then it is named, and nothing else is."""
        self._die()
        log = max((self.folder / "journal").glob("*-wal"))
        if log.stat().st_size:
            flip(log, at, bit)
        self.store = self._open()
        named = {
            int(line)
            for path in (self.folder / "quarantine").glob("*.lost")
            for line in path.read_text().split()
        }
        stored = {row.seq for row in self.store.view().logs()}
        stored |= {row[0] for row in self.store.view().ask("SELECT seq FROM {samples}")}
        lost = {seq for seq, _ in [*self.bodies, *self.samples]} - stored
        assert lost <= named
        assert len(lost) <= TOGETHER
        self.bodies = [one for one in self.bodies if one[0] not in lost]
        self.samples = [one for one in self.samples if one[0] not in lost]
        self.events = {text.replace("event ", "id") for _, text in self.bodies if text.startswith("event ")}

    @rule()
    def seal(self) -> None:
        before = self.store.stats()["position"]
        self.store.seal()
        assert self.store.stats()["position"] == before
        assert self.store.stats()["journal_segments"] <= 1
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

    def _point(self, agent: str, value: int) -> bytes:
        self.number += 1
        body: bytes = self.otlp.gauge("m", (self.number, float(value), {"agent": agent}))
        return body

    def _append(self, signal: str, agent: str, seq: int, body: bytes) -> Receipt:
        receipt = self.store.append(Batch(signal, body, "", agent, "boot", seq), body).result()
        assert not receipt.duplicate
        self._took(receipt, agent, seq)
        return receipt

    def _took(self, receipt: Receipt, agent: str, seq: int) -> None:
        assert receipt.received > self.received
        self.received = receipt.received
        self.high[agent] = max(seq, self.high.get(agent, 0))
        self.changed = True

    def _die(self) -> None:
        """Go on from a copy of the files as they lie."""
        old, self.folder = self.folder, self._new_folder()
        shutil.copytree(old, self.folder, dirs_exist_ok=True)
        self.store.close()
        shutil.rmtree(old)
        self.changed = True

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
