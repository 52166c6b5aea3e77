"""The shapes that the API answers, held against its own description; `at`, cursors and errors."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

PREFIX = "/api/misstep/v1"
SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def story(collector: Any, otlp: Any) -> Iterator[dict[str, Any]]:
    """A short life of a Ray session with one failing task, in three requests."""
    base = time.time_ns()
    event = otlp.event
    start = event(
        "session.start", f"session/{otlp.SESSION}", ray__session__name="session_2026", ray__version="2.60.0"
    )
    node = event(
        "ray.node.lifecycle", "ray_node/aa11", "ALIVE", ray__node__id="aa11", ray__node__name="node-1"
    )
    worker = event(
        "ray.worker.definition", "ray_worker/bb22", ray__worker__id="bb22", process__pid=4242,
        misstep__node="ray_node/aa11",
    )  # fmt: skip
    task = {"ray__task__id": "cc33", "ray__task__name": "tokenize", "misstep__worker": "ray_worker/bb22"}
    running = event("ray.task.lifecycle", "task/cc33", "RUNNING", **task)
    failed = event("ray.task.lifecycle", "task/cc33", "FAILED", ray__error__type="OUT_OF_MEMORY", **task)
    blind = event(
        "source.state", "host/5f1c9a", "unsupported", misstep__source="ray_events",
        misstep__source__reason="this Ray has no dashboard", misstep__source__remedy="pip install 'ray[default]'",
    )  # fmt: skip
    lines = [
        {
            "body": f"line {i}",
            "ts": base + i,
            "attributes": {"misstep.session": otlp.SESSION, "ray.worker.id": "bb22"},
        }
        for i in range(5)
    ]
    for step, records in enumerate([[start, node, worker, running], lines, [failed, blind]]):
        for i, record in enumerate(records):
            record.setdefault("ts", base + step * SECOND + i)
        assert collector.send(otlp.logs(*records)).status == 200
    rows = collector.until(lambda: len(r := collector.ask("logs", session=otlp.SESSION)["logs"]) == 11 and r)
    yield {"base": base, "rows": rows, "session": otlp.SESSION}


@pytest.fixture(scope="module")
def description(collector: Any) -> Any:
    return collector.ask("openapi.json")


def check(description: Any, path: str, status: int, answer: Any) -> None:
    """Hold an answer against the description."""
    responses = description["paths"][PREFIX + path]["get"]["responses"]
    schema = dict(responses[str(status)]["content"]["application/json"]["schema"])
    jsonschema.validate(answer, {**schema, "components": description["components"]})


@pytest.mark.parametrize("path", ["/sessions", "/incidents", "/entities", "/logs", "/timeline"])
@pytest.mark.parametrize("query", ["", "?at=1000", "?limit=2", "?session=local/ray/none/1"])
def test_answers_are_as_described(
    collector: Any, story: Any, description: Any, path: str, query: str
) -> None:
    if "session" in query and path == "/sessions":
        query = ""
    answer = collector.request("GET", PREFIX + path + query)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    check(description, path, 200, answer.json())


@pytest.mark.parametrize(
    "target",
    ["/sessions?limit=0", "/incidents?status=closed", "/entities?kind=cat", "/logs?at=never", "/timeline?cursor=x", "/logs?seson=1",
     "/logs?entity=task", "/logs?around=1&since=1"],
)  # fmt: skip
def test_mistakes_are_explained(collector: Any, description: Any, target: str) -> None:
    answer = collector.request("GET", PREFIX + target)
    assert answer.status == 400
    check(description, target.partition("?")[0], 400, answer.json())
    assert len(answer.json()["error"]) > 20


def test_what_is_not_there_is_404(collector: Any, description: Any) -> None:
    answer = collector.request("GET", f"{PREFIX}/incidents/none")
    assert answer.status == 404
    check(description, "/incidents/{id}", 404, answer.json())
    answer = collector.request("GET", f"{PREFIX}/unknown")
    assert (answer.status, f"{PREFIX}/sessions" in answer.json()["error"]) == (404, True)


def test_the_description_is_openapi(description: Any) -> None:
    assert description["openapi"].startswith("3.1")
    names = [o["get"]["operationId"] for o in description["paths"].values()]
    assert len(names) == len(set(names)) == 6
    for path in description["paths"].values():
        named = {p["name"] for p in path["get"]["parameters"]}
        assert "at" in named
        for answer in path["get"]["responses"].values():
            jsonschema.Draft202012Validator.check_schema(answer["content"]["application/json"]["schema"])


def test_lists_page_by_cursor_to_the_whole(collector: Any, story: Any) -> None:
    for path, name in (("logs", "logs"), ("entities", "entities")):
        whole = collector.ask(path, session=story["session"])[name]
        paged: list[Any] = []
        cursor: dict[str, str] = {}
        while True:
            answer = collector.ask(path, session=story["session"], limit=2, **cursor)
            assert len(answer[name]) <= 2
            paged += answer[name]
            if answer["cursor"] is None:
                break
            cursor = {"cursor": answer["cursor"]}
        assert len(whole) > 2
        assert paged == whole


def test_the_past_is_what_was_known_then(collector: Any, story: Any) -> None:
    received = sorted({row["received_ns"] for row in story["rows"]})
    before_lines = received[1]
    then = collector.ask("logs", session=story["session"], at=before_lines)["logs"]
    assert then == [row for row in story["rows"] if row["received_ns"] < before_lines]
    assert collector.ask("sessions", at=received[0])["sessions"] == []
    (task,) = collector.ask("entities", session=story["session"], kind="task", at=before_lines)["entities"]
    assert task["state"] == "RUNNING"
    (task,) = collector.ask("entities", session=story["session"], kind="task")["entities"]
    assert task["state"] == "FAILED"


def test_sessions(collector: Any, story: Any) -> None:
    (session,) = [s for s in collector.ask("sessions")["sessions"] if s["session"] == story["session"]]
    assert (session["kind"], session["name"], session["state"], session["ended_ns"]) == (
        "ray",
        "ray",
        "live",
        None,
    )
    assert session["heard_ns"] >= story["rows"][-1]["received_ns"]


def test_entities_carry_their_relations(collector: Any, story: Any) -> None:
    (task,) = collector.ask("entities", session=story["session"], entity="task/cc33")["entities"]
    assert [(r["relation"], r["target"]) for r in task["relations"]] == [("runs_on", "ray_worker/bb22")]


def test_filters_of_logs(collector: Any, story: Any) -> None:
    def bodies(**query: object) -> list[str]:
        rows = collector.ask("logs", session=story["session"], **query)["logs"]
        return [row["body"] or f"{row['event']} {row['state']}".strip() for row in rows]

    assert bodies(event="ray.task.lifecycle") == ["ray.task.lifecycle RUNNING", "ray.task.lifecycle FAILED"]
    assert bodies(contains="line 3") == ["line 3"]
    assert bodies(plain=1) == [f"line {i}" for i in range(5)]
    assert bodies(newest=1, limit=2, plain=1) == ["line 3", "line 4"]
    assert bodies(since=story["base"] + 1, until=story["base"] + 3, plain=1) == ["line 1", "line 2"]
    assert bodies(around=story["base"] + 3600 * SECOND) == []
    assert len(bodies(around=story["base"])) == 11


@pytest.mark.parametrize("entity", ["task/cc33", "task/tokenize", "ray_worker/4242", "ray_worker/bb22"])
def test_logs_of_an_entity_hold_the_lines_of_its_worker(collector: Any, story: Any, entity: str) -> None:
    rows = collector.ask("logs", session=story["session"], entity=entity)["logs"]
    assert [r["body"] for r in rows if not r["event"]] == [f"line {i}" for i in range(5)]
    assert {r["entity"] for r in rows if r["event"]} == {
        "task/cc33" if entity.startswith("task") else "ray_worker/bb22"
    }


def test_the_timeline_tells_turning_points(collector: Any, story: Any) -> None:
    entries = collector.ask("timeline", session=story["session"])["entries"]
    told = [e["statement"] for e in entries if e["kind"] == "event"]
    assert told == [
        f"session {story['session']} found",
        "node node-1 joins",
        "task tokenize fails (OUT_OF_MEMORY)",
    ]


def test_the_timeline_names_those_whose_events_do_not(collector: Any, otlp: Any) -> None:
    session = "local/ray/ray/2026-11-20_10-00-00_1_1"

    def event(name: str, entity: str, state: str, body: str) -> dict[str, Any]:
        made = otlp.event(name, entity, state)
        made["attributes"]["misstep.session"] = session
        return {**made, "body": body}

    actor = "ab" * 12 + "01000000"
    records = [
        event("ray.task.definition", "task/ff01", "", '{"taskName": "tokenize", "taskType": "NORMAL_TASK"}'),
        event("ray.actor.definition", f"actor/{actor}", "", '{"className": "jobs.Trainer"}'),
        event("ray.worker.definition", "ray_worker/ee01", "", '{"pid": 4711}'),
        event("ray.node.definition", "ray_node/dd01", "", '{"nodeName": "node-7"}'),
        event("ray.node.lifecycle", "ray_node/dd01", "ALIVE", "{}"),
        event("ray.task.lifecycle", "task/ff01", "FAILED", "{}"),
        event("ray.actor.lifecycle", f"actor/{actor}", "DEAD", "{}"),
        event("ray.worker.lifecycle", "ray_worker/ee01", "DEAD", "{}"),
        event("ray.task.lifecycle", "task/ff02", "FAILED", "{}"),
    ]
    now = time.time_ns()
    assert collector.send(otlp.logs(*({**r, "ts": now + i} for i, r in enumerate(records)))).status == 200
    entries = collector.until(
        lambda: len(e := collector.ask("timeline", session=session)["entries"]) == 5 and e
    )
    assert [entry["statement"] for entry in entries] == [
        "node node-7 joins", "task tokenize fails", "actor Trainer is dead", "worker 4711 ends", "task ff02 fails",
    ]  # fmt: skip


def test_logs_are_followed_by_their_end(collector: Any, otlp: Any) -> None:
    session = "local/ray/ray/2026-11-20_11-00-00_1_1"

    def send(*bodies: str) -> None:
        lines = [{"body": body, "attributes": {"misstep.session": session}} for body in bodies]
        assert collector.send(otlp.logs(*lines)).status == 200

    send("a", "b")
    page = collector.until(
        lambda: len((p := collector.ask("logs", session=session, newest="true"))["logs"]) == 2 and p
    )
    assert collector.ask("logs", session=session, cursor=page["end"])["logs"] == []
    send("c", "d", "e")
    after = collector.until(
        lambda: (p := collector.ask("logs", session=session, cursor=page["end"], limit=2))["logs"] and p
    )
    assert [r["body"] for r in after["logs"]] == ["c", "d"]
    assert [r["body"] for r in collector.ask("logs", session=session, cursor=after["end"])["logs"]] == ["e"]


def test_incidents_say_what_could_not_be_seen_and_how_things_stand(collector: Any, story: Any) -> None:
    answer = collector.until(
        lambda: (
            (a := collector.ask("incidents", session=story["session"]))["as_of_ns"]
            > story["rows"][-1]["received_ns"]
            and a
        )
    )
    assert answer["settled"] is False
    assert answer["summary"]["tasks"] == {"FAILED": 1}
    assert answer["unseen"] == [
        {
            "source": "ray_events",
            "reason": "this Ray has no dashboard",
            "remedy": "pip install 'ray[default]'",
        }
    ]


def test_health_and_metrics(collector: Any) -> None:
    assert collector.request("GET", "/healthz").status == 200
    collector.until(lambda: collector.request("GET", "/readyz").status == 200)
    answer = collector.request("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    values = collector.metrics()
    assert values["misstep_collector_ack_seconds_count"] > 0
    assert values["process_resident_memory_bytes"] > 0
    collector.until(lambda: collector.metrics()["misstep_collector_diagnosis_ticks_total"] > 0)
