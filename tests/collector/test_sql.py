"""SQL over HTTP: its shapes and its errors; what is refused and why, stands in the tests of the sandbox."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import pytest

PATH = "/api/misstep/v1/sql"
SESSION = "local/ray/sql/1"


@pytest.fixture(scope="module")
def told(collector: Any, otlp: Any) -> list[Any]:
    event = {
        "event": "session.start",
        "attributes": {"misstep.session": SESSION, "misstep.entity": f"session/{SESSION}"},
    }
    line = {"body": "hello", "attributes": {"misstep.session": SESSION}}
    assert collector.send(otlp.logs(event, line)).status == 200
    rows: list[Any] = collector.until(
        lambda: len(r := collector.ask("logs", session=SESSION)["logs"]) == 2 and r
    )
    return rows


def test_get_form_and_json(collector: Any, told: Any) -> None:
    query = f"SELECT count(*) AS n FROM logs WHERE session = '{SESSION}'"
    form = urlencode({"query": query}).encode()
    answers = [
        collector.request("GET", f"{PATH}?{form.decode()}"),
        collector.request("POST", PATH, form, {"Content-Type": "application/x-www-form-urlencoded"}),
        collector.request(
            "POST", PATH, json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
        ),
    ]
    for answer in answers:
        assert answer.status == 200, answer.body
        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == {
            "columns": [{"name": "n", "type": "BIGINT"}], "rows": [[2]], "truncated": False,
        }  # fmt: skip


def test_every_table_is_there(collector: Any, told: Any) -> None:
    tables = [
        "series",
        "samples",
        "logs",
        "spans",
        "resources",
        "entities",
        "relations",
        "incidents",
        "requests",
        "sessions",
    ]
    query = " UNION ALL ".join(f"(SELECT '{name}' AS name, count(*) AS n FROM {name})" for name in tables)
    found = dict(collector.ask("sql", query=query)["rows"])
    assert set(found) == set(tables)
    assert found["logs"] >= 2 and found["entities"] >= 1 and found["sessions"] >= 1


def test_the_past_and_the_limit(collector: Any, told: Any) -> None:
    assert collector.ask("sql", query="SELECT count(*) FROM logs", at=1000)["rows"] == [[0]]
    answer = collector.ask("sql", query="FROM range(10)", limit=2)
    assert (answer["rows"], answer["truncated"]) == ([[0], [1]], True)


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ({"query": "DROP TABLE logs"}, 400, "only SELECT"),
        ({"query": "SELECT * FROM read_csv('/etc/passwd')"}, 400, "read_csv"),
        ({"query": "SELECT x FROM logs"}, 400, '"x"'),
        ({"query": ""}, 400, "query is missing"),
        ({"query": "SELECT 1", "limit": "0"}, 400, "limit"),
        ({"query": "SELECT 1", "at": "never"}, 400, "at"),
    ],
)
def test_mistakes(collector: Any, query: dict[str, str], status: int, said: str) -> None:
    answer = collector.request("GET", f"{PATH}?{urlencode(query)}")
    assert answer.status == status, answer.body
    assert said in answer.json()["error"]


def test_what_passes_a_limit_is_ended_counted_and_the_next_is_served(launch: Any) -> None:
    collector = launch(environ={"MISSTEP_COLLECTOR_SQL_SECONDS": "1"})
    endless = urlencode({"query": "SELECT count(*) FROM range(10000000) a, range(10000000) b"})
    answer = collector.request("GET", f"{PATH}?{endless}", timeout=60)
    assert answer.status == 422
    assert "took longer than 1 s" in answer.json()["error"]
    assert collector.metrics()['misstep_collector_refused_total{reason="limit"}'] == 1
    assert collector.ask("sql", query="SELECT 1")["rows"] == [[1]]
