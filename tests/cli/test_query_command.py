"""`misstep query` against a collector that answers from a table."""

import json
import math
from typing import Any

import pytest

from misstep.cli.chart import Line, chart, number, sparkline
from misstep.cli.commands.query import seconds, usual_step
from misstep.cli.main import main
from misstep.core.exits import Exit

T = 1795183351


def vector(*rows: tuple[dict[str, str], str]) -> dict[str, Any]:
    result = [{"metric": metric, "value": [T, value]} for metric, value in rows]
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


def matrix(*rows: tuple[dict[str, str], list[float]]) -> dict[str, Any]:
    result = [
        {"metric": metric, "values": [[T + 15 * place, str(v)] for place, v in enumerate(values)]}
        for metric, values in rows
    ]
    return {"status": "success", "data": {"resultType": "matrix", "result": result}}


POWER = {"__name__": "hw_gpu_power_watts", "host_name": "node-1"}


@pytest.fixture
def asked(collector: Any) -> Any:
    collector.answers["/api/v1/query"] = lambda query: vector(
        ({**POWER, "hw_gpu": "0"}, "159.5"), ({**POWER, "hw_gpu": "1\x1b[31m"}, "NaN")
    )
    collector.answers["/api/v1/query_range"] = lambda query: matrix(
        ({**POWER, "hw_gpu": "0"}, [1.0, 2.0, 3.0]), ({**POWER, "hw_gpu": "1"}, [3.0, math.inf, 1.0])
    )
    return collector


def test_a_table_of_what_differs(asked: Any, capsys: Any) -> None:
    assert main(["query", "hw_gpu_power_watts", "--collector", asked.url]) == Exit.OK
    out, err = capsys.readouterr()
    assert out.split() == ["hw_gpu", "value", "0", "159.5", "1", "NaN"]
    assert 'hw_gpu_power_watts{host_name="node-1"}' in err
    assert asked.queries("/api/v1/query")[0]["query"] == ["hw_gpu_power_watts"]


def test_a_range_is_summed_up(asked: Any, capsys: Any) -> None:
    flags = ["--range", "1h", "--step", "15s", "--at", "2026-11-20T14:02:31+00:00", "--collector", asked.url]
    assert main(["query", "x", *flags]) == Exit.OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:5] == ["hw_gpu", "min", "mean", "max", "last"]
    assert lines[1].split()[:5] == ["0", "1", "2", "3", "3"]
    query = asked.queries("/api/v1/query_range")[0]
    assert float(query["end"][0]) - float(query["start"][0]) == 3600
    assert float(query["end"][0]) % 15 == 0 and query["step"] == ["15"]
    assert 0 <= float(query["at"][0]) - float(query["end"][0]) < 15


def test_json_and_csv(asked: Any, capsys: Any) -> None:
    assert main(["query", "x", "--json", "--collector", asked.url]) == Exit.OK
    assert json.loads(capsys.readouterr().out)["resultType"] == "vector"
    assert main(["query", "x", "--range", "45s", "--csv", "--collector", asked.url]) == Exit.OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "time,__name__,host_name,hw_gpu,value"
    assert lines[1] == f"{T},hw_gpu_power_watts,node-1,0,1.0" and len(lines) == 7


def test_a_chart(asked: Any, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["query", "x", "--plot", "--collector", asked.url]) == Exit.OK
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 16 + 2 + 2 and max(map(len, lines)) <= 80
    assert "hw_gpu=0" in lines[-2]


def test_nothing_and_refusals(asked: Any, capsys: Any) -> None:
    asked.answers["/api/v1/query"] = lambda query: vector()
    assert main(["query", "x", "--collector", asked.url]) == Exit.OK
    assert "nothing stored fits" in capsys.readouterr().err
    assert main(["query", "x", "--step", "1s", "--collector", asked.url]) == Exit.USAGE
    assert main(["query", "x", "--range", "soon", "--collector", asked.url]) == Exit.USAGE
    assert "30s, 15m" in capsys.readouterr().err


def test_the_limit_is_said(asked: Any, capsys: Any) -> None:
    assert main(["query", "x", "-n", "1", "--collector", asked.url]) == Exit.OK
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2 and "the limit of 1 series" in err
    assert asked.queries("/api/v1/query")[0]["limit"] == ["2"]


def test_drawing() -> None:
    line = Line([0, 1, 2, 3], [0.0, 1.0, math.nan, 3.0])
    assert sparkline(line, 0, 4, 4, unicode=True) == "▁▃ █"
    drawn = chart([line], 0, 4, 40, 4, ("a", "b"), color=False, unicode=False)
    assert [row.index("|") for row in drawn[:4]] == [4, 4, 4, 4] or len(
        {row.index("|") for row in drawn[:4]}
    ) == 1
    assert (
        "*" in drawn[0] and "*" in drawn[3] and drawn[-1].strip().startswith("a") and drawn[-1].endswith("b")
    )
    assert [number(v) for v in (0.0, 1234567.0, 1e-9, -2.5, math.inf)] == [
        "0",
        "1.235M",
        "1e-09",
        "-2.5",
        "+Inf",
    ]


def test_durations() -> None:
    assert [seconds(t) for t in ("90", "1.5m", "2h", "7d", "250ms")] == [90, 90, 7200, 604800, 0.25]
    assert [usual_step(t) for t in (60, 3600, 86400)] == [1, 30, 900]
