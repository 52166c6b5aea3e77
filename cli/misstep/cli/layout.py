"""How blocks of text are laid out: labels on the left, entries wrapped beside them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from misstep.cli.terminal import clean, paint

MARGIN = 2
LABEL = 11
"""Columns of ``Not seen`` and its kind, gap included."""
_UNIT = re.compile(r"(\d) (%|[kKMGT]?i?B(?:/s)?|ns|µs|ms|s|min|h|d)(?!\w)")
"""A number and its unit stay on one line."""


def section(label: str, entries: Sequence[str], color: bool, width: int) -> str:
    """``Not seen   first entry`` and the further entries below it, wrapped; empty where there are none.

    What is wrapped of an entry is indented where there are several; an entry that begins with ``$ `` is a
    command and stays whole, to be copied.
    """
    room = max(20, width - MARGIN - LABEL)
    lines: list[str] = []
    for entry in map(clean, entries):
        if entry.startswith("$ "):
            lines.append(f"  {entry[2:]}")
            continue
        head, *rest = wrap(entry, room) or [""]
        tail = wrap(" ".join(rest), room - 2) if len(entries) > 1 else rest
        lines += [head, *(f"  {line}" if len(entries) > 1 else line for line in tail)]
    head = " " * MARGIN + paint(label.ljust(LABEL), "bold", on=color)
    rest_of = " " * (MARGIN + LABEL)
    return "\n".join((head if i == 0 else rest_of) + line for i, line in enumerate(lines))


def flow(items: Sequence[str], width: int) -> list[str]:
    """Items side by side, `` · `` between them; a line breaks between items, not within one."""
    room = max(20, width - MARGIN - LABEL)
    lines: list[str] = []
    for item in map(clean, items):
        if lines and len(lines[-1]) + 3 + len(item) <= room:
            lines[-1] += f" · {item}"
        else:
            lines.append(item)
    return lines


def wrap(text: str, room: int) -> list[str]:
    """Lines of at most `room` columns; words stay whole, and a number stays with its unit."""
    bound = _UNIT.sub("\\1\u00a0\\2", text)
    lines = textwrap.wrap(bound, room, break_long_words=False, break_on_hyphens=False)
    return [line.replace("\u00a0", " ") for line in lines]
