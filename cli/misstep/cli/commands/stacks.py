"""Show where every rank of a training job stands: the stacks of all ranks, taken at one time, as one tree.

Branches say which ranks stand there. While the job runs on this machine, its stacks are taken anew (by py-spy, without
halting anybody); otherwise, and with --at, those that were taken last are shown.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from misstep.cli.options import add_collector, add_json, client
from misstep.cli.sessions import choose
from misstep.cli.terminal import clean, paint, plain, say, terminal
from misstep.cli.times import clock, moment
from misstep.core import names, stacks
from misstep.core.client import Client, read_endpoint
from misstep.core.clock import SECOND
from misstep.core.errors import UnavailableError
from misstep.core.exits import Exit

PATIENCE = 12.0
"""Seconds until stacks that were asked for have reached the collector: py-spy may take five, the way there two."""
_MOST = 10_000


def prepare(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("session", nargs="?", metavar="SESSION", help="the job, or a part of its name, if not the newest")  # fmt: skip
    parser.add_argument(
        "--at", metavar="TIME", help="those taken last before then: 14:02:31, -5m or an ISO time"
    )
    parser.add_argument("--threads", action="store_true", help="every Python thread, not only the main one")
    add_collector(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Ask, wait, print."""
    asked = client(arguments)
    session = choose(asked, arguments.session)
    name, begun = str(session["session"]), time.time_ns()
    at = None if arguments.at is None else moment(arguments.at, time.time_ns(), last=session["heard_ns"])
    taking = at is None and arguments.collector is None and _take(name)
    found = _stored(asked, name, at)
    deadline = time.monotonic() + PATIENCE
    while taking and _when(found) < begun and time.monotonic() < deadline:
        time.sleep(0.2)
        found = _stored(asked, name, at)
    if not found:
        raise UnavailableError(f"no stacks of {name} were taken; they are when its ranks stand still")
    if taking and _when(found) < begun:
        say("misstep: the stacks that were asked for did not come; these are older")
    if arguments.json:
        print(json.dumps({"session": name, "taken_ns": _when(found), "ranks": [_as_json(r) for r in found]}))
        return Exit.OK
    screen = terminal()
    text = draw(found, threads=arguments.threads, color=screen.color)
    print(text if screen.unicode else plain(text))
    return Exit.OK


def draw(records: Sequence[Mapping[str, Any]], *, threads: bool = False, color: bool = False) -> str:
    """The tree of the records' stacks, below a line that says it in one sentence."""
    held = {rank: stack for record in records for rank, stack in _threads(record).items()}
    main = {rank: stack for (rank, thread), stack in held.items() if thread == "MainThread"}
    how = sorted({str(record["attributes"].get(names.SOURCE, "")) for record in records})
    head = f"{clock(_when(records))}  {clean(stacks.summary(main))}"
    told = stacks.steps({int(r["attributes"].get(names.RANK, -1)): _step(r["attributes"]) for r in records})
    parts = [paint(head, "bold", on=color), *([clean(told)] if told else [])]
    parts += map(clean, stacks.lines(stacks.merge(main)))
    if threads:
        for thread in sorted({thread for _, thread in held if thread != "MainThread"}):
            others = {rank: stack for (rank, name), stack in held.items() if name == thread}
            parts += ["", paint(f"thread {clean(thread)}", "bold", on=color), *map(clean, stacks.lines(stacks.merge(others)))]  # fmt: skip
    if "hook" in how:
        parts += ["", "Some stacks come from a thread in the rank itself, because tracing is refused: misstep doctor"]  # fmt: skip
    return "\n".join(parts)


def _threads(record: Mapping[str, Any]) -> dict[tuple[int, str], list[stacks.Frame]]:
    rank = int(record["attributes"].get(names.RANK, -1))
    return {
        (rank, str(one.get("thread", ""))): stacks.frames(one.get("frames") or ())
        for one in json.loads(record["body"])
    }


def _step(attributes: Mapping[str, Any]) -> tuple[str, str]:
    """Step and phase, as the script told them with `misstep.workload`; empty where it did not."""
    return str(attributes.get(names.STEP, "")), str(attributes.get(names.PHASE, ""))


def _take(session: str) -> bool:
    """Have this machine's agent take them; False where the job does not run here."""
    import http.client
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(str(read_endpoint()["agent"]))
        link = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=3)
        try:
            link.request("POST", "/v1/stacks", json.dumps({"session": session}), {"Content-Type": "application/json"})  # fmt: skip
            return link.getresponse().status == 202
        finally:
            link.close()
    except (UnavailableError, KeyError, OSError, http.client.HTTPException):
        return False


def _stored(asked: Client, session: str, at: int | None) -> list[dict[str, Any]]:
    """The newest stacks that were taken together, by rank."""
    since = (at or time.time_ns()) - 24 * 3600 * SECOND
    found = asked.get("logs", session=session, event="torch.stack", since=since, at=at, newest="true", limit=_MOST)["logs"]  # fmt: skip
    last = max((str(r["attributes"].get(names.READING, "")) for r in found), default="")
    together = [r for r in found if r["attributes"].get(names.READING) == last]
    return sorted(together, key=lambda record: int(record["attributes"].get(names.RANK, -1)))


def _when(records: Sequence[Mapping[str, Any]]) -> int:
    return max((int(record["ts_ns"]) for record in records), default=0)


def _as_json(record: Mapping[str, Any]) -> dict[str, Any]:
    attributes = record["attributes"]
    return {
        "rank": int(attributes.get(names.RANK, -1)), "pid": int(attributes.get(names.PID, 0)),
        "how": attributes.get(names.SOURCE, ""), "threads": json.loads(record["body"]),
    } | {key: value for key, value in zip(("step", "phase"), _step(attributes), strict=True) if value}  # fmt: skip
