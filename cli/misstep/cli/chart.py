"""Lines over time on a terminal: a chart of braille dots with axes, and a sparkline of one row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from misstep.cli.terminal import paint

COLORS = ("cyan", "yellow", "green", "red", "bold", "dim")
"""Of the first series, the second, …; then from the beginning."""
_BARS = "▁▂▃▄▅▆▇█"
_ASCII_BARS = "_.-=+*%#"
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_MARKS = "*o+x#@"


class Line(NamedTuple):
    """One series: times in seconds, ascending, and values, NaN and infinities among them."""

    times: Sequence[float]
    values: Sequence[float]


def sparkline(line: Line, start: float, end: float, width: int, *, unicode: bool) -> str:
    """One character for each stretch of time: its mean between the lowest and the highest; a blank for none."""
    sums, counts = [0.0] * width, [0] * width
    for time, value in zip(line.times, line.values, strict=True):
        if math.isfinite(value):
            place = _place(time, start, end, width)
            sums[place] += value
            counts[place] += 1
    means = [total / count if count else math.nan for total, count in zip(sums, counts, strict=True)]
    known = [m for m in means if not math.isnan(m)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    bars = _BARS if unicode else _ASCII_BARS
    return "".join(" " if math.isnan(m) else bars[_place(m, low, high, len(bars))] for m in means)


def chart(
    lines: Sequence[Line], start: float, end: float, width: int, height: int, labels: tuple[str, str], *,
    color: bool, unicode: bool,
) -> list[str]:  # fmt: skip
    """A chart as lines of text.

    Args:
        lines: what is drawn; later ones over earlier ones.
        start: time at the left edge.
        end: time at the right edge.
        width: columns in all.
        height: rows of the plot, axis not included.
        labels: what is written below the left and the right edge.
        color: whether each line has its own color.
        unicode: whether the terminal shows braille.
    """
    values = [v for line in lines for v in line.values if math.isfinite(v)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low == high:
        low, high = low - (abs(low) / 10 or 1), high + (abs(high) / 10 or 1)
    ticks = {0: number(high), height // 2: number((low + high) / 2), height - 1: number(low)}
    margin = max(len(text) for text in ticks.values())
    columns = max(width - margin - 2, 10)
    draw = _braille if unicode else _ascii
    rows = draw(lines, (start, end), (low, high), columns, height, color)
    wall = "│" if unicode else "|"
    found = [f"{ticks.get(place, '').rjust(margin)} {wall}{row}" for place, row in enumerate(rows)]
    corner = "└" + "─" * columns if unicode else "+" + "-" * columns
    left, right = labels
    return [*found, " " * (margin + 1) + corner, " " * (margin + 2) + left + right.rjust(columns - len(left))]


def number(value: float) -> str:
    """A value in at most six digits, with ``k``, ``M``, ``G``, ``T`` where it is large."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    size = abs(value)
    for limit, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if limit <= size < 1e18:
            return f"{value / limit:.4g}{unit}"
    if size >= 1e18:
        return f"{value:.3e}"
    return f"{value:.6g}"


def _place(value: float, low: float, high: float, width: int) -> int:
    if high <= low:
        return 0
    return min(max(int((value - low) / (high - low) * width), 0), width - 1)


def _braille(
    lines: Sequence[Line], times: tuple[float, float], values: tuple[float, float], columns: int, height: int,
    color: bool,
) -> list[str]:  # fmt: skip
    cells = [[0] * columns for _ in range(height)]
    owner = [[0] * columns for _ in range(height)]
    for number, line in enumerate(lines):
        for x, y in _path(line, times, values, columns * 2, height * 4):
            cells[y // 4][x // 2] |= _DOTS[y % 4][x % 2]
            owner[y // 4][x // 2] = number
    return [
        "".join(
            paint(chr(0x2800 + dots), COLORS[who % len(COLORS)], on=color and bool(dots)) if dots else " "
            for dots, who in zip(row, whose, strict=True)
        )
        for row, whose in zip(cells, owner, strict=True)
    ]


def _ascii(
    lines: Sequence[Line], times: tuple[float, float], values: tuple[float, float], columns: int, height: int,
    color: bool,
) -> list[str]:  # fmt: skip
    cells = [[" "] * columns for _ in range(height)]
    for number, line in enumerate(lines):
        mark = paint(_MARKS[number % len(_MARKS)], COLORS[number % len(COLORS)], on=color)
        for x, y in _path(line, times, values, columns, height):
            cells[y][x] = mark
    return ["".join(row) for row in cells]


def _path(
    line: Line, times: tuple[float, float], values: tuple[float, float], width: int, height: int
) -> list[tuple[int, int]]:
    """The dots of a line; neighbours are joined where no more than two steps lie between them."""
    found: list[tuple[int, int]] = []
    gaps = sorted(b - a for a, b in zip(line.times, line.times[1:], strict=False))
    joined = 2.5 * gaps[len(gaps) // 2] if gaps else 0.0
    before: tuple[float, int, int] | None = None
    for time, value in zip(line.times, line.values, strict=True):
        if not math.isfinite(value):
            before = None
            continue
        x, y = _place(time, *times, width), height - 1 - _place(value, *values, height)
        if before is not None and time - before[0] <= joined:
            found += _between(before[1], before[2], x, y)
        found.append((x, y))
        before = (time, x, y)
    return found


def _between(x0: int, y0: int, x1: int, y1: int) -> list[tuple[int, int]]:
    steps = max(abs(x1 - x0), abs(y1 - y0))
    return [
        (round(x0 + (x1 - x0) * step / steps), round(y0 + (y1 - y0) * step / steps))
        for step in range(1, steps)
    ]
