"""Print stored log lines and events, live or long after the cluster is gone.

ENTITY is kind/name, kind/id or the first letters of an id: `task/tokenize`, `actor/Trainer`,
`ray_worker/21877`, `ray_node/node-2`, `process/21877`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from misstep.cli.lines import line
from misstep.cli.options import add_collector, add_json, client
from misstep.cli.sessions import choose
from misstep.cli.terminal import plain, say, terminal
from misstep.cli.times import moment
from misstep.core.client import Client
from misstep.core.errors import SettingsError
from misstep.core.exits import Exit

LIMIT = 200
"""Records that are printed if nothing else is asked for: the newest."""
PAGE = 1000
PAUSE = 0.5
"""Seconds between two questions of ``--follow``."""


def prepare(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "entity", nargs="?", metavar="ENTITY", help="only what is about this task, actor, worker…"
    )
    parser.add_argument("--session", metavar="SESSION", help="the cluster, if not the newest")
    parser.add_argument("--around", metavar="TIME", help="15 s on both sides of 14:02:31, -5m or an ISO time")
    parser.add_argument("--since", metavar="TIME", help="not before")
    parser.add_argument("--until", metavar="TIME", help="before")
    parser.add_argument("--at", metavar="TIME", help="only what was known then")
    parser.add_argument(
        "--grep", metavar="TEXT", action="append", help="only with this text; repeated: any of them"
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--events", action="store_true", help="only events")
    kind.add_argument("--lines", action="store_true", help="only log lines")
    parser.add_argument("-n", "--limit", metavar="N", type=int, default=LIMIT,
                        help=f"the newest N records (default {LIMIT}), the oldest N with --since or --around; 0 for all")  # fmt: skip
    parser.add_argument(
        "-f", "--follow", action="store_true", help="go on, and print what arrives; Ctrl-C ends it"
    )
    add_collector(parser)
    add_json(parser, "print one JSON object a line")


def run(arguments: argparse.Namespace) -> int:
    """Ask and print."""
    asked = client(arguments)
    session = choose(asked, arguments.session)
    now = time.time_ns()

    def when(text: str | None) -> int | None:
        return None if text is None else moment(text, now, last=session["heard_ns"])

    query = {
        "session": session["session"],
        "entity": arguments.entity if arguments.entity is None or "/" in arguments.entity else None,
        "around": when(arguments.around),
        "since": when(arguments.since),
        "until": when(arguments.until),
        "at": when(arguments.at),
        "contains": arguments.grep,
        "plain": "true" if arguments.lines else "false" if arguments.events else None,
    }
    if arguments.entity is not None and query["entity"] is None:
        # A bare word is most often a task's or an actor's name.
        query["entity"] = [f"{kind}/{arguments.entity}" for kind in ("task", "actor")]
    screen = terminal()
    if arguments.follow and (arguments.at or arguments.until or arguments.around):
        raise SettingsError("--follow goes on from now; it goes with neither --at, --until nor --around")

    def show(row: dict[str, Any]) -> None:
        text = json.dumps(row, sort_keys=True) if arguments.json else line(row, color=screen.color)
        print(text if screen.unicode or arguments.json else plain(text), flush=arguments.follow)

    printed = 0
    if arguments.follow:
        for row in follow(asked, query, arguments.limit):
            show(row)
        return Exit.OK
    for row in _rows(asked, query, arguments.limit):
        show(row)
        printed += 1
    if not printed:
        say(f"nothing stored fits in {session['session']}")
    elif arguments.limit and printed >= arguments.limit:
        say(f"the limit of {arguments.limit} records is reached; more with -n {arguments.limit * 10} or -n 0")
    return Exit.OK


def follow(
    asked: Client, query: dict[str, Any], limit: int, *, sleep: Callable[[float], None] = time.sleep
) -> Iterator[dict[str, Any]]:
    """What is stored, then what arrives, for ever and each record once.

    It goes by the order of arrival, so that nothing is missed that comes late.

    Args:
        asked: the collector.
        query: filters.
        limit: of what is stored, the newest, or with ``since`` the oldest; 0 for all.
        sleep: waits between two questions.
    """
    end: str | None = None
    for page in _pages(asked, query, limit):
        end = page["end"]
        yield from _by_time(page["logs"])
    while True:
        page = asked.get("logs", **query, limit=PAGE, cursor=end)
        end = page["end"]
        yield from page["logs"]
        if page["cursor"] is None:
            sleep(PAUSE)


def _rows(asked: Client, query: dict[str, Any], limit: int) -> Iterator[dict[str, Any]]:
    for page in _pages(asked, query, limit):
        yield from _by_time(page["logs"])


def _pages(asked: Client, query: dict[str, Any], limit: int) -> Iterator[dict[str, Any]]:
    forward = query["around"] is not None or query["since"] is not None or limit == 0
    if not forward:
        yield asked.get("logs", **query, newest="true", limit=min(limit, 10_000))
        return
    cursor, left = None, limit or None
    while True:
        size = PAGE if left is None else min(PAGE, left)
        page = asked.get("logs", **query, limit=size, cursor=cursor)
        yield page
        cursor = page["cursor"]
        left = None if left is None else left - len(page["logs"])
        if cursor is None or left == 0:
            return


def _by_time(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (row["ts_ns"], row["seq"], row["row"]))
