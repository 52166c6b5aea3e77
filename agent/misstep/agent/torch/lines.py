"""Log lines of NCCL, Gloo, PyTorch's watchdog, torchrun and DeepSpeed that say something of ranks and collectives.

NCCL: ``host:pid:tid [cudaDev] NCCL INFO|WARN …`` (debug.cc, 2.18 to 2.30). PyTorch: three wordings of the watchdog's
status since 2.1. Gloo: its TCP transport. torchrun: torch.distributed.elastic, 2.x. DeepSpeed: launcher/launch.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from misstep.agent.otlp import Value
from misstep.agent.records import ERROR, INFO, WARNING, Records
from misstep.core import names

_TELLING = re.compile(
    rb"NCCL|[Ww]atchdog|gloo/|CollectiveFingerPrint|exitcode: |closing signal|death signal|sigkill_handler"
)
"""Nearly every line fails this, in a microsecond."""
_LIMIT = 4000
_WHO = re.compile(r"^(?:\[(?!rank\d)[A-Za-z_]+(?P<local>\d+)\]:\s?)?(?:\[rank(?P<rank>\d+)\]:)?")
"""``[default3]:`` comes from torchrun's --tee and counts the ranks of this machine; ``[rank3]:`` from PyTorch."""
_RANK = re.compile(r"\[Rank (?P<rank>\d+)\]|\[PG [^\]]*Rank (?P<of_group>\d+)\]")
_NCCL = re.compile(
    r"(?<![^\s\]:])(?P<host>[^\s:\[\]]+):(?P<pid>\d+):\d+ (?:\[\d+\] )?(?:\S+:\d+ (?:\([^)]*\) )?)?NCCL (?P<level>INFO|WARN|CALL|TRACE) (?P<message>.*)"
)
_INIT = re.compile(
    r"ncclComm\w+ comm (?P<communicator>0x[0-9a-f]+) rank (?P<rank>\d+) nranks (?P<size>\d+) .*Init (?P<event>START|COMPLETE)"
)


class Found(NamedTuple):
    """A line that was recognised.

    Attributes:
        kind: a state of the event ``torch.log``.
        rank: whose line it is, as far as it says; -1 where it does not.
        local: the same, counted on this machine.
        pid: of the process that it speaks of, in that process's own namespace; 0 where it names none.
    """

    kind: str
    severity: int
    attributes: Mapping[str, Value]
    rank: int = -1
    local: int = -1
    pid: int = 0


class _Pattern(NamedTuple):
    kind: str
    severity: int
    expression: re.Pattern[str]
    keys: Mapping[str, str]


_STATUS = {"group": names.GROUP, "guid": names.GROUP, "label": names.GROUP_LABEL, "begun": names.BEGUN, "ended": names.ENDED, "sequence": names.SEQUENCE}  # fmt: skip
_NUMBERS = frozenset((names.SEQUENCE, names.BEGUN, names.ENDED, names.TIMEOUT, names.WAITED, names.OTHER_RANK, names.EXIT_CODE))  # fmt: skip
_PATTERNS = (
    _Pattern("watchdog_timeout", ERROR, re.compile(
        r"Watchdog caught collective operation timeout: WorkNCCL\(SeqNum=(?P<sequence>\d+), OpType=(?P<operation>\w+)"
        r"(?:, NumelIn=(?P<size>\d+), NumelOut=\d+)?, Timeout\(ms\)=(?P<limit>\d+)\) ran for (?P<waited>\d+) milliseconds"
    ), {"sequence": names.SEQUENCE, "operation": names.OPERATION, "size": names.SIZES, "limit": names.TIMEOUT, "waited": names.WAITED}),
    _Pattern("mismatch", ERROR, re.compile(
        r"Detected mismatch between collectives on ranks\. Rank (?P<mine>\d+) is running collective: CollectiveFingerPrint\(SequenceNumber=(?P<sequence>\d+), OpType=(?P<operation>\w+)"
        r".*?but Rank (?P<other>\d+) is running collective: CollectiveFingerPrint\(SequenceNumber=\d+, OpType=(?P<instead>\w+)"
    ), {"sequence": names.SEQUENCE, "operation": names.OPERATION, "other": names.OTHER_RANK, "instead": names.OTHER_OPERATION}),
    _Pattern("dump_signal", WARNING, re.compile(
        r"\[PG (?:ID )?(?P<group>\d+)[^\]]*\] Received a dump signal due to a collective timeout from\s+(?:this local rank|rank (?P<other>-?\d+)).*?"
        r"Last enqueued NCCL work: (?P<begun>-?\d+), last completed NCCL work: (?P<ended>-?\d+)"
    ), {**_STATUS, "other": names.OTHER_RANK}),
    _Pattern("work_status", WARNING, re.compile(
        r"\[PG (?:ID )?(?P<group>\d+)(?: PG GUID (?P<guid>[^\s(]+)(?:\((?P<label>[^)]*)\))?)? Rank \d+\].*?(?:work(?: sequence id)?|NCCL work): (?P<sequence>\d+),? "
        r"(?:PG status: )?last enqueued (?:NCCL )?work: (?P<begun>-?\d+), last completed (?:NCCL )?work: (?P<ended>-?\d+)"
    ), _STATUS),
    _Pattern("gloo_timeout", ERROR, re.compile(
        r"gloo/transport/\S{1,100}?:\d+\] Timed out waiting (?P<limit>\d+)ms for (?P<operation>recv|send) operation"
    ), {"limit": names.TIMEOUT, "operation": names.OPERATION}),
    _Pattern("connection_lost", ERROR, re.compile(
        r"gloo/transport/\S{1,100}?:\d+\] (?:Read|Write) error \[(?P<peer>[^\]]+)\]:\d+: |"
        r"gloo/transport/\S{1,100}?:\d+\] .*?Connection closed by peer \[(?P<closed>[^\]]+)\]"
    ), {"peer": names.PEER, "closed": names.PEER}),
    _Pattern("size_mismatch", ERROR, re.compile(
        r"\[enforce fail at \S{1,300}gloo/transport/\S{1,100}:\d+\] op\.preamble\.length <= op\.nbytes\. (?P<sizes>\d+ vs \d+)"
    ), {"sizes": names.SIZES}),
    _Pattern("rank_failed", ERROR, re.compile(
        r"failed \(exitcode: (?P<code>-?\d+)\) local_rank: (?P<local>\d+) \(pid: (?P<pid>\d+)\) of binary: "
    ), {"code": names.EXIT_CODE}),
    _Pattern("rank_ended", INFO, re.compile(r"Sending process (?P<pid>\d+) closing signal (?P<signal>SIG\w+)"), {"signal": names.EXIT_SIGNAL}),
    _Pattern("launcher_ended", WARNING, re.compile(r"Received (?P<signal>\S+) death signal, shutting down workers"), {"signal": names.EXIT_SIGNAL}),
    _Pattern("rank_ended", INFO, re.compile(r"\[launch\.py:\d+:sigkill_handler\] Killing subprocess (?P<pid>\d+)"), {}),
    _Pattern("rank_failed", ERROR, re.compile(
        r"\[launch\.py:\d+:sigkill_handler\] .*?--local_rank=(?P<local>\d+).* exits with return code = (?P<code>-?\d+)|"
        r"\[launch\.py:\d+:sigkill_handler\] .* exits with return code = (?P<status>-?\d+)"
    ), {"code": names.EXIT_CODE, "status": names.EXIT_CODE}),
)  # fmt: skip


def recognise(line: bytes) -> Found | None:
    """What a line says; None for one that says nothing of this."""
    if _TELLING.search(line) is None:
        return None
    text = line[:_LIMIT].decode("utf-8", "replace")
    rank, local = who(text)
    for pattern in _PATTERNS:
        match = pattern.expression.search(text)
        if match is not None:
            return _found(pattern, match.groupdict(), rank, local)
    return _nccl(text, rank, local)


def who(text: str) -> tuple[int, int]:
    """The rank that a line is of, by what PyTorch puts before it, and the rank on this machine, by what torchrun does."""
    match = _WHO.match(text)
    rank, local = (match["rank"], match["local"]) if match is not None else (None, None)
    if rank is None and (inner := _RANK.search(text)) is not None:
        # The rank in a group's name counts within the group: the whole's own only where it is the default group.
        rank = inner["rank"] or (inner["of_group"] if "default_pg" in inner[0] else None)
    return _number(rank), _number(local)


def _number(text: str | None) -> int:
    return int(text) if text and len(text) < 10 else -1


def _found(pattern: _Pattern, held: Mapping[str, str | None], rank: int, local: int) -> Found:
    told: dict[str, Value] = {}
    for group, name in pattern.keys.items():
        value = held.get(group)
        if value:
            told[name] = int(value) if name in _NUMBERS and len(value) < 19 else value[:100]
    code, signal = told.get(names.EXIT_CODE), told.get(names.EXIT_SIGNAL)
    if isinstance(code, int) and code < 0:  # Python's way to say which signal it was
        del told[names.EXIT_CODE]
        told[names.EXIT_SIGNAL] = signal_name(-code)
    elif isinstance(signal, str) and signal.isdecimal():
        told[names.EXIT_SIGNAL] = signal_name(int(signal))
    mine = _number(held.get("mine"))
    named = _number(held.get("local"))
    return Found(
        pattern.kind, pattern.severity, told, rank if mine < 0 else mine, local if named < 0 else named,
        max(0, _number(held.get("pid"))),
    )  # fmt: skip


def tell(
    found: Found,
    text: bytes,
    out: Records,
    *,
    session: str,
    path: str,
    source: str,
    rank: int = -1,
    pid: int = 0,
) -> None:
    """A recognised line as an event of the rank that it is of, or of its job where that is not known.

    Args:
        path: of the file.
        rank: by which file it stands in; else what the line says.
        pid: the same.
    """
    rank, pid = found.rank if rank < 0 else rank, pid or found.pid
    told: dict[str, Value] = {**found.attributes, names.FILE_PATH: path, names.SOURCE: source}
    told |= ({names.RANK: rank} if rank >= 0 else {}) | ({names.PID: pid} if pid else {})
    out.event(
        "torch.log", entity=f"rank/{session}/{rank}" if rank >= 0 else f"session/{session}", session=session,
        state=found.kind, severity=found.severity, body=text.decode("utf-8", "replace"), attributes=told,
    )  # fmt: skip


def signal_name(number: int) -> str:
    """``SIGKILL``; numbers without a name as they are."""
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _nccl(text: str, rank: int, local: int) -> Found | None:
    match = _NCCL.search(text)
    if match is None:
        return None
    pid, init = max(0, _number(match["pid"])), _INIT.search(match["message"])
    if init is not None:
        kind = "init_start" if init["event"] == "START" else "init_complete"
        told: dict[str, Value] = {
            names.COMMUNICATOR: init["communicator"][:20], names.WORLD_SIZE: _number(init["size"]),
        }  # fmt: skip
        return Found(kind, INFO, told, rank, local, pid)
    if match["level"] == "WARN":
        return Found("nccl_warning", WARNING, {}, rank, local, pid)
    return None
