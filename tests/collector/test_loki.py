"""Loki's API as Grafana asks it, over HTTP."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import urlencode

import pytest

SECOND = 1_000_000_000
PREFIX = "/loki/api/v1"


@pytest.fixture(scope="module")
def base(collector: Any, otlp: Any) -> int:
    """Twenty lines of the last minute, a second apart; when the first was written, Unix nanoseconds."""
    first = (time.time_ns() // SECOND - 60) * SECOND
    records = [
        {
            "ts": first + i * SECOND,
            "body": json.dumps({"status": 200 + 300 * (i % 2), "took": f"{i}ms"}),
            "severity": 17 if i % 2 else 9,
            "attributes": {"process.pid": i % 3, "misstep.session": "local/ray/loki/1"},
        }
        for i in range(20)
    ]
    assert collector.send(otlp.logs(*records)).status == 200
    collector.until(lambda: len(collector.ask("logs", session="local/ray/loki/1")["logs"]) == 20)
    return first


def ask(collector: Any, path: str, **query: object) -> Any:
    answer = collector.request("GET", f"{PREFIX}/{path}?{urlencode(query, doseq=True)}")
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


def test_the_health_check_of_grafana(collector: Any) -> None:
    answer = ask(collector, "query", query="vector(1)+vector(1)", time="4000000000", direction="backward")
    assert answer["status"] == "success"
    assert answer["data"]["resultType"] == "vector"
    assert answer["data"]["result"] == [{"metric": {}, "value": [4000000000, "2"]}]


def test_lines(collector: Any, base: int) -> None:
    query = '{session="local/ray/loki/1"} | json | status >= 500'
    answer = ask(collector, "query_range", query=query, start=base, end=base + 60 * SECOND, limit=4)
    assert answer["data"]["resultType"] == "streams"
    (streams, values) = zip(
        *((s["stream"], v) for s in answer["data"]["result"] for v in s["values"]), strict=True
    )
    assert sorted(int(ts) for ts, _ in values) == [base + i * SECOND for i in (13, 15, 17, 19)]
    assert all(
        {"session": "local/ray/loki/1", "level": "error", "status": "500", "host_name": "node-1"}.items()
        <= s.items()
        for s in streams
    )
    forward = ask(
        collector,
        "query_range",
        query=query,
        start=base,
        end=base + 60 * SECOND,
        limit=1,
        direction="forward",
    )
    assert forward["data"]["result"][0]["values"][0][0] == str(base + SECOND)


def test_metadata_stands_beside_lines_where_grafana_asks_for_it(collector: Any, base: int) -> None:
    target = f"{PREFIX}/query_range?" + urlencode(
        {"query": '{session="local/ray/loki/1"} | json', "start": base, "end": base + 60 * SECOND, "limit": 1}
    )
    headers = {"X-Loki-Response-Encoding-Flags": "categorize-labels", "X-Query-Tags": "Source=grafana"}
    data = collector.request("GET", target, headers=headers).json()["data"]
    assert data["encodingFlags"] == ["categorize-labels"]
    (stream,) = data["result"]
    assert set(stream["stream"]) == {"session", "level", "host_name", "service_name"}
    assert stream["values"][0][2] == {
        "structuredMetadata": {"process_pid": "1", "host_id": "5f1c9a"},
        "parsed": {"status": "500", "took": "19ms"},
    }


def test_numbers(collector: Any, base: int) -> None:
    """The histogram above Explore's lines."""
    query = 'sum by (level, detected_level) (count_over_time({session="local/ray/loki/1"} | drop __error__ [10s]))'
    answer = ask(
        collector, "query_range", query=query, start=base - SECOND, end=base + 19 * SECOND, step="10000ms"
    )
    assert answer["data"]["resultType"] == "matrix"
    begin = (base - SECOND) // SECOND
    assert answer["data"]["result"] == [
        {"metric": {"level": name, "detected_level": name}, "values": [[begin + 10, "5"], [begin + 20, "5"]]}
        for name in ("error", "info")
    ]
    instant = ask(
        collector,
        "query",
        query='sum(rate({session="local/ray/loki/1"}[20s]))',
        time=f"{(base + 19 * SECOND) / 1e9:.3f}",
    )
    assert instant["data"]["result"] == [{"metric": {}, "value": [begin + 20, "1"]}]


def test_a_form_is_taken_too(collector: Any) -> None:
    body = urlencode({"query": "vector(1)+vector(1)", "time": 4000000000}).encode()
    answer = collector.request(
        "POST", f"{PREFIX}/query", body, {"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert answer.json()["data"]["result"][0]["value"] == [4000000000, "2"]


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("ns", lambda ns: str(ns)),
        ("seconds", lambda ns: str(ns // SECOND)),
        ("float", lambda ns: f"{ns / 1e9:.3f}"),
        ("rfc3339", lambda ns: time.strftime("%Y-%m-%dT%H:%M:%S.000000000Z", time.gmtime(ns // SECOND))),
    ],
)
def test_times(collector: Any, base: int, name: str, start: Any) -> None:
    answer = ask(
        collector,
        "query_range",
        query='{session="local/ray/loki/1"}',
        start=start(base + 5 * SECOND),
        end=start(base + 7 * SECOND),
    )
    assert sorted(int(v[0]) for s in answer["data"]["result"] for v in s["values"]) == [
        base + 5 * SECOND,
        base + 6 * SECOND,
    ]


def test_labels_series_and_sizes(collector: Any, base: int) -> None:
    span: dict[str, Any] = {"start": base, "end": base + 60 * SECOND}
    selector = '{session="local/ray/loki/1"}'
    assert {"session", "level", "host_name"} <= set(ask(collector, "labels", **span)["data"])
    assert ask(collector, "label/level/values", query=selector, **span)["data"] == ["error", "info"]
    series = ask(collector, "series", **{"match[]": selector}, **span)["data"]
    assert sorted(s["level"] for s in series) == ["error", "info"]
    stats = ask(collector, "index/stats", query=selector, **span)
    assert (stats["streams"], stats["entries"]) == (2, 20)
    volume = ask(collector, "index/volume", query=selector, targetLabels="level", **span)["data"]
    assert [r["metric"]["level"] for r in volume["result"]] == ["info", "error"] or len(volume["result"]) == 2
    assert sum(int(r["value"][1]) for r in volume["result"]) == stats["bytes"] > 0
    ranged = ask(collector, "index/volume_range", query=selector, step="30s", **span)["data"]
    assert ranged["resultType"] == "matrix"
    fields = {f["label"]: f for f in ask(collector, "detected_fields", query=selector, **span)["fields"]}
    assert fields["status"] == {"label": "status", "type": "int", "cardinality": 2, "parsers": ["json"]}
    detected = ask(collector, "detected_labels", query=selector, **span)["detectedLabels"]
    assert {"label": "level", "cardinality": 2} in detected
    assert ask(collector, "detected_field/process_pid/values", query=selector, **span)["values"] == [
        "0",
        "1",
        "2",
    ]
    assert ask(collector, "patterns", query=selector, **span) == {"status": "success", "data": []}


def test_the_past_is_what_was_known_then(collector: Any, base: int) -> None:
    answer = ask(
        collector,
        "query_range",
        query='{session="local/ray/loki/1"}',
        start=base,
        end=base + 60 * SECOND,
        at=base // SECOND - 3600,
    )
    assert answer["data"]["result"] == []


@pytest.mark.parametrize(
    ("path", "query", "status", "said"),
    [
        ("query_range", {"query": "{"}, 400, "parse error"),
        ("query_range", {}, 400, "query is missing"),
        ("query_range", {"query": "{} |~ `(`"}, 400, "missing )"),
        ("query_range", {"query": "{}", "limit": "99999"}, 400, "limit"),
        ("query_range", {"query": "{}", "start": "x"}, 400, "start"),
        ("query_range", {"query": "{}", "direction": "up"}, 400, "direction"),
        ("query_range", {"query": "vector(1)", "start": "1", "end": "1000000", "step": "1"}, 400, "steps"),
        ("query_range", {"query": "vector(1)", "step": "-1"}, 400, "step"),
        ("query", {"query": "{}"}, 400, "query_range"),
        ("query", {"query": "1", "at": "never"}, 400, "at"),
        ("tail", {}, 404, "nothing is served"),
    ],
)
def test_mistakes_are_plain_text(
    collector: Any, path: str, query: dict[str, str], status: int, said: str
) -> None:
    answer = collector.request("GET", f"{PREFIX}/{path}?{urlencode(query)}")
    assert answer.status == status, answer.body
    assert answer.headers["content-type"].startswith("text/plain")
    assert said in answer.body.decode()


def test_access_is_that_of_every_route(collector: Any) -> None:
    answer = collector.request("GET", f"{PREFIX}/labels", headers={"Host": "evil.example"})
    assert (answer.status, answer.headers["content-type"]) == (403, "text/plain; charset=utf-8")
    assert collector.request("DELETE", f"{PREFIX}/labels").status == 405
    before = collector.metrics()['misstep_collector_refused_total{reason="query"}']
    collector.request("GET", f"{PREFIX}/query?query=%7B")
    assert collector.metrics()['misstep_collector_refused_total{reason="query"}'] == before + 1
