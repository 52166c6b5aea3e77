"""Answers of SQL statements as table, CSV and lines of JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from misstep.cli import sql
from misstep.core.client import Client

ANSWER: dict[str, Any] = {
    "columns": [
        {"name": "body", "type": "VARCHAR"},
        {"name": "n", "type": "BIGINT"},
        {"name": "share", "type": "DOUBLE"},
        {"name": "attributes", "type": "MAP(VARCHAR, VARCHAR)"},
    ],
    "rows": [["a\x1b[31m\nb", 7, 0.123456789, {"k": "v"}], [None, 1234, "NaN", None]],
    "truncated": True,
}


class Recorded(Client):
    """Answers `ANSWER` and keeps what was asked."""

    def __init__(self) -> None:
        super().__init__("http://collector.invalid")
        self.asked: dict[str, object] = {}

    def post(self, path: str, **form: object) -> Any:
        self.asked = {"path": path, **form}
        return ANSWER


def test_a_table_is_aligned_and_clean() -> None:
    assert sql.table(ANSWER) == [
        "body     n     share  attributes",
        "a⏎b      7  0.123457  {\"k\": \"v\"}",
        "-     1234       NaN  -",
    ]  # fmt: skip
    long = {**ANSWER, "rows": [["x" * 500, 1, 1.0, None]]}
    assert len(sql.table(long)[1].split()[0]) == sql.WIDTH


def test_forms(capsys: pytest.CaptureFixture[str]) -> None:
    asked = Recorded()
    assert sql.run(asked, "SELECT 1", at=5, limit=2, form="json") == 0
    assert asked.asked == {"path": "sql", "query": "SELECT 1", "at": 5, "limit": 2}
    out, err = capsys.readouterr()
    assert [json.loads(line) for line in out.splitlines()][1] == {
        "body": None, "n": 1234, "share": "NaN", "attributes": None,
    }  # fmt: skip
    assert "more than these 2 rows" in err
    sql.run(asked, "SELECT 1", form="csv")
    out, _ = capsys.readouterr()
    assert out.splitlines()[0] == "body,n,share,attributes"
    assert out.splitlines()[-1] == ",1234,NaN,"
