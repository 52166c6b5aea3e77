"""Ray's events become records with hex ids, our names and no secrets."""

import gzip
import json
import time
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from misstep.agent.ray import redaction, shape
from misstep.agent.ray.events import KINDS, Translator, actor_of
from misstep.agent.records import Records
from misstep.core import names

SESSION = "local/ray/lab/2026-11-20_09-49-30_276594_21621"
WHOLE = Path(__file__).parents[3] / "shared" / "samples" / "ray" / "events" / "whole_session.jsonl.gz"


def translate(events: list[Any], read: Any, **options: Any) -> list[Any]:
    out = Records(1)
    translator = Translator("local", "lab", **options)
    for event in events:
        translator.add(event, out)
    assert not out.gaps
    found: list[Any] = read(out.events)
    return found


def pick(records: list[Any], name: str, **attributes: Any) -> Any:
    wanted = {key.replace("__", "."): value for key, value in attributes.items()}
    for record in records:
        if record.name == name and wanted.items() <= record.attributes.items():
            return record
    raise AssertionError(f"no {name} with {wanted}")


@pytest.fixture
def records(sample: Callable[[str], Any], read: Any) -> list[Any]:
    return translate(sample("events.json"), read)


def test_every_record_says_whose_it_is(records: list[Any], sample: Callable[[str], Any]) -> None:
    assert len(records) == len(sample("events.json"))
    for record in records:
        event = names.event(record.name)
        assert record.attributes[names.SESSION] == SESSION
        assert record.attributes[names.ENTITY].startswith(event.subject + "/")
        assert record.attributes[names.SOURCE] == "ray_events"
        assert len(bytes.fromhex(record.attributes[names.EVENT_ID])) == 28
        assert record.attributes.get(names.STATE, "") in ("", *event.states)


def test_a_failed_task_carries_its_error(records: list[Any]) -> None:
    failed = pick(records, "ray.task.lifecycle", ray__error__type="TASK_EXECUTION_EXCEPTION")
    assert failed.attributes[names.STATE] == "FAILED"
    assert failed.severity == 17
    assert "\x1b" not in failed.body
    assert failed.json["rayErrorInfo"]["errorMessage"].startswith("User exception:\nray::")
    last = failed.json["stateTransitions"][-1]["timestamp"]
    assert failed.time == shape.nanoseconds(last)


def test_worker_and_node_are_entities(records: list[Any]) -> None:
    sent = next(r for r in records if r.name == "ray.task.lifecycle" and names.RAY_WORKER in r.attributes)
    worker, node = sent.attributes[names.RAY_WORKER], sent.attributes[names.RAY_NODE]
    assert len(worker) == len(node) == 56
    assert sent.attributes[names.WORKER_ENTITY] == f"ray_worker/{worker}"
    assert sent.attributes[names.NODE_ENTITY] == f"ray_node/{node}"
    dead = pick(records, "ray.worker.lifecycle", ray__worker__exit_type="SYSTEM_ERROR")
    assert (dead.attributes[names.STATE], dead.severity) == ("DEAD", 17)
    quiet = pick(records, "ray.worker.lifecycle", ray__worker__exit_type="INTENDED_USER_EXIT")
    assert quiet.severity == 9


def test_definitions_name_task_job_and_submission(records: list[Any]) -> None:
    task = pick(records, "ray.task.definition", ray__task__name="on_a")
    assert task.attributes[names.RAY_JOB] == "02000000"
    assert task.attributes[names.JOB_ENTITY] == "job/02000000"
    assert task.json["requiredResources"] == {"A": 0.1, "CPU": 0.2}
    job = pick(records, "ray.job.definition")
    assert job.attributes[names.RAY_SUBMISSION] == "my-named-job2"
    assert job.attributes[names.PID] == 29689
    actor = pick(records, "ray.actor.definition")
    assert actor.attributes[names.RAY_ACTOR_CLASS] == "JobSupervisor"
    call = pick(records, "ray.actor_task.definition")
    assert call.attributes[names.ACTOR_ENTITY] == "actor/" + actor_of(call.attributes[names.RAY_TASK])


def test_no_value_of_the_environment_travels(records: list[Any]) -> None:
    with_environment = [r for r in records if "env_vars" in r.body]
    assert with_environment
    for record in with_environment:
        environment = json.loads(
            record.json.get("serializedRuntimeEnv") or record.json["config"]["serializedRuntimeEnv"]
        )
        assert set(environment["env_vars"].values()) == {redaction.HIDDEN}


def test_snake_case_says_the_same(sample: Callable[[str], Any], read: Any) -> None:
    (record,) = translate(sample("events_snake_case.json"), read)
    assert record.name == "ray.worker.lifecycle"
    assert record.attributes[names.RAY_EXIT_TYPE] == "NODE_OUT_OF_MEMORY"
    death = record.json["stateTransitions"][0]["deathInfo"]
    assert death["memoryUsedBytes"] == "4397465600"
    assert "Memory usage 6331015168B exceeded threshold" in death["exitDetail"]


def test_a_definition_finds_its_process(sample: Callable[[str], Any], read: Any) -> None:
    asked: list[tuple[str, str, str, int]] = []

    def locate(*where: Any) -> str:
        asked.append(where)
        return f"process/h/{where[3]}/1"

    records = translate(sample("events.json"), read, locate=locate)
    worker = pick(records, "ray.worker.definition")
    assert worker.attributes[names.PROCESS_ENTITY] == f"process/h/{worker.attributes[names.PID]}/1"
    assert {role for _, role, _, _ in asked} == {"ray_worker", "ray_driver", "raylet"}


def test_types_that_ray_does_not_send_yet(read: Any) -> None:
    def event(kind: str, key: str, inner: dict[str, Any]) -> dict[str, Any]:
        return {
            "eventId": "AAAA",
            "eventType": kind,
            "sessionName": "session_x",
            "timestamp": "2026-11-20T09:49:36.425780042Z",
            key: inner,
        }

    time_ = {"timestamp": "2026-11-20T09:49:37Z"}
    records = translate(
        [
            event("PLACEMENT_GROUP_LIFECYCLE_EVENT", "placementGroupLifecycleEvent",
                  {"placementGroupId": "Qnam", "stateTransitions": [{"state": "PENDING", **time_}]}),
            event("PLACEMENT_GROUP_DEFINITION_EVENT", "placementGroupDefinitionEvent",
                  {"placementGroupId": "Qnam", "creatorJobId": "AgAAAA==", "bundles": [{"unitResources": {"my_res": 1}}]}),
            event("SUBMISSION_JOB_LIFECYCLE_EVENT", "submissionJobLifecycleEvent",
                  {"submissionId": "sub", "stateTransitions": [{"state": "FAILED", "errorType": "X", **time_}]}),
            event("SUBMISSION_JOB_DEFINITION_EVENT", "submissionJobDefinitionEvent",
                  {"submissionId": "sub", "entrypoint": "python a.py --api-key=abc", "config": {"metadata": {"my_token": "t", "a_b": "c"}}}),
            event("PLATFORM_EVENT", "platformEvent", {"message": "m"}),
        ],
        read,
    )  # fmt: skip
    group, definition, submission, submitted, platform = records
    assert (group.attributes[names.ENTITY], group.attributes[names.STATE]) == ("group/4276a6", "PENDING")
    assert definition.json["bundles"] == [{"unitResources": {"my_res": 1}}]
    assert definition.attributes[names.RAY_JOB] == "02000000"
    assert (submission.attributes[names.ENTITY], submission.severity) == ("job/sub", 17)
    assert submitted.json["entrypoint"] == "python a.py --api-key=***"
    assert submitted.json["config"]["metadata"] == {"my_token": "***", "a_b": "c"}
    assert names.ENTITY not in platform.attributes


@pytest.mark.parametrize(
    "event",
    [7, None, [], {}, {"eventType": "NEW_EVENT", "newEvent": {}}, {"eventType": "TASK_LIFECYCLE_EVENT"},
     {"eventType": "TASK_LIFECYCLE_EVENT", "taskLifecycleEvent": []}],
)  # fmt: skip
def test_what_is_not_understood_is_counted(event: object) -> None:
    out = Records(1)
    assert not Translator("local", "lab").add(event, out)
    assert not out.events
    assert sum(out.gaps.values()) == 1


@pytest.mark.parametrize(
    "inner",
    [{"taskId": 5, "stateTransitions": "x"}, {"taskId": "!", "stateTransitions": [5]}, {"rayErrorInfo": "x", "taskAttempt": "y"},
     {"stateTransitions": [{"state": None, "timestamp": 7}]}],
)  # fmt: skip
def test_nonsense_inside_an_event_does_no_harm(inner: dict[str, Any]) -> None:
    out = Records(1)
    assert Translator("local", "lab").add(
        {"eventType": "TASK_LIFECYCLE_EVENT", "taskLifecycleEvent": inner}, out
    )
    assert len(out.events) == 1


def test_long_texts_keep_head_and_tail() -> None:
    text = shape.text("a" * 100 + "x" * 500_000 + "the cause")
    assert len(text) < 40_000
    assert text.startswith("a" * 100)
    assert text.endswith("the cause")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2026-11-20T09:50:30.686551351Z", 1795168230686551351), ("2026-11-20T09:50:30Z", 1795168230000000000),
     ("2026-11-20T09:50:30.5Z", 1795168230500000000), ("", 0), ("not a time at all....", 0), (None, 0)],
)  # fmt: skip
def test_times(text: object, expected: int) -> None:
    assert shape.nanoseconds(text) == expected


def test_secrets_by_name() -> None:
    held = redaction.redacted({
        "env_vars": {"A": "1"}, "pip": ["https://me:pw@host/x.whl"], "aws_secret_access_key": "s", "tokenizer": 3,
        "config": {"apiKey": "k", "monkey": "m"},
    })  # fmt: skip
    assert held["env_vars"] == {"A": "***"}
    assert held["pip"] == ["https://***@host/x.whl"]
    assert held["aws_secret_access_key"] == "***"
    assert held["config"] == {"apiKey": "***", "monkey": "m"}
    assert redaction.runtime_environment("not json") == "***"
    assert redaction.command("curl -H 'Authorization: Bearer abcdefgh' --password hunter2 x") == (
        "curl -H 'Authorization: Bearer ***' --password *** x"
    )


def test_a_whole_session(read: Any) -> None:
    if not WHOLE.exists():
        pytest.skip("the captured session is not here")
    out = Records(1)
    translator = Translator("local", "lab")
    with gzip.open(WHOLE) as lines:
        events = [json.loads(line) for line in islice(lines, 4000)]
    began = time.process_time()
    assert all(translator.add(event, out) for event in events)
    cost = (time.process_time() - began) / len(events)
    kinds = Counter(record.name for record in read(out.events))
    assert kinds == Counter(KINDS[event["eventType"]].event for event in events)
    assert cost < 1e-3  # seconds per event; about 60 µs on an idle machine
