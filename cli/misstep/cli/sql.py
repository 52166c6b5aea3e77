"""Answers of SQL statements, for ``misstep query --sql``."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from misstep.cli.terminal import clean, paint, say, terminal
from misstep.core.client import Client
from misstep.core.exits import Exit

TIMEOUT = 120.0
"""Seconds to wait for an answer; the collector ends a statement long before."""
WIDTH = 60
"""Columns of a value in a table; ``--csv`` and ``--json`` have all of it."""
_NUMBERS = ("INT", "DOUBLE", "FLOAT", "DECIMAL")


def run(
    asked: Client, statement: str, *, at: int | None = None, limit: int | None = None, form: str = "table"
) -> int:
    """Ask and print.

    Args:
        asked: the collector; its timeout should be `TIMEOUT`.
        statement: one SELECT.
        at: as of this time, Unix nanoseconds.
        limit: rows.
        form: ``table``, ``csv``, or ``json``: one object a line, keys being columns.

    Raises:
        MisstepError: the collector refused it; the message is the collector's own.
    """
    answer = asked.post("sql", query=statement, at=at, limit=limit)
    names = [str(column["name"]) for column in answer["columns"]]
    if form == "json":
        for row in answer["rows"]:
            print(json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False))
    elif form == "csv":
        _write_csv(names, answer["rows"], sys.stdout)
    else:
        for line in table(answer, color=terminal().color):
            print(line)
    if answer["truncated"]:
        say(f"there are more than these {len(answer['rows'])} rows; add a WHERE or a LIMIT, or sum them up")
    return Exit.OK


def table(answer: Mapping[str, Any], *, color: bool = False) -> list[str]:
    """The answer as aligned lines, numbers to the right."""
    names = [clean(str(column["name"])) for column in answer["columns"]]
    right = [any(word in str(column["type"]) for word in _NUMBERS) and "[" not in str(column["type"]) for column in answer["columns"]]  # fmt: skip
    cells = [[_cell(value) for value in row] for row in answer["rows"]]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]

    def aligned(values: Sequence[str]) -> str:
        padded = [v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right, strict=True)]
        return "  ".join(padded).rstrip()

    return [paint(aligned(names), "dim", on=color), *(aligned(row) for row in cells)]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < 1e15 else repr(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = clean(text.replace("\n", "⏎"))
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"


def _write_csv(names: Sequence[str], rows: Sequence[Sequence[Any]], out: TextIO) -> None:
    """RFC 4180, with lines as this system ends them."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow(
            ["" if v is None else json.dumps(v) if isinstance(v, (list, dict, bool)) else v for v in row]
        )
