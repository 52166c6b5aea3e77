"""The query functions, on memory, on the lake and on both, as of any time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from misstep.core import names
from misstep.core.clock import SECOND
from misstep.core.settings import StoreSettings
from misstep.store.rows import RelationRow
from misstep.store.store import Store

Opener = Callable[..., Store]
WORKER, NODE = "ray_worker/w1", "ray_node/n1"


def tell(store: Store, otlp: Any) -> None:
    """A small story: a session, a worker on a node, a task that runs twice, a line, samples, the end."""
    event = otlp.event
    shared = {"misstep.session": otlp.session}
    for body in (
        otlp.log(event("session.start", 10, ray__version="2.60.0")),
        otlp.log(
            event("ray.worker.definition", 11, WORKER, misstep__node=NODE, misstep__process="process/h/7/1"),
            event("ray.worker.lifecycle", 11, WORKER, "ALIVE"),
            event("ray.worker.definition", 12, "ray_worker/w2", misstep__node=NODE),
        ),
        otlp.log(
            event(
                "ray.task.lifecycle", 20, "task/t1", "RUNNING", misstep__worker=WORKER, ray__task__attempt="0"
            ),
            ("", 21, shared, "Traceback (most recent call last)"),
        ),
    ):
        otlp.send(store, "logs", body)
    otlp.send(
        store,
        "metrics",
        otlp.gauge("process.memory.usage", *((t, float(t), shared | {"pid": "7"}) for t in (22, 23))),
    )
    otlp.send(store, "metrics", otlp.gauge("process.memory.usage", (22, 5.0, {"pid": "8"})))
    otlp.send(
        store,
        "logs",
        otlp.log(
            event("ray.worker.lifecycle", 30, WORKER, "DEAD", body='{"exitType":"x"}'),
            event(
                "ray.task.lifecycle",
                31,
                "task/t1",
                "RUNNING",
                misstep__worker="ray_worker/w2",
                ray__task__attempt="1",
            ),
            event("ray.task.lifecycle", 35, "task/t1", "FINISHED", misstep__worker="ray_worker/w2"),
        ),
    )
    otlp.send(store, "logs", otlp.log(event("session.end", 40, state="lost", body="nobody answers")))


@pytest.fixture(scope="module", params=["hot", "lake", "both", "reopened"])
def told(
    request: pytest.FixtureRequest, otlp: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    """The story, lying in different places; what is asked must not depend on it."""
    place = request.param
    folder = tmp_path_factory.mktemp(place)
    settings = StoreSettings(hot_bytes=0 if place in ("lake", "both") else 1 << 30)
    store = Store.open(folder, settings, background=False)
    if place == "both":
        otlp.send(store, "logs", otlp.log(("", 1, {}, "earlier")))
        store.seal()
    tell(store, otlp)
    if place in ("lake", "reopened"):
        store.seal()
    if place == "reopened":
        store.close()
        store = Store.open(folder, settings, background=False)
    yield store
    store.close()


def test_logs_by_every_filter(told: Store, otlp: Any) -> None:
    view = told.view()
    mine = view.logs(session=otlp.session)
    assert [(row.seq, row.row) for row in mine] == sorted((row.seq, row.row) for row in mine)
    assert [row.event for row in mine][:2] == ["session.start", "ray.worker.definition"]
    assert mine[1].resource == {"host.name": "h1"}
    assert mine[1].attributes == {"misstep.node": NODE, "misstep.process": "process/h/7/1"}
    assert [row.ts for row in view.logs(events=["ray.task.lifecycle"], states=["RUNNING"])] == [20, 31]
    assert [row.ts for row in view.logs(entities=[WORKER])] == [11, 11, 30]
    assert [row.ts for row in view.logs(attributes={"ray.task.attempt": "1"})] == [31]
    assert [row.ts for row in view.logs(attributes={names.ENTITY: "task/t1", names.STATE: "FINISHED"})] == [
        35
    ]
    assert [row.body for row in view.logs(session=otlp.session, plain=True)] == [
        "Traceback (most recent call last)"
    ]
    assert [row.ts for row in view.logs(contains=["exitType", "Traceback"])] == [21, 30]
    assert [row.ts for row in view.logs(session=otlp.session, since=20, until=31)] == [20, 21, 30]
    assert view.logs(min_severity=9) == []
    first = view.logs(session=otlp.session, limit=3)
    rest = view.logs(session=otlp.session, after=(first[-1].seq, first[-1].row))
    assert first + rest == mine
    assert view.logs(session=otlp.session, limit=2, newest=True) == mine[-2:]
    counts = view.count_logs(session=otlp.session, by="event")
    assert counts == {
        "": 1,
        "ray.task.lifecycle": 3,
        "ray.worker.definition": 2,
        "ray.worker.lifecycle": 2,
        "session.end": 1,
        "session.start": 1,
    }
    assert view.count_logs(session=otlp.session) == {"": len(mine)}


def test_samples_and_series(told: Store, otlp: Any) -> None:
    view = told.view()
    found = view.samples("process.memory.usage", {"pid": "7"})
    assert [(one.labels, one.ts.tolist(), one.values.tolist()) for one in found] == [
        ({"misstep.session": otlp.session, "pid": "7"}, [22, 23], [22.0, 23.0])
    ]
    assert [one.ts.tolist() for one in view.samples("process.memory.usage", since=23)] == [[23]]
    assert view.samples("process.memory.usage", since=1_000_000) == []
    assert [one.labels["pid"] for one in view.samples("process.memory.usage", until=23)] == ["7", "8"]
    assert view.samples("no.such") == []
    assert [(name, own) for _, name, own in view.series(labels={"pid": "8"})] == [
        ("process.memory.usage", {"pid": "8"})
    ]


def test_sessions(told: Store, otlp: Any) -> None:
    (session,) = told.view().sessions()
    assert (session.session, session.kind, session.name) == (otlp.session, "ray", "ray")
    assert (session.started, session.ended, session.state) == (10, 40, "lost")
    assert session.attributes == {"ray.version": "2.60.0"}
    assert session.heard == told.view().position()[1]


def test_entities(told: Store, otlp: Any) -> None:
    view = told.view()
    task, worker = view.entities(kind="task")[0], view.entities(ids=[WORKER])[0]
    assert (task.first_seen, task.last_seen, task.ended, task.state) == (20, 35, 35, "FINISHED")
    assert task.attributes == {"ray.task.attempt": "1", "misstep.worker": "ray_worker/w2"}
    assert (worker.ended, worker.state, worker.session) == (30, "DEAD", otlp.session)
    assert [e.entity for e in view.entities(session=otlp.session)] == [WORKER, "ray_worker/w2", "task/t1"]
    assert view.entities(session="other") == []


def test_relations_begin_with_their_event_and_end_with_either_side(told: Store, otlp: Any) -> None:
    view = told.view()

    def row(source: str, relation: str, target: str, start: int, end: int | None) -> RelationRow:
        return RelationRow(source, relation, target, otlp.session, start, end)

    assert view.relations(session=otlp.session) == [
        row(WORKER, "is", "process/h/7/1", 11, 30),
        row(WORKER, "runs_on", NODE, 11, 30),
        row("ray_worker/w2", "runs_on", NODE, 12, None),
        row("task/t1", "runs_on", WORKER, 20, 30),
        row("task/t1", "runs_on", "ray_worker/w2", 31, 35),
    ]
    assert [r.target for r in view.relations(source="task/t1", at=25)] == [WORKER]
    assert [r.source for r in view.relations(target=NODE, at=33)] == ["ray_worker/w2"]


def test_a_process_uses_several_gpus_until_it_gives_each_back(open_store: Opener, otlp: Any) -> None:
    store = open_store()
    rank, first, second = "process/h/7/1", "gpu/h/0000:18:00", "gpu/h/0000:28:00"

    def held(ts: int, state: str, gpu: str, process: str = rank) -> Any:
        return otlp.event("hw.gpu.process", ts, process, state, misstep__gpu=gpu)

    otlp.send(
        store, "logs", otlp.log(held(10, "held", first), held(11, "held", second), held(12, "held", first))
    )
    otlp.send(store, "logs", otlp.log(held(13, "held", first, "process/h/8/1")))
    otlp.send(store, "logs", otlp.log(held(20, "released", first), held(30, "held", first)))
    otlp.send(store, "logs", otlp.log(otlp.event("process.exit", 40, rank, "killed")))
    assert [(r.source, r.target, r.valid_from, r.valid_to) for r in store.view().relations()] == [
        (rank, first, 10, 20),
        (rank, second, 11, 40),
        ("process/h/8/1", first, 13, None),
        (rank, first, 30, 40),
    ]


def test_a_process_is_in_its_container_and_that_in_its_pod(open_store: Opener, otlp: Any) -> None:
    store = open_store()
    place = {"misstep__container": "container/c1", "misstep__pod": "pod/u1"}
    otlp.send(store, "logs", otlp.log(otlp.event("process.start", 10, "process/h/7/1", **place)))
    otlp.send(store, "logs", otlp.log(otlp.event("process.exit", 40, "process/h/7/1", "exited")))
    assert [(r.source, r.relation, r.target, r.valid_to) for r in store.view().relations()] == [
        ("container/c1", "in", "pod/u1", None),
        ("process/h/7/1", "in", "container/c1", 40),
    ]


def test_a_view_of_the_past_sees_what_was_known_then(open_store: Opener, otlp: Any, clock: Any) -> None:
    store = open_store()
    moments = []
    for number in range(4):
        moments.append(clock.now())
        otlp.send(store, "logs", otlp.log(otlp.event("e", 5, "task/t1", f"S{number}")))
        otlp.send(store, "metrics", otlp.gauge(f"m{number}", (5, 1.0, {})))
        clock.advance(1)
        if number == 1:
            store.seal()
    for number, moment in enumerate(moments):
        view = store.view(until=moment + 1)
        assert view.position() == (2 * number + 1, moment)
        assert [row.state for row in view.logs()] == [f"S{i}" for i in range(number + 1)]
        assert view.entities()[0].state == f"S{number}"
        assert len(view.series()) == number
    assert store.view(until=moments[0]).position() == (0, 0)
    assert store.view(until=moments[0]).logs() == []


def test_a_view_does_not_move(open_store: Opener, otlp: Any) -> None:
    store = open_store(hot_bytes=0)
    otlp.send(store, "logs", otlp.log(("", 1, {}, "first")))
    view = store.view()
    otlp.send(store, "logs", otlp.log(("", 1, {}, "second")))
    store.seal()
    assert [row.body for row in view.logs()] == ["first"]
    assert [row.body for row in store.view().logs()] == ["first", "second"]


def test_the_same_input_twice_gives_the_same_answers(open_store: Opener, otlp: Any, tmp_path: Any) -> None:
    answers = []
    for name in ("one", "two"):
        store = open_store(tmp_path / name)
        tell(store, otlp)
        if name == "two":
            store.seal()
        view = store.view()
        answers.append(
            [
                [row._replace(received=0) for row in view.logs()],
                view.series(),
                [(s.labels, s.values.tolist()) for s in view.samples("process.memory.usage")],
                view.entities(),
                view.relations(),
            ]
        )
    assert answers[0] == answers[1]


def test_ingested_closes_the_past(open_store: Opener, otlp: Any, clock: Any) -> None:
    store = open_store()
    tick = clock.now()
    assert not store.ingested(tick + SECOND)
    assert store.ingested(tick)
    clock.jump(-5)
    receipt = otlp.send(store, "logs", otlp.log(("", 1, {}, "x")))
    assert receipt.received >= tick, "the clock went back; what was declared complete stays complete"
    assert store.ingested(tick)


def test_incidents_keep_their_versions(open_store: Opener) -> None:
    store = open_store()
    store.save_incidents(1, [("b", "s", '{"v":1}'), ("a", "s", '{"v":1}')])
    store.save_incidents(2, [("b", "s", '{"v":2}'), ("c", "other", '{"v":9}')])
    store.save_incidents(3, [])
    store.close()
    again = open_store()
    assert again.last_tick() == 3
    assert again.incidents(session="s") == [{"v": 1}, {"v": 2}]
    assert again.incidents(at=1) == [{"v": 1}, {"v": 1}]
    assert again.incidents(session="other", at=1) == []
    again.save_incidents(2, [("b", "s", '{"v":3}')])
    assert again.last_tick() == 3, "a tick that is done again does not turn time back"
    assert again.incidents(session="s") == [{"v": 1}, {"v": 3}]
