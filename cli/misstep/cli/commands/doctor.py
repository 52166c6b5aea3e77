"""Say what this machine lets Misstep see, and the command that opens the rest.

✓ as it should be · ▲ works, but sees less · ✗ cannot work. Exit code 1 only for ✗.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Sequence

from misstep.cli.checks import BROKEN, LIMITED, OK, Check
from misstep.cli.options import add_config, add_json, settings
from misstep.cli.terminal import Terminal, clean, paint, plain, terminal
from misstep.core.exits import Exit

_MARKS = {OK: ("✓", "green"), LIMITED: ("▲", "yellow"), BROKEN: ("✗", "red")}


def prepare(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_config(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Look and print."""
    from misstep.cli.checks import gpus, machine, place, software

    chosen = settings(arguments)
    found = [*software.check(), *machine.check(), *gpus.check(chosen), *place.check(chosen)]
    if arguments.json:
        print(json.dumps({"checks": [check._asdict() for check in found]}))
    else:
        print(table(found, terminal()))
    return Exit.FAILURE if any(check.state == BROKEN for check in found) else Exit.OK


def table(checks: Sequence[Check], screen: Terminal) -> str:
    """One line per check, its remedy below it."""
    beside = max(len(check.name) for check in checks) + 4
    room = max(40, screen.width - beside)
    lines: list[str] = []
    for check in checks:
        mark, hue = _MARKS[check.state]
        head = f"{paint(mark, hue, on=screen.color)} {check.name.ljust(beside - 2)}"
        for line in textwrap.wrap(clean(check.detail), room, break_on_hyphens=False):
            lines.append(head + line)
            head = " " * beside
        if check.remedy:
            # Not wrapped: a command must survive being copied.
            lines.append(" " * beside + paint(clean(check.remedy), "bold", on=screen.color))
    text = "\n".join(lines)
    return text if screen.unicode else plain(text)
