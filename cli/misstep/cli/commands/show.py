"""Print what is known of one task, actor, worker, node or process: its state, relations and last records.

ENTITY is written as for `misstep logs`: `task/tokenize`, `actor/Trainer`, `process/21877`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from misstep.cli.lines import line
from misstep.cli.options import add_collector, add_json, client
from misstep.cli.sessions import choose, pages
from misstep.cli.terminal import Terminal, clean, paint, plain, say, terminal
from misstep.cli.times import clock, moment
from misstep.core.errors import InputError, UnavailableError
from misstep.core.exits import Exit
from misstep.core.identity import Entity

MOST = 5
"""Entities of one name that are printed; a task's name may fit thousands."""
LAST = 10
"""Records of each."""
_FAILED = ("FAILED", "DEAD", "killed")
PREFIX = 4
"""Letters of an id that are enough to name it."""


def prepare(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("entity", metavar="ENTITY")
    parser.add_argument("--session", metavar="SESSION", help="the cluster, if not the newest")
    parser.add_argument("--at", metavar="TIME", help="as it was known then: 14:02:31, -5m or an ISO time")
    add_collector(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Ask and print."""
    try:
        wanted = Entity.parse(arguments.entity)
    except ValueError as error:
        raise InputError(str(error)) from None
    asked = client(arguments)
    session = choose(asked, arguments.session)
    at = (
        None
        if arguments.at is None
        else moment(arguments.at, time.time_ns(), last=session["heard_ns"])
    )  # fmt: skip
    found = matching(
        pages(asked, "entities", "entities", session=session["session"], kind=wanted.kind, at=at), wanted
    )
    if not found:
        raise UnavailableError(f"no {wanted.kind} in {session['session']} is called {wanted.id!r}")
    records = {
        e["entity"]: asked.get("logs", session=session["session"], entity=e["entity"], at=at, newest="true", limit=LAST)["logs"]
        for e in found[:MOST]
    }  # fmt: skip
    if arguments.json:
        print(
            json.dumps(
                {"entities": [{**e, "logs": records.get(e["entity"], [])} for e in found]}, sort_keys=True
            )
        )
        return Exit.OK
    screen = terminal()
    text = "\n\n".join(describe(e, records[e["entity"]], screen) for e in found[:MOST])
    print(text if screen.unicode else plain(text))
    if len(found) > MOST:
        say(
            f"{len(found)} fit; {MOST} are shown, what failed first. Name one by its id: {found[MOST]['entity']}"
        )
    return Exit.OK


def matching(entities: Sequence[Mapping[str, Any]], wanted: Entity) -> list[Mapping[str, Any]]:
    """Those that have this id, else one of whose attributes says so, else whose id begins so.

    What failed comes first, then the newest.
    """
    exact = [e for e in entities if e["entity"] == str(wanted)]
    named = [e for e in entities if wanted.id in e["attributes"].values()]
    begun = [e for e in entities if len(wanted.id) >= PREFIX and e["entity"].startswith(str(wanted))]
    return sorted(
        exact or named or begun, key=lambda e: (e["state"] not in _FAILED, -e["first_seen_ns"], e["entity"])
    )


def describe(entity: Mapping[str, Any], records: Sequence[Mapping[str, Any]], screen: Terminal) -> str:
    """One entity in lines."""
    ended = entity["ended_ns"]
    life = f"{clock(entity['first_seen_ns'])} – {clock(ended) if ended is not None else 'now'}"
    state = f" · {entity['state']}" if entity["state"] else ""
    lines = [f"{paint(clean(entity['entity']), 'bold', on=screen.color)}{state} · {life}"]
    width = max(map(len, entity["attributes"]), default=0)
    lines += [f"  {clean(k).ljust(width)}  {clean(str(v))}" for k, v in sorted(entity["attributes"].items())]
    for relation in entity["relations"]:
        until = relation["valid_to_ns"]
        span = f"{clock(relation['valid_from_ns'])} – {clock(until) if until is not None else 'now'}"
        lines.append(f"  {relation['relation'].replace('_', ' ')} {clean(relation['target'])}  {span}")
    if records:
        lines += ["", *(f"  {line(row, color=screen.color)}" for row in records)]
    return "\n".join(lines)
