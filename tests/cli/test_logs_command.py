"""`misstep logs` and `misstep show` against a collector that answers from a table."""

import json
from typing import Any

import pytest

from misstep.cli.commands import logs
from misstep.cli.main import main
from misstep.core.client import Client
from misstep.core.exits import Exit

SECOND = 10**9
T = 1795183351 * SECOND


def row(seq: int, **changes: Any) -> dict[str, Any]:
    return {
        "seq": seq, "row": 0, "received_ns": T, "ts_ns": T + seq * SECOND, "event": "", "severity": 9, "session": "s",
        "entity": "", "state": "", "body": f"line {seq}", "attributes": {}, "resource": {}, **changes,
    }  # fmt: skip


@pytest.fixture
def ray(collector: Any) -> Any:
    session = {
        "session": "local/ray/ray/2026-11-20_14-01-50_1_1", "kind": "ray", "name": "ray", "state": "live",
        "started_ns": T, "ended_ns": None, "heard_ns": T + 60 * SECOND, "attributes": {}, "incidents": 0,
    }  # fmt: skip
    collector.answers["sessions"] = lambda query: {"sessions": [session], "cursor": None}
    collector.rows = [row(2), row(1), row(3)]
    collector.answers["logs"] = lambda query: {"logs": collector.rows, "cursor": None, "end": "e"}
    return collector


def test_lines_come_by_time(ray: Any, capsys: Any) -> None:
    assert main(["logs", "--collector", ray.url]) == Exit.OK
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == ["1", "2", "3"]
    assert ray.queries("logs")[0]["newest"] == ["true"]


def test_questions_reach_the_collector(ray: Any) -> None:
    flags = ["--around", "14:02:31", "--grep", "Traceback", "--grep", "Error", "--lines", "-n", "50"]
    main(["logs", "task/tokenize", "--collector", ray.url, *flags])
    query = ray.queries("logs")[0]
    assert query["entity"] == ["task/tokenize"]
    assert query["contains"] == ["Traceback", "Error"]
    assert query["plain"] == ["true"]
    assert query["limit"] == ["50"]
    assert "newest" not in query
    assert int(query["around"][0]) % (60 * SECOND) == 31 * SECOND


def test_a_bare_word_is_a_task_or_an_actor(ray: Any) -> None:
    main(["logs", "tokenize", "--collector", ray.url])
    assert ray.queries("logs")[0]["entity"] == ["task/tokenize", "actor/tokenize"]


def test_pages_are_followed_and_the_limit_is_said(ray: Any, capsys: Any) -> None:
    ray.answers["logs"] = lambda query: {
        "logs": [row(int(query.get("cursor", ["0"])[0]))],
        "cursor": str(int(query.get("cursor", ["0"])[0]) + 1),
        "end": "e",
    }
    assert main(["logs", "--since", "-5m", "-n", "3", "--collector", ray.url]) == Exit.OK
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    assert "more with -n 30" in err


def test_nothing_stored_is_said(ray: Any, capsys: Any) -> None:
    ray.rows = []
    assert main(["logs", "--collector", ray.url]) == Exit.OK
    assert capsys.readouterr() == ("", "nothing stored fits in local/ray/ray/2026-11-20_14-01-50_1_1\n")


def test_json_is_one_object_a_line(ray: Any, capsys: Any) -> None:
    main(["logs", "--collector", ray.url, "--json"])
    assert [json.loads(line)["seq"] for line in capsys.readouterr().out.splitlines()] == [1, 2, 3]


def test_a_record_says_where_it_comes_from_and_controls_nothing(ray: Any, capsys: Any) -> None:
    ray.rows = [
        row(1, body="evil \x1b]52;c;eA==\x07end", attributes={"log.file.path": "logs/worker-ab-01000000-812.err", "process.pid": "812"}),
        row(2, body="Traceback\n  File x\nValueError: no\n", event="process.exception", entity="process/5f1c/812/7", severity=17),
        row(3, body='{"taskId": "ab"}', event="ray.task.lifecycle", state="FAILED", entity="task/c8ef45ccd011", attributes={"ray.task.name": "tokenize", "ray.error.type": "OUT_OF_MEMORY"}),
    ]  # fmt: skip
    main(["logs", "--collector", ray.url])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(None, 1)[1] for line in lines] == [
        "worker 812                  evil end",
        "process 812                 process.exception | ValueError: no",
        "task c8ef45ccd0             ray.task.lifecycle FAILED tokenize OUT_OF_MEMORY",
    ]


def test_following_goes_on_behind_what_was_printed(ray: Any) -> None:
    told = {
        None: {"logs": [row(2), row(1)], "cursor": None, "end": "a"},
        "a": {"logs": [], "cursor": None, "end": "b"},
        "b": {"logs": [row(5), row(4)], "cursor": "c", "end": "c"},
        "c": {"logs": [row(6)], "cursor": None, "end": "d"},
        "d": {"logs": [], "cursor": None, "end": "e"},
    }
    ray.answers["logs"] = lambda query: told[query.get("cursor", [None])[0]]
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise KeyboardInterrupt

    seen: list[int] = []
    query = {"session": "s", "since": None, "around": None}
    with pytest.raises(KeyboardInterrupt):
        for found in logs.follow(Client(ray.url), query, 200, sleep=sleep):
            seen.append(found["seq"])
    assert seen == [1, 2, 5, 4, 6]
    assert ray.queries("logs")[0]["newest"] == ["true"]
    assert "newest" not in ray.queries("logs")[1]


def test_following_the_past_is_refused(ray: Any, capsys: Any) -> None:
    assert main(["logs", "--follow", "--at", "-5m", "--collector", ray.url]) == Exit.USAGE
    assert "--follow" in capsys.readouterr().err


def entity(id: str, first: int, **attributes: str) -> dict[str, Any]:
    return {
        "entity": id, "session": "s", "first_seen_ns": T + first * SECOND, "last_seen_ns": T, "ended_ns": None,
        "state": "RUNNING", "attributes": attributes, "relations": [],
    }  # fmt: skip


def test_show_finds_by_name_and_prints_newest_first(ray: Any, capsys: Any) -> None:
    ray.answers["entities"] = lambda query: {
        "entities": [
            entity("task/aaaa1111", 1, **{"ray.task.name": "tokenize"}),
            entity("task/bbbb2222", 2, **{"ray.task.name": "tokenize"}),
            entity("task/cccc3333", 3, **{"ray.task.name": "load"}),
            entity("task/dddd4444", 0, **{"ray.task.name": "tokenize"}) | {"state": "FAILED"},
        ],
        "cursor": None,
    }
    assert main(["show", "task/tokenize", "--collector", ray.url]) == Exit.OK
    out = capsys.readouterr().out
    assert out.startswith("task/dddd4444 · FAILED")
    assert out.index("task/bbbb2222 · RUNNING") < out.index("task/aaaa1111")
    assert "cccc3333" not in out
    assert ray.queries("entities")[0]["kind"] == ["task"]
    assert main(["show", "task/cccc", "--json", "--collector", ray.url]) == Exit.OK
    assert json.loads(capsys.readouterr().out)["entities"][0]["entity"] == "task/cccc3333"


def test_show_says_what_it_cannot_find(ray: Any, capsys: Any) -> None:
    ray.answers["entities"] = lambda query: {"entities": [], "cursor": None}
    assert main(["show", "task/nothing", "--collector", ray.url]) == Exit.UNAVAILABLE
    assert main(["show", "nothing", "--collector", ray.url]) == Exit.FAILURE
    assert "write kind/id" in capsys.readouterr().err
