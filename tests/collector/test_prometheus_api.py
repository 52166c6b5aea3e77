"""Prometheus' API as its clients call it: a real collector, fed by OTLP, asked over HTTP."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

SECOND = 10**9
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class Asked:
    """The API of one collector, and when its samples begin."""

    def __init__(self, collector: Any, start: int) -> None:
        self.collector, self.start = collector, start

    def get(self, path: str, status: int = 200, **query: object) -> Any:
        return self._read(self.collector.request("GET", self._target(path, query)), status)

    def post(self, path: str, status: int = 200, **query: object) -> Any:
        body = self._target("", query).partition("?")[2].encode()
        return self._read(self.collector.request("POST", f"/api/v1/{path}", body, FORM), status)

    def error(self, path: str, status: int, kind: str, **query: object) -> str:
        found = self.get(path, status, **query)
        assert (found["status"], found["errorType"]) == ("error", kind), found
        return str(found["error"])

    @staticmethod
    def _target(path: str, query: dict[str, object]) -> str:
        pairs = {
            key.removesuffix("_") if key != "match_" else "match[]": value for key, value in query.items()
        }
        return f"/api/v1/{path}" + (f"?{urlencode(pairs, doseq=True)}" if pairs else "")

    @staticmethod
    def _read(answer: Any, status: int) -> Any:
        assert answer.status == status, (answer.status, answer.body)
        assert answer.headers["content-type"] == "application/json"
        found = json.loads(answer.body)
        if status == 200:
            assert found["status"] == "success", found
            return found
        return found


@pytest.fixture(scope="module")
def asked(collector: Any) -> Iterator[Asked]:
    """Two GPUs at 1 Hz for a minute, and a counter, ending now."""
    start = (time.time_ns() // SECOND - 60) * SECOND
    request = ExportMetricsServiceRequest()
    group = request.resource_metrics.add()
    group.resource.attributes.add(key="host.name").value.string_value = "node-1"
    scope = group.scope_metrics.add()
    gauge = scope.metrics.add(name="hw.gpu.power", unit="W")
    total = scope.metrics.add(name="steps", unit="1")
    total.sum.aggregation_temporality = 2
    total.sum.is_monotonic = True
    for step in range(60):
        for gpu in range(2):
            point = gauge.gauge.data_points.add(
                time_unix_nano=start + step * SECOND, as_double=100.5 * gpu + step
            )
            point.attributes.add(key="hw.gpu").value.string_value = str(gpu)
        total.sum.data_points.add(time_unix_nano=start + step * SECOND, as_int=10 * step)
    exemplar = total.sum.data_points[30].exemplars.add(time_unix_nano=start + 30 * SECOND, as_double=7)
    exemplar.trace_id = bytes(range(16))
    assert collector.send(request).status == 200
    found = Asked(collector, start)
    collector.until(
        lambda: found.get("query", query="count(hw_gpu_power_watts)", time=start / SECOND + 59)["data"][
            "result"
        ]
    )
    yield found


def test_what_grafana_sends_first(asked: Asked) -> None:
    health = asked.post("query", query="1+1", time="4")
    assert health["data"] == {"resultType": "scalar", "result": [4, "2"]}
    assert asked.get("query", query="1+1", time="4") == health
    built = asked.get("status/buildinfo")["data"]
    assert int(built["version"].split(".")[0]) >= 2 and not built.get("features")


def test_instant_query(asked: Asked) -> None:
    at = asked.start // SECOND + 59
    found = asked.get("query", query='hw_gpu_power_watts{hw_gpu="1"}', time=at)["data"]
    (row,) = found["result"]
    assert found["resultType"] == "vector"
    assert row["value"] == [at, "159.5"]
    assert row["metric"]["__name__"] == "hw_gpu_power_watts" and row["metric"]["host_name"] == "node-1"
    rfc = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
    assert asked.get("query", query="time()", time=rfc)["data"]["result"] == [at, str(at)]
    raw = asked.get("query", query='hw_gpu_power_watts{hw_gpu="0"}[3s]', time=at)["data"]
    assert raw["resultType"] == "matrix" and [v for _, v in raw["result"][0]["values"]] == ["57", "58", "59"]
    assert asked.get("query", query='"text"', time=at)["data"] == {
        "resultType": "string",
        "result": [at, "text"],
    }


@pytest.mark.parametrize("method", ["get", "post"])
def test_range_query(asked: Asked, method: str) -> None:
    begin = asked.start // SECOND + 30
    found = getattr(asked, method)(
        "query_range",
        query="rate(steps_total[20s])",
        start=f"{begin}.000",
        end=begin + 20,
        step="10s",
        timeout="30s",
    )["data"]
    assert found["resultType"] == "matrix"
    (row,) = found["result"]
    assert [at for at, _ in row["values"]] == [begin, begin + 10, begin + 20]
    assert all(math.isclose(float(v), 10) for _, v in row["values"])


def test_a_large_answer_comes_in_pieces(asked: Asked) -> None:
    query = " or ".join(f'label_replace(hw_gpu_power_watts, "n", "{n}", "", "")' for n in range(16))
    end = asked.start // SECOND + 59
    found = asked.get("query_range", query=query, start=end - 9990, end=end, step="1")["data"]["result"]
    assert len(found) == 32
    assert all(len(row["values"]) == 60 and row["values"][-1][0] == end for row in found)
    limited = asked.get("query_range", query=query, start=end - 9, end=end, step="1", limit=3)
    assert len(limited["data"]["result"]) == 3 and limited["warnings"] == ["results truncated due to limit"]


def test_catalogue(asked: Asked) -> None:
    assert {"__name__", "host_name", "hw_gpu"} <= set(asked.get("labels")["data"])
    assert asked.get("labels", match_="steps_total")["data"] == ["__name__", "host_name"]
    assert asked.get("label/hw_gpu/values")["data"] == ["0", "1"]
    assert asked.get("label/hw_gpu/values", match_='{hw_gpu=~"1|2.*"}')["data"] == ["1"]
    assert "steps_total" in asked.get("label/__name__/values", limit=1000)["data"]
    assert asked.get("label/nothing/values")["data"] == []
    rows = asked.post("series", match_=["hw_gpu_power_watts", "steps_total"])["data"]
    assert [row["__name__"] for row in rows] == ["hw_gpu_power_watts", "hw_gpu_power_watts", "steps_total"]
    early = asked.start // SECOND - 1000
    assert asked.get("series", match_="steps_total", start=early, end=early + 60)["data"] == []
    assert asked.get("metadata", metric="steps_total")["data"] == {
        "steps_total": [{"type": "counter", "unit": "1", "help": ""}]
    }
    assert asked.get("rules")["data"] == {"groups": []}
    assert asked.get("alerts")["data"] == {"alerts": []}
    assert asked.get("format_query", query="sum(a)by(b)")["data"].startswith("sum by (b)")


def test_exemplars(asked: Asked) -> None:
    begin = asked.start // SECOND
    (found,) = asked.get("query_exemplars", query="rate(steps_total[1m])", start=begin, end=begin + 60)[
        "data"
    ]
    assert found["seriesLabels"]["__name__"] == "steps_total"
    (exemplar,) = found["exemplars"]
    assert exemplar["labels"]["trace_id"] == bytes(range(16)).hex()
    assert (exemplar["value"], exemplar["timestamp"]) == ("7", begin + 30)


def test_what_was_known_then(asked: Asked) -> None:
    before = asked.get(
        "query", query="steps_total", time=asked.start / SECOND + 59, at=asked.start // SECOND - 600
    )
    assert before["data"]["result"] == []
    assert asked.get("labels", at=asked.start // SECOND - 600)["data"] == []


def test_refusals(asked: Asked) -> None:
    at = asked.start // SECOND
    ranged = {"query": "up", "start": at, "end": at + 60, "step": 15}
    assert "parse error" in asked.error("query", 400, "bad_data", query="sum(")
    assert "parse error" in asked.error("query", 400, "bad_data", query="")
    assert 'invalid parameter "time"' in asked.error("query", 400, "bad_data", query="1", time="yesterday")
    assert 'invalid parameter "step"' in asked.error("query_range", 400, "bad_data", **{**ranged, "step": 0})
    assert 'invalid parameter "end"' in asked.error(
        "query_range", 400, "bad_data", **{**ranged, "end": at - 1}
    )
    assert "11,000 points" in asked.error("query_range", 400, "bad_data", **{**ranged, "end": at + 900_000})
    assert "no match[]" in asked.error("series", 400, "bad_data")
    assert "many-to-many" in asked.error(
        "query", 422, "execution", query="steps_total * on(host_name) hw_gpu_power_watts", time=at + 59
    )
    assert "timed out" in asked.error("query", 503, "timeout", query="steps_total", timeout="0.000001")
    asked.error("nothing", 404, "not_found")
    assert asked.post("label/a/values", 405)["errorType"] == "bad_data"


HOSTILE = {
    "(" * 5000 + "1" + ")" * 5000: "accepted",
    "1" + "+1" * 3000: "accepted",
    "-" * 100_000 + "1": "accepted",
    "x" * 200_000: "accepted",
    "abs(" * 160 + "up" + ")" * 160: "levels",
    'steps_total{host_name=~"(a{1000}){1000}"}': "illegal regex",
    'steps_total{host_name=~"("}': "parse error",
    "sum_over_time(vector(1)[100y:1ms])": "too many samples",
    "steps_total[1000000y]": "",
    "steps_total @ 1e300": "out of bounds",
    "steps_total offset 99999y": "",
    "sum_over_time(steps_total[1y:1ms])": "too many samples",
    'label_replace(steps_total, "a", "$1", "host_name", "(.*)*(")': "regular expression",
}


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:24])
def test_hostile_queries_are_refused_and_the_next_is_served(asked: Asked, text: str) -> None:
    began = time.monotonic()
    answer = asked.collector.request("POST", "/api/v1/query", urlencode({"query": text}).encode(), FORM)
    assert answer.status in ((400, 422) if HOSTILE[text] else (200, 400, 422)), answer.body[:300]
    if HOSTILE[text]:
        assert HOSTILE[text] in answer.json()["error"]
    assert time.monotonic() - began < 20
    assert asked.get("query", query="1")["data"]["resultType"] == "scalar"
