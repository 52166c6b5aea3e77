"""When a rank made its calls, in few bytes: what a regular reading of the Flight Recorder tells of a job that gets on.

Decoding a ring takes ten times as long as finding the few fields of its newest entries, and those are all that it takes
to see who comes late and who calls something else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from misstep.agent.torch import recorder

MOST = 600
"""Calls that one reading tells at most, the newest."""
_ENTRY = b'{"collective_seq_id":'
_ENTRIES = b'"entries"'
_RECORD = b'"record_id":'
_CALL = re.compile(
    rb'\{"collective_seq_id":(\d+),(?:"duration_ms":[^,]*,)?"input_dtypes":(\[[^\]]*\]),"input_sizes":(\[[][\d,]*\]),'
    rb'"is_p2p":false,"op_id":\d+,"output_dtypes":\[[^\]]*\],"output_sizes":\[[][\d,]*\],"p2p_seq_id":\d+,"pg_id":\d+,'
    rb'"process_group":\["([^"\\]*)","[^"\\]*"\],"profiling_name":"([^"\\]*)","record_id":(\d+),"retired":\w+,'
    rb'"state":"\w*",(?:"thread_id":"[^"]*","thread_name":"[^"]*",)?"time_created_ns":(\d+)'
)

_Call = tuple[int, int, tuple[bytes, ...], int]
"""Record, sequence, (group, operation, sizes, dtypes), nanoseconds."""


class Told:
    """What was told of one rank: up to which record of each of its rings."""

    def __init__(self) -> None:
        self._last: dict[int, int] = {}

    def fresh(self, rings: Iterable[bytes]) -> dict[str, Any]:
        """The calls since the last time, for the body of a reading; empty if there are none.

        ``kinds`` lists what differs: group, operation, sizes and types of the inputs. ``calls`` holds three numbers for
        each call: its place in `kinds`, its sequence, and the microseconds since the call before, the first one's
        since `since` (Unix nanoseconds). ``gap`` is true where calls were left out before the first.
        """
        found: list[_Call] = []
        gap = False
        for ring, text in enumerate(rings):
            last = self._last.get(ring, -1)
            calls = _scan(text, last)
            if calls:
                newest = _newest(text, calls)
                if newest < last:  # the ring was begun anew
                    calls = _scan(text, -1)
                gap = gap or _first(text, calls) > last + 1
                self._last[ring] = newest
                found += calls
        if not found:
            return {}
        found.sort(key=lambda call: (call[3], call[0]))
        return _body(found, gap)


def _scan(text: bytes, last: int) -> list[_Call]:
    """The calls after a record, at most so many of the newest."""
    at = len(text)
    for _ in range(MOST):
        start = text.rfind(_ENTRY, 0, at)
        if start < 0 or 0 <= last >= _record(text, start):
            break
        at = start
    found: list[_Call] = [
        (int(record), int(sequence), (group, operation, sizes, dtypes), int(created))
        for sequence, dtypes, sizes, group, operation, record, created in _CALL.findall(text, at)
    ]
    known = _ENTRY in text or _ENTRIES not in text
    return found if known and (found or b'"is_p2p":false' not in text[at:]) else _decoded(text, last)


def _decoded(text: bytes, last: int) -> list[_Call]:
    """The same of a ring that is not laid out as we know it."""
    try:
        held = recorder.read([text]).collectives
    except ValueError:
        return []
    return [
        (one.record, one.sequence, (one.group.encode(), one.operation.encode(), one.sizes.encode(), one.dtypes.encode()), one.created)
        for one in held
        if one.record > last
    ]  # fmt: skip


def _record(text: bytes, start: int) -> int:
    at = text.find(_RECORD, start)
    digits = text[at + len(_RECORD) : at + len(_RECORD) + 20].partition(b",")[0].rstrip(b"}")
    return int(digits) if at >= 0 and digits.isdigit() else -1


def _newest(text: bytes, calls: list[_Call]) -> int:
    """The last record of a ring; a send at its end counts too."""
    start = text.rfind(_ENTRY)
    return max(_record(text, start) if start >= 0 else -1, calls[-1][0])


def _first(text: bytes, calls: list[_Call]) -> int:
    """The first record that was looked at; sends before the first call are no gap."""
    first = calls[0][0]
    start = text.rfind(_ENTRY, 0, max(0, text.find(b'"record_id":%d,' % first)))
    while start > 0:
        before = text.rfind(_ENTRY, 0, start)
        if before < 0 or _record(text, before) != first - 1 or _CALL.match(text, before):
            break
        first, start = first - 1, before
    return first


def _body(found: list[_Call], gap: bool) -> dict[str, Any]:
    kinds: dict[tuple[bytes, ...], int] = {}
    since = before = found[0][3]
    calls: list[int] = []
    for _, sequence, kind, created in found:
        calls += (kinds.setdefault(kind, len(kinds)), sequence, (created - before) // 1000)
        before += (created - before) // 1000 * 1000
    told = [[part.decode(errors="replace")[:400] for part in kind] for kind in kinds]
    return {"since": since, "gap": gap, "kinds": told, "calls": calls}
