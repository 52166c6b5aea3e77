"""Say why a job is slow, stuck or dead: cause, blamed entity, evidence, and what to do.

Without SESSION it is about the newest cluster that lives, else the newest of all. SESSION may be
shortened: `ray`, or the first letters of its start (`2026-11-20`). Exit code 10 means that an incident
stands, 0 that none does.
"""

from __future__ import annotations

import argparse
import json
import shlex
import time
from collections.abc import Mapping
from datetime import date
from typing import Any

from misstep.cli.answers import ask, settle
from misstep.cli.options import add_collector, add_json, client
from misstep.cli.progress import Progress
from misstep.cli.report import report
from misstep.cli.sessions import choose
from misstep.cli.terminal import Terminal, say, terminal
from misstep.cli.times import moment
from misstep.core.client import Client
from misstep.core.exits import Exit

PAUSE = 1.0
"""Seconds between two looks of ``--watch``: diagnosis ticks each second."""


def prepare(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("session", nargs="?", metavar="SESSION", help="the cluster, if not the newest")
    parser.add_argument(
        "--at", metavar="TIME", help="as it was known then: 14:02:31, -5m or 2026-11-20T14:02:31"
    )
    parser.add_argument("--watch", action="store_true", help="go on, and say each verdict as it comes")
    parser.add_argument("--all", action="store_true", help="also what went wrong and recovered on its own")
    add_collector(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Ask, wait if need be, print."""
    asked = client(arguments)
    session = choose(asked, arguments.session)
    if arguments.watch:
        return _watch(asked, session, arguments)
    if arguments.at is not None:
        at = moment(arguments.at, time.time_ns(), last=session["heard_ns"])
        answer = ask(asked, session["session"], at)
    else:
        at = None
        with Progress() as progress:
            answer = settle(asked, session, progress.show)
        # As it ended meanwhile, but held against what had been heard when the question was put.
        session = {**choose(asked, session["session"]), "heard_ns": session["heard_ns"]}
    _print(answer, session, arguments, at)
    return Exit.INCIDENT if answer["incidents"] else Exit.OK


def _watch(asked: Client, session: Mapping[str, Any], arguments: argparse.Namespace) -> int:
    say(f"watching {session['session']}; Ctrl-C ends it")
    known: dict[str, tuple[str, str]] = {}
    while True:
        answer = ask(asked, session["session"])
        fresh = [
            i
            for i in [*answer["incidents"], *(answer["recovered"] if arguments.all else ())]
            if known.get(i["id"]) != (i["status"], i["sentence"])
        ]
        if fresh:
            known.update({i["id"]: (i["status"], i["sentence"]) for i in fresh})
            _print({**answer, "incidents": fresh, "recovered": []}, session, arguments, None)
            if not arguments.json:
                print(flush=True)
        if answer["settled"] and choose(asked, session["session"])["state"] != "live":
            if not known:
                _print(answer, choose(asked, session["session"]), arguments, None)
            return Exit.INCIDENT if answer["incidents"] else Exit.OK
        time.sleep(PAUSE)


def _print(
    answer: Mapping[str, Any], session: Mapping[str, Any], arguments: argparse.Namespace, at: int | None
) -> None:
    if arguments.json:
        print(json.dumps({"session": session, **answer}, sort_keys=True), flush=True)
        return
    screen: Terminal = terminal()
    flags = "" if arguments.session is None else f" --session {shlex.quote(arguments.session)}"
    text = report(answer, session, screen, everything=arguments.all, at=at, today=date.today(), flags=flags)
    print(text, flush=True)
