"""Columns of text, each as wide as its longest entry."""

from __future__ import annotations

from collections.abc import Sequence

from misstep.cli.terminal import clean, paint


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], numeric: frozenset[int], *, color: bool
) -> list[str]:
    """Lines of a table.

    Args:
        head: titles of the columns.
        rows: entries, as many as titles.
        numeric: columns that stand on the right.
        color: whether the titles are bold.
    """
    cells = [[clean(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]

    def laid(row: Sequence[str]) -> str:
        parts = [
            cell.rjust(width) if place in numeric else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(parts).rstrip()

    return [paint(laid(list(head)), "bold", on=color), *map(laid, cells)]
