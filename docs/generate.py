"""Writes what the manual takes from the code: settings, commands, names, causes.

    python docs/generate.py            rewrite the marked parts
    python docs/generate.py --check    exit 1 if one is out of date

A marked part begins with ``<!-- generated: NAME -->`` and ends with ``<!-- end -->``.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from misstep.cli import main as command_line
from misstep.core import names, settings
from misstep.core.exits import Exit

DOCS = Path(__file__).parent
_PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def field_docstrings(owner: type) -> dict[str, str]:
    """The docstring below each field of a class or member of an enum."""
    body = ast.parse(inspect.getsource(owner)).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    name = ""
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and name:
            found[name] = " ".join(str(node.value.value).split())
    return found


def settings_part() -> str:
    """One table for each table of `misstep.toml`."""
    default = settings.Settings()
    parts = [_settings_table("", settings.Settings, default)]
    for field in fields(settings.Settings):
        value = getattr(default, field.name)
        if is_dataclass(value):
            about = (type(value).__doc__ or "").strip()
            parts.append(
                f"### `[{field.name}]`\n\n{about}\n\n{_settings_table(field.name, type(value), value)}"
            )
    return "\n\n".join(parts)


def _settings_table(table: str, owner: type, value: Any) -> str:
    about = field_docstrings(owner)
    rows = ["| key | default | environment | meaning |", "|---|---|---|---|"]
    for field in fields(owner):
        default = getattr(value, field.name)
        if is_dataclass(default):
            continue
        key = f"{table}.{field.name}" if table else field.name
        shown = "`~/.local/share/misstep`" if key == "data" else f"`{_toml(default)}`"
        variable = "MISSTEP_" + key.upper().replace(".", "_")
        rows.append(f"| `{field.name}` | {shown} | `{variable}` | {_cell(about[field.name])} |")
    return "\n".join(rows)


def _toml(value: object) -> str:
    if isinstance(value, tuple):
        return str(list(value))
    if isinstance(value, str):
        return f'"{value}"'
    return f"{value:_}" if isinstance(value, int) and value >= 100_000 else str(value)


def commands_part() -> str:
    """A section for each command: what it does, its arguments."""
    whole = command_line.parser(list(command_line.COMMANDS))
    choices: dict[str, Any] = next(
        a for a in whole._actions if isinstance(a, argparse._SubParsersAction)
    ).choices
    return "\n\n".join(_command(name, choices[name]) for name in command_line.COMMANDS)


def _command(name: str, parser: argparse.ArgumentParser) -> str:
    rows = ["| argument | meaning |", "|---|---|"]
    for action in parser._actions:
        if action.dest == "help":
            continue
        metavar = action.metavar if isinstance(action.metavar, str) else "|".join(action.choices or ())
        words = [
            f"{flag} {metavar}" if action.nargs != 0 and metavar else flag for flag in action.option_strings
        ]
        shown = ", ".join(words) or metavar or action.dest.upper()
        rows.append(f"| `{shown}` | {_cell(action.help or '')} |")
    about = (parser.description or "").strip()
    return f"### `misstep {name}`\n\n{about}\n\n" + ("\n".join(rows) if len(rows) > 2 else "")


def exits_part() -> str:
    """Every exit code."""
    about = field_docstrings(Exit)
    return "\n".join(
        ["| code | meaning |", "|---|---|", *(f"| {e.value} | {_cell(about[e.name])} |" for e in Exit)]
    )


def events_part() -> str:
    """Every event."""
    rows = ["| event | subject | meaning | states |", "|---|---|---|---|"]
    for event in names.EVENTS:
        states = ", ".join(f"`{state}`" for state in event.states)
        rows.append(f"| `{event.name}` | {event.subject} | {_cell(event.meaning)} | {states} |")
    return "\n".join(rows)


def metrics_part() -> str:
    """Every metric."""
    rows = ["| metric | kind | unit | meaning |", "|---|---|---|---|"]
    rows += [f"| `{m.name}` | {m.kind} | `{m.unit}` | {_cell(m.meaning)} |" for m in names.METRICS]
    return "\n".join(rows)


def sources_part() -> str:
    """Every source of evidence."""
    rows = ["| source | what it is |", "|---|---|"]
    return "\n".join(rows + [f"| `{key}` | {_cell(what)} |" for key, what in names.SOURCES.items()])


def causes_part() -> str:
    """Every cause that has a page, by the first line of it."""
    rows = ["| cause | what it is |", "|---|---|"]
    for page in sorted((DOCS / "causes").glob("*.md")):
        title = page.read_text().partition("\n")[0].lstrip("# ").strip()
        rows.append(f"| [`{page.stem}`](causes/{page.name}) | {_cell(title)} |")
    return "\n".join(rows)


PARTS = {
    "settings": settings_part,
    "commands": commands_part,
    "exits": exits_part,
    "events": events_part,
    "metrics": metrics_part,
    "sources": sources_part,
    "causes": causes_part,
}


def regenerate(text: str) -> str:
    """A page with its marked parts as the code has them now."""
    return _PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n\n{part[3]}", text)


def _cell(text: str) -> str:
    return text.replace("``", "`").replace("|", "\\|").replace("%%", "%")


def main(arguments: list[str]) -> int:
    """Rewrite, or check."""
    stale = []
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text()
        if (fresh := regenerate(text)) != text:
            stale.append(page.name)
            if "--check" not in arguments:
                page.write_text(fresh)
    if stale:
        print(("out of date: " if "--check" in arguments else "rewritten: ") + ", ".join(stale))
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
