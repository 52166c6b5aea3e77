"""Asks NCCL's RAS what every communicator of a job does: launches by rank, and ranks that are missing. Only ever STATUS.

The line protocol of NCCL 2.24 and later (ras/client_support.cc), JSON since 2.28.7. Before that a question has crashed
jobs (nccl issues 1669, 1718, 1762), so it is not put. Counts are launches, not completions; sends, receives and
all-to-alls are not among them.
"""

from __future__ import annotations

import json
import re
import socket
import time
from typing import Any, NamedTuple

from misstep.core import stacks

OLDEST = (2, 28, 7)
ADDRESS = "localhost:28028"
_LIMIT = 16 * 1024 * 1024
_LINE = 256
_GATHER = 3
"""Seconds that RAS may take to hear from its peers."""
_PATIENCE = 8.0
_MOST = 256
"""Communicators, and missing ranks of one, that are told of."""
_NO_COMMA = re.compile(r'([\d"el\]}])(\s*\n\s*)("[^"\n]*"\s*:)')
"""2.28.9 leaves out a comma between two members of an object."""


class RasError(Exception):
    """RAS cannot be asked, or what answers is not RAS."""


class Communicator(NamedTuple):
    """One communicator as RAS sees it.

    Attributes:
        hash: which its members share.
        size: ranks that it has.
        present: ranks that RAS heard of.
        pids: of those and of the missing ones, as their own namespaces count.
        counts: by operation, which of its ranks have launched it how often: ``{"AllReduce": {41: [0, 1], 40: [2]}}``.
        missing: ``{"rank", "host", "pid", "unresponsive", "dead"}``.
        wrong: its ranks whose communicator met an error, was aborted or is not initialised, with what it says.
    """

    hash: str
    size: int
    present: int
    pids: frozenset[int]
    counts: dict[str, dict[int, list[int]]]
    missing: list[dict[str, Any]]
    wrong: dict[int, str]

    @property
    def state(self) -> str:
        """``missing``, ``error``, ``unequal`` or ``ok``; unequal counts in one answer are nothing out of the ordinary."""
        if self.missing or self.present < self.size:
            return "missing"
        if self.wrong:
            return "error"
        return "unequal" if any(len(held) > 1 for held in self.counts.values()) else "ok"

    def body(self) -> str:
        """As JSON, ranks in ranges."""
        counts = {
            op: {str(n): stacks.numbers(held) for n, held in by.items()} for op, by in self.counts.items()
        }
        wrong = {str(rank): what for rank, what in self.wrong.items()}
        return json.dumps({"counts": counts, "missing": self.missing, "wrong": wrong}, separators=(",", ":"))


def version(text: str) -> tuple[int, ...]:
    """``2.28.9+cuda12.8`` as numbers; empty for what is none."""
    match = re.match(r"\s*(\d+)\.(\d+)\.(\d+)", text)
    return tuple(map(int, match.groups())) if match is not None else ()


def ask(address: str = ADDRESS, patience: float = _PATIENCE) -> str:
    """The JSON of one question.

    Args:
        address: ``host:port``, as NCCL_RAS_ADDR has it.
        patience: seconds for all of it.

    Raises:
        RasError: nobody listens, it takes too long, answers too much, or answers something else.
    """
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + patience
    try:
        with socket.create_connection(
            (host.strip("[]") or "localhost", int(port)), timeout=min(1.0, patience)
        ) as link:
            link.settimeout(min(1.0, patience))
            _say(link, "CLIENT PROTOCOL 2", "SERVER PROTOCOL ", deadline)
            _say(link, f"TIMEOUT {_GATHER}", "OK", deadline)
            _say(link, "SET FORMAT json", "OK", deadline)
            link.sendall(b"VERBOSE STATUS\n")
            return _rest(link, deadline).decode("utf-8", "replace")
    except (OSError, ValueError, OverflowError) as error:
        raise RasError(f"no answer at {address}: {error}") from error


def _say(link: socket.socket, line: str, expected: str, deadline: float) -> None:
    link.sendall(line.encode() + b"\n")
    held = b""
    while not held.endswith(b"\n"):  # byte by byte: what comes behind the line is another answer's
        if len(held) > _LINE or time.monotonic() > deadline:
            raise RasError("what answers is not RAS")
        part = link.recv(1)
        if not part:
            raise RasError(f"it closed the connection after {line!r}")
        held += part
    if not held.decode("utf-8", "replace").strip().upper().startswith(expected):
        raise RasError(f"it answered {line!r} with {held[:80]!r}")


def _rest(link: socket.socket, deadline: float) -> bytes:
    parts: list[bytes] = []
    size = 0
    while (left := deadline - time.monotonic()) > 0:
        link.settimeout(left)
        part = link.recv(256 * 1024)
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
        if size > _LIMIT:
            raise RasError("its answer is too long")
    raise RasError("its answer takes too long")


def read(text: str) -> list[Communicator]:
    """The communicators of an answer; members that are missing or of another type count as nothing.

    Raises:
        RasError: it is not the JSON of RAS.
    """
    try:
        held = json.loads(text)
    except ValueError:
        try:
            held = json.loads(_NO_COMMA.sub(r"\1,\2\3", text))
        except (ValueError, RecursionError) as error:
            raise RasError(f"its answer is not JSON: {error}") from error
    except RecursionError as error:
        raise RasError("its answer is nested too deep") from error
    if not isinstance(held, dict) or not isinstance(held.get("communicators"), list):
        raise RasError("its answer has no communicators")
    return [_communicator(one) for one in _objects(held["communicators"])[:_MOST]]


def _communicator(held: dict[str, Any]) -> Communicator:
    ranks, absent = _objects(held.get("ranks")), _objects(held.get("missing_ranks"))
    counts: dict[str, dict[int, list[int]]] = {}
    wrong: dict[int, str] = {}
    for one in ranks:
        rank = _number(one, "rank")
        for operation, number in _object(one.get("collective_counts")).items():
            if type(number) is int and len(counts) < 16:
                counts.setdefault(str(operation)[:32], {}).setdefault(number, []).append(rank)
        if said := _wrong(_object(one.get("status"))):
            wrong[rank] = said
    missing = [
        {
            "rank": _number(one, "rank"), "host": str(one.get("host", ""))[:64], "pid": _number(one, "pid"),
            "unresponsive": bool(_object(one.get("status")).get("unresponsive")),
            "dead": bool(_object(one.get("status")).get("considered_dead")),
        }
        for one in absent[:_MOST]
    ]  # fmt: skip
    pids = frozenset(_number(one, "pid") for one in [*ranks, *absent]) - {-1}
    size, present = _number(held, "size"), _number(held, "ranks_count")
    return Communicator(
        str(held.get("hash", ""))[:40],
        size,
        present if present >= 0 else len(ranks),
        pids,
        counts,
        missing,
        wrong,
    )


def _wrong(status: dict[str, Any]) -> str:
    """What a rank's status says besides that all is well; 7 is ncclInProgress."""
    said = [
        f"{key} {status[key]}" for key in ("init_state", "async_error") if status.get(key) not in (0, None)
    ]
    return ", ".join([*said, *(["aborted"] if status.get("abort_flag") else [])])[:80]


def _number(held: dict[str, Any], key: str) -> int:
    value = held.get(key)
    return value if type(value) is int else -1


def _object(held: object) -> dict[str, Any]:
    return held if isinstance(held, dict) else {}


def _objects(held: object) -> list[dict[str, Any]]:
    return [one for one in held if isinstance(one, dict)] if isinstance(held, list) else []
