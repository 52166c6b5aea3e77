"""Limits are decided when a request comes, told to its sender, counted, and never decided again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from misstep.core import names
from misstep.core.errors import InputError
from misstep.store.limits import Limits
from misstep.store.request import Batch, Receipt
from misstep.store.store import Store
from misstep.store.verdict import UNDECODABLE, Verdict

Opener = Callable[..., Store]


def many(otlp: Any, first: int, count: int) -> bytes:
    body: bytes = otlp.gauge("m", *((5, 1.0, {"id": str(i)}) for i in range(first, first + count)))
    return body


def test_a_hundred_thousand_label_sets_in_one_request(open_store: Opener, otlp: Any) -> None:
    store = open_store(limits=Limits(series_per_request=50_000))
    receipt = otlp.send(store, "metrics", many(otlp, 0, 100_000))
    assert receipt.rejected == 50_000
    assert "series_per_request" in receipt.warning
    assert store.stats()["dropped.series_per_request"] == 50_000
    assert store.stats()["series_live"] == 50_000
    assert len(store.view().series(names=["m"])) == 50_000
    assert otlp.send(store, "metrics", many(otlp, 0, 50_000)).rejected == 0, "known series are welcome"


def test_series_in_all(open_store: Opener, otlp: Any) -> None:
    store = open_store(limits=Limits(series=10))
    assert otlp.send(store, "metrics", many(otlp, 0, 8)).rejected == 0
    receipt = otlp.send(store, "metrics", many(otlp, 4, 8))
    assert receipt.rejected == 2
    labels = {own["id"] for _, _, own in store.view().series()}
    assert labels == {str(i) for i in range(10)}, "the last to appear are rejected"


def test_series_that_fell_silent_make_room(open_store: Opener, otlp: Any, clock: Any) -> None:
    store = open_store(limits=Limits(series=10))
    otlp.send(store, "metrics", many(otlp, 0, 10))
    for _ in range(3):
        clock.advance(3601)
        otlp.send(store, "metrics", many(otlp, 0, 1))
    assert otlp.send(store, "metrics", many(otlp, 100, 9)).rejected == 0


@pytest.mark.parametrize(
    ("labels", "reason"),
    [({f"l{i}": "x" for i in range(5)}, "labels_per_series"), ({"l": "ä" * 6}, "label_length")],
)
def test_shape_of_labels(open_store: Opener, otlp: Any, labels: dict[str, str], reason: str) -> None:
    store = open_store(limits=Limits(labels_per_series=4, label_length=10))
    receipt = otlp.send(store, "metrics", otlp.gauge("m", (5, 1.0, labels), (5, 2.0, {"l": "0123456789"})))
    assert receipt.rejected == 1
    assert store.stats()[f"dropped.{reason}"] == 1
    assert [one.values.tolist() for one in store.view().samples("m")] == [[2.0]]


def test_a_replay_applies_the_verdict_and_not_todays_limits(open_store: Opener, otlp: Any) -> None:
    store = open_store(limits=Limits(series=5))
    otlp.send(store, "metrics", many(otlp, 0, 8))
    before = store.view().series()
    store.close()
    for limits in (Limits(series=2), Limits()):
        again = open_store(limits=limits)
        assert again.view().series() == before
        assert len(before) == 5
        again.close()


def test_copies_of_events_are_stored_once_however_they_come(open_store: Opener, otlp: Any) -> None:
    def copies(*ids: str) -> bytes:
        body: bytes = otlp.log(*(("e", 5, {names.EVENT_ID: id}, f"event {id}") for id in ids))
        return body

    store = open_store()
    assert otlp.send(store, "logs", copies("1", "1", "2")).rejected == 0
    otlp.send(store, "logs", copies("2", "3"))
    store.seal()
    otlp.send(store, "logs", copies("3", "4"))
    expected = ["event 1", "event 2", "event 3", "event 4"]
    assert [row.body for row in store.view().logs()] == expected
    assert store.stats()["dropped.duplicate_event"] == 3
    store.close()
    again = open_store()
    otlp.send(again, "logs", copies("1", "4", "5"))
    assert [row.body for row in again.view().logs()] == [*expected, "event 5"]


def test_malformed_requests_are_refused_and_those_beside_them_stored(open_store: Opener, otlp: Any) -> None:
    store = open_store()
    with pytest.raises(InputError, match="not a request of logs"):
        otlp.send(store, "logs", b"\xff\xff\xff", agent="a", seq=1)
    with pytest.raises(InputError, match="unknown signal"):
        otlp.send(store, "profiles", b"")
    assert otlp.send(store, "logs", otlp.log(("", 5, {}, "x")), agent="a", seq=2).seq == 1
    assert store.stats()["requests_malformed"] == 1


def test_one_malformed_request_among_many_that_wait(open_store: Opener, otlp: Any) -> None:
    from concurrent.futures import Future

    from misstep.store.request import Receipt, Waiting

    store = open_store()
    bodies = [otlp.log(("", 5, {}, f"line {i}")) for i in range(9)]
    bodies[5] = b"\xff\xff"
    group = [Waiting(Batch("logs", body), body, Future[Receipt]()) for body in bodies]
    store._commit.store(group)
    store._arrivals.flush(store._hot)
    outcomes = [waiting.future.exception() for waiting in group]
    assert [type(o) for o in outcomes if o] == [InputError]
    assert outcomes[5] is not None
    assert [row.body for row in store.view().logs()] == [f"line {i}" for i in range(9) if i != 5]


def test_what_only_we_cannot_decode_is_put_aside(open_store: Opener, otlp: Any) -> None:
    """A verdict from another version says so; the payload outlives its segment."""
    store = open_store()
    body = otlp.log(("", 5, {}, "x"))
    receipt = store.append(Batch("logs", body, verdict=UNDECODABLE), body).result()
    assert receipt.rejected == 1
    store.seal()
    assert store.view().logs() == []
    assert (store._commit._quarantine / f"{receipt.seq:020d}.logs").read_bytes() == body


def test_verdicts_survive_their_encoding() -> None:
    verdict = Verdict(np.array([0, 5, 0, 8, 8], np.uint8), {1: 7})
    again = Verdict.from_bytes(verdict.to_bytes(), 5)
    assert again.codes.tolist() == [0, 5, 0, 8, 8]
    assert again.counts() == {"unsupported_type": 7, "labels_per_series": 1, "series_limit": 2}
    assert Verdict(np.zeros(3, np.uint8)).to_bytes() == b""
    for damaged in (b"\x01", b"\x09abc", verdict.to_bytes()[:-3]):
        with pytest.raises(ValueError, match="verdict"):
            Verdict.from_bytes(damaged, 5)
    with pytest.raises(ValueError, match="5 items"):
        Verdict.from_bytes(verdict.to_bytes(), 6)


def test_series_of_one_tenant(open_store: Opener, otlp: Any, clock: Any) -> None:
    store = open_store(limits=Limits(series_per_tenant=10))

    def send(tenant: str, first: int, count: int) -> Receipt:
        body = many(otlp, first, count)
        return store.append(Batch("metrics", body, tenant=tenant), body).result(timeout=60)

    assert send("a", 0, 8).rejected == 0
    over = send("a", 4, 8)
    assert over.rejected == 2
    assert "series_per_tenant" in over.warning
    for _ in range(4):
        assert send("a", 0, 10).rejected == 0, "its own series are welcome, read the short way too"
        clock.advance(1000)
    assert send("b", 0, 10).rejected == 0, "another tenant has room of its own"
    assert send("", 50, 20).rejected == 0
    assert send("a", 90, 1).rejected == 1
    for _ in range(3):
        clock.advance(3601)
        send("a", 0, 1)
    assert send("a", 90, 9).rejected == 0, "series that fell silent make room"
    assert store.stats()["dropped.tenant_series"] == 3
