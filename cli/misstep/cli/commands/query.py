"""Ask for measured values with PromQL: now, at a time, or over a range.

  misstep query 'hw_gpu_power_watts{hw_gpu="0"}'
  misstep query 'sum by (host_name) (rate(steps_total[1m]))' --range 1h --plot

`misstep query --sql` asks the stored tables with SQL instead.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from misstep.cli import sql
from misstep.cli.chart import COLORS, Line, chart, number, sparkline
from misstep.cli.options import add_collector, add_json, client
from misstep.cli.table import table
from misstep.cli.terminal import Terminal, clean, paint, plain, say, terminal
from misstep.cli.times import clock, moment
from misstep.core.clock import SECOND
from misstep.core.errors import SettingsError
from misstep.core.exits import Exit

LIMIT = 100
"""Series that are printed if nothing else is asked for."""
TIMEOUT = 130.0
"""Seconds; the collector itself ends a query after 120."""
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)?")
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21_600, 43_200, 86_400)
_POINTS = 120
_HEIGHT = 16
_SPARK = 24
_DRAWN = 24


class Series(NamedTuple):
    """One series of an answer."""

    labels: dict[str, str]
    line: Line


def prepare(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("query", metavar="QUERY", help="PromQL, or SQL with --sql")
    parser.add_argument("--range", metavar="DURATION", help="the values of the last 30s, 15m, 1h, 7d")
    parser.add_argument("--step", metavar="DURATION", help="between two values of a range")
    parser.add_argument("--at", metavar="TIME", help="as it was known then: 14:02:31, -5m or an ISO time")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--plot", action="store_true", help="draw a chart of the range (1h if none is given)")
    form.add_argument("--csv", action="store_true", help="print time, labels and value of each sample")
    add_json(form, "print what the API answers")
    parser.add_argument("--sql", action="store_true", help="QUERY is SQL over the stored tables, read only")
    parser.add_argument("-n", "--limit", metavar="N", type=int,
                        help=f"at most N series or rows, 0 for all (default {LIMIT}, and all for --csv and --json)")  # fmt: skip
    add_collector(parser)


def run(arguments: argparse.Namespace) -> int:
    """Ask and print."""
    asked = client(arguments, timeout=TIMEOUT)
    now = time.time_ns()
    at = None if arguments.at is None else moment(arguments.at, now)
    if arguments.sql:
        form = "json" if arguments.json else "csv" if arguments.csv else "table"
        return sql.run(asked, arguments.query, at=at, limit=arguments.limit or None, form=form)
    end = (now if at is None else at) // 1_000_000 / 1000
    known = None if at is None else f"{at / SECOND:.3f}"
    if arguments.limit is None:
        arguments.limit = 0 if arguments.json or arguments.csv else LIMIT
    # One more than is shown tells that there are more.
    limit = arguments.limit + (0 if arguments.json or arguments.csv else 1) if arguments.limit > 0 else None
    length = seconds(arguments.range) if arguments.range else 3600.0 if arguments.plot else None
    if length is None:
        if arguments.step:
            raise SettingsError("--step needs --range, the time over which the steps go")
        data = asked.prometheus("query", query=arguments.query, time=f"{end:.3f}", at=known, limit=limit)
    else:
        step = seconds(arguments.step) if arguments.step else usual_step(length)
        # Steps at multiples of themselves: asking again a moment later gives the same points.
        end = math.floor(end / step) * step
        data = asked.prometheus(
            "query_range",
            query=arguments.query, start=f"{end - length:.3f}", end=f"{end:.3f}", step=f"{step:g}", at=known, limit=limit,
        )  # fmt: skip
    if arguments.json:
        print(json.dumps(data, sort_keys=True))
        return Exit.OK
    found = series(data)
    if arguments.csv:
        _print_csv(found)
        return Exit.OK
    _show(arguments, data["resultType"], found, end, length)
    return Exit.OK


def series(data: dict[str, Any]) -> list[Series]:
    """The series of an answer of the API."""
    kind, result = data["resultType"], data["result"]
    if kind in ("scalar", "string"):
        value = _float(result[1]) if kind == "scalar" else math.nan
        return [Series({} if kind == "scalar" else {"": result[1]}, Line([result[0]], [value]))]
    found = []
    for row in result:
        pairs = row["values"] if kind == "matrix" else [row["value"]]
        found.append(Series(row["metric"], Line([t for t, _ in pairs], [_float(v) for _, v in pairs])))
    return found


def seconds(text: str) -> float:
    """The seconds of ``15s``, ``1h`` or ``90``.

    Raises:
        SettingsError: it is no duration.
    """
    found = _DURATION.fullmatch(text.strip())
    total = float(found[1]) * _UNITS[found[2] or "s"] if found else 0.0
    if total <= 0:
        raise SettingsError(f"{text!r} is not a duration; write 30s, 15m, 1h or 7d")
    return total


def usual_step(length: float) -> float:
    """A round step that gives about as many points as a terminal shows."""
    return float(next((step for step in _STEPS if length / step <= _POINTS), 86_400))


def _show(
    arguments: argparse.Namespace, kind: str, found: list[Series], end: float, length: float | None
) -> None:
    screen = terminal()
    if not found:
        say("nothing stored fits" + ("" if length is None else " in this range"))
        return
    more = arguments.limit > 0 and len(found) > arguments.limit
    shown = found[: arguments.limit] if more else found
    if kind == "string":
        lines = [clean(shown[0].labels[""], lines=True)]
    elif arguments.plot:
        lines = _plot(shown, end - (length or 0), end, screen)
    elif kind == "matrix":
        lines = _summary(shown, end - (length or 0), end, screen, ranged=length is not None)
    else:
        lines = _newest(shown, screen)
    for line in lines:
        print(line if screen.unicode else plain(line))
    if more:
        say(f"the limit of {arguments.limit} series is reached; more with -n {arguments.limit * 10} or -n 0")


def _newest(found: Sequence[Series], screen: Terminal) -> list[str]:
    names = _varying(found)
    rows = [[*(s.labels.get(n, "") for n in names), number(s.line.values[-1])] for s in found]
    return table([*names, "value"], rows, frozenset({len(names)}), color=screen.color)


def _summary(
    found: Sequence[Series], start: float, end: float, screen: Terminal, *, ranged: bool
) -> list[str]:
    names = _varying(found)
    rows = []
    for labels, line in found:
        known = [v for v in line.values if not math.isnan(v)] or [math.nan]
        begin, stop = (start, end) if ranged else (line.times[0], line.times[-1])
        numbers = (
            min(known),
            math.fsum(known) / len(known) if all(map(math.isfinite, known)) else known[-1],
            max(known),
        )
        rows.append(
            [
                *(labels.get(n, "") for n in names),
                *map(number, (*numbers, line.values[-1])),
                sparkline(line, begin, stop, _SPARK, unicode=screen.unicode),
            ]
        )
    head = [
        *names,
        "min",
        "mean",
        "max",
        "last",
        f"{clock(round(start * SECOND))} to {clock(round(end * SECOND))}",
    ]
    if not ranged:
        head[-1] = "samples"
    return table(head, rows, frozenset(range(len(names), len(names) + 4)), color=screen.color)


def _plot(found: Sequence[Series], start: float, end: float, screen: Terminal) -> list[str]:
    names = _varying(found)
    drawn = found[:_DRAWN]
    edges = clock(round(start * SECOND)), clock(round(end * SECOND))
    lines = chart(
        [s.line for s in drawn],
        start,
        end,
        screen.width,
        _HEIGHT,
        edges,
        color=screen.color,
        unicode=screen.unicode,
    )
    if names:
        for place, (labels, line) in enumerate(drawn):
            told = ", ".join(f"{n}={labels[n]}" for n in names if labels.get(n)) or "value"
            mark = "━━" if screen.unicode else "*o+x#@"[place % 6]
            painted = paint(mark, COLORS[place % len(COLORS)], on=screen.color)
            lines.append(f"  {painted} {clean(told)}  {number(line.values[-1])}")
    if len(found) > len(drawn):
        say(f"{len(found) - len(drawn)} more series are not drawn; choose some with topk(5, …)")
    return lines


def _varying(found: Sequence[Series]) -> list[str]:
    """The labels that tell the series apart, the name first; what all have in common is narrated once."""
    names = sorted({n for s in found for n in s.labels}, key=lambda n: (n != "__name__", n))
    varying = [n for n in names if len({s.labels.get(n, "") for s in found}) > 1]
    common = {n: found[0].labels[n] for n in names if n not in varying}
    if common:
        name = common.pop("__name__", "")
        told = ", ".join(f'{n}="{value}"' for n, value in common.items())
        say(f"{name}{{{told}}}" if told else name)
    return varying


def _print_csv(found: Sequence[Series]) -> None:
    names = sorted({n for s in found for n in s.labels if n})
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(["time", *names, "value"])
    for labels, line in found:
        told = [clean(labels.get(n, "")) for n in names]
        for at, value in zip(line.times, line.values, strict=True):
            out.writerow([at, *told, value])


def _float(text: str) -> float:
    return float(text)
