"""Finds the command, runs it, and turns every error into one message and one exit code.

Standard output is data, standard error is narration. What a command does not need is not imported:
``misstep --help`` answers before a shell user notices.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from misstep.core import __version__
from misstep.core.errors import MissingExtraError, MisstepError
from misstep.core.exits import Exit

COMMANDS = {
    "demo": "break a real job on this machine, and say why it broke",
    "up": "watch this machine: collector and agent, on loopback",
    "run": "run a command under watch, its output and exit status untouched",
    "env": "print the environment that makes your own Ray send its events",
    "diagnose": "say why a job is slow, stuck or dead",
    "logs": "print stored log lines and events",
    "query": "ask for measured values with PromQL: a table, a chart, CSV or JSON",
    "show": "print what is known of a task, actor, worker, node or process",
    "stacks": "show where every rank of a training job stands, as one tree",
    "profile": "record a flame graph of a process or a rank",
    "gpu": "let go of this machine's GPUs for a reset, and take them back",
    "doctor": "say what this machine lets us see, and what opens the rest",
    "agent": "run the agent alone, as on each node of a cluster",
    "collector": "run the collector alone",
    "completion": "print the completion script of a shell",
}
"""Every command and its line in the help."""

EXTRAS = {
    "ray": "demo",
    "shtab": "cli",
    "duckdb": "collector",
    "duckdb_extension_ducklake": "collector",
    "duckdb_extension_sqlite_scanner": "collector",
    "httptools": "collector",
    "msgspec": "collector",
    "numpy": "collector",
    "opentelemetry": "collector",
    "prometheus_client": "collector",
    "promql_parser": "collector",
    "ptars": "collector",
    "pyarrow": "collector",
    "starlette": "collector",
    "uvicorn": "collector",
    "uvloop": "collector",
}
"""The extra that brings each module which may be missing."""

HELP = """\
usage: misstep COMMAND ...

Names the first misstep of a distributed AI job: which cause, which machine,
which line, with the evidence.

commands:
{commands}

first commands to try:
  misstep demo                      a real fault, from start to verdict, in a minute
  misstep up                        watch this machine; leave it running
  misstep run -- python train.py    in another terminal: your script, unchanged
  misstep diagnose                  why it failed

`misstep COMMAND --help` explains each. `misstep --version` tells the version.
"""

_FORMAT = functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=24)
_TIMES = ("--at", "--around", "--since", "--until")
_TIMED = ("diagnose", "logs", "query", "show", "stacks")


class Parser(argparse.ArgumentParser):
    """Names the nearest option where an unknown one is given."""

    def error(self, message: str) -> NoReturn:
        """Print the message and the way to the help, not the whole usage; exit 2."""
        prefix = "unrecognized arguments: "
        if message.startswith(prefix):
            message += _nearest(message.removeprefix(prefix).split()[0], list(self._option_string_actions))
        self.exit(Exit.USAGE, f"{self.prog}: {message}\nTry: {self.prog} --help\n")


class _Whole(Parser):
    """The command line before a command is chosen."""

    def format_help(self) -> str:
        """Ours: argparse would break the table of commands."""
        return HELP.format(commands="\n".join(f"  {name:<11} {line}" for name, line in COMMANDS.items()))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `argv` is without the program's name."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _dispatch(arguments)
        sys.stdout.flush()
        return status
    except MisstepError as error:
        return _fail(error)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in EXTRAS:
            raise
        return _fail(MissingExtraError(f"misstep {arguments[0]}", EXTRAS[missing], missing))
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # The reader left (`| head`); Python would complain once more while it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK


def parser(commands: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The whole command line; only the named commands are imported and have their arguments."""
    whole = _Whole(prog="misstep")
    whole.add_argument("--version", action="version", version=f"misstep {__version__}")
    parts = whole.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for name, summary in COMMANDS.items():
        part = parts.add_parser(name, help=summary, allow_abbrev=False, formatter_class=_FORMAT)
        part.set_defaults(part=part)
        if name in commands:
            module = _module(name)
            part.description = module.__doc__
            module.prepare(part)
    return whole


def _dispatch(arguments: list[str]) -> int:
    command = next((a for a in arguments if not a.startswith("-")), None)
    if command is not None and command not in COMMANDS:
        known = ", ".join(COMMANDS)
        hint = _nearest(command, list(COMMANDS)) or f". Commands: {known}"
        print(f"misstep: there is no command {command!r}{hint}\nTry: misstep --help", file=sys.stderr)
        return Exit.USAGE
    if not arguments:
        parser().print_help()
        return Exit.USAGE
    try:
        known_arguments = _join_times(arguments) if command in _TIMED else arguments
        parsed, unknown = parser([command] if command else []).parse_known_args(known_arguments)
        if unknown:
            parsed.part.error(f"unrecognized arguments: {' '.join(unknown)}")
    except SystemExit as stop:
        return int(stop.code or 0)
    return int(_module(parsed.command).run(parsed))


def _join_times(arguments: list[str]) -> list[str]:
    """``--at -5m`` becomes ``--at=-5m``: argparse would take the time for an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] in _TIMES and argument[:1] == "-" and argument[1:2].isdigit():
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _module(command: str) -> Any:
    return importlib.import_module(f"misstep.cli.commands.{command}")


def _nearest(word: str, known: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def _fail(error: MisstepError) -> Exit:
    print(f"misstep: {error}", file=sys.stderr)
    return error.exit
