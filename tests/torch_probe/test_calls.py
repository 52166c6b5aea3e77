"""The calls that a regular reading tells, from Flight Recorder dumps of real jobs (torch 2.13, Gloo, 4 ranks)."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from misstep.agent.torch import recorder
from misstep.agent.torch.calls import MOST, Told

DATA = Path(__file__).parent.parent / "data" / "torch"


def dump(case: str, rank: int) -> bytes:
    return (DATA / case / f"fr_rank{rank}.json").read_bytes()


def up_to(text: bytes, entries: int) -> bytes:
    held = json.loads(text)
    held["entries"] = held["entries"][:entries]
    return json.dumps(held, separators=(",", ":")).encode()


def told(body: dict[str, Any]) -> list[tuple[str, ...]]:
    at, found = body["since"], []
    for kind, sequence, after in zip(*[iter(body["calls"])] * 3, strict=True):
        at += after * 1000
        found.append((*body["kinds"][kind], str(sequence), str(at // 1_000_000)))
    return found


def whole(text: bytes) -> list[tuple[str, ...]]:
    return [
        (c.group, c.operation, c.sizes, c.dtypes, str(c.sequence), str(c.created // 1_000_000))
        for c in recorder.read([text]).collectives
    ]


@pytest.mark.parametrize("case", ["healthy", "straggler", "order", "hang", "shape_silent"])
def test_calls_are_those_of_the_whole_ring(case: str) -> None:
    held = told(Told().fresh([dump(case, 1)]))
    expected = whole(dump(case, 1))
    assert [one[:-1] for one in held] == [one[:-1] for one in expected]
    assert all(abs(int(a[-1]) - int(b[-1])) <= 1 for a, b in zip(held, expected, strict=True))


def test_each_call_is_told_once_and_without_a_gap() -> None:
    text, one = dump("straggler", 2), Told()
    first, second = one.fresh([up_to(text, 30)]), one.fresh([text])
    assert told(first) + told(second) == told(Told().fresh([text]))
    assert first["gap"] is second["gap"] is False
    assert one.fresh([text]) == {}


def long_ring(entries: int) -> bytes:
    held = json.loads(dump("straggler", 0))
    entry = held["entries"][0]
    held["entries"] = [
        entry | {"record_id": 5000 + n, "collective_seq_id": n, "time_created_ns": entry["time_created_ns"] + n * 10**7}
        for n in range(entries)
    ]  # fmt: skip
    return json.dumps(held, separators=(",", ":")).encode()


def test_of_a_long_ring_the_newest_are_told_and_that_others_are_missing() -> None:
    body = Told().fresh([long_ring(2000)])
    assert len(body["calls"]) == 3 * MOST
    assert body["calls"][-2] == 1999
    assert body["gap"] is True


def test_a_long_ring_costs_less_than_its_decoding() -> None:
    text = long_ring(2000)
    seconds = []
    for read in (lambda: Told().fresh([text]), lambda: recorder.read([text], 2000)):
        begun = time.process_time()
        for _ in range(3):
            read()
        seconds.append(time.process_time() - begun)
    assert seconds[0] < seconds[1] / 3


def test_sends_are_no_calls_and_no_gap() -> None:
    held = json.loads(dump("straggler", 0))
    entries = held["entries"]
    send = entries[5] | {"is_p2p": True, "profiling_name": "nccl:send 0->1"}
    held["entries"] = [entry | {"record_id": n} for n, entry in enumerate([*entries[:5], send, *entries[5:]])]
    one = Told()
    one.fresh([up_to(json.dumps(held, separators=(",", ":")).encode(), 5)])
    rest = one.fresh([json.dumps(held, separators=(",", ":")).encode()])
    assert rest["gap"] is False
    assert len(rest["calls"]) == 3 * (len(entries) - 5)


def test_a_ring_that_is_laid_out_otherwise_is_decoded() -> None:
    held = json.loads(dump("hang", 0))
    held["entries"] = [dict(reversed(entry.items())) for entry in held["entries"]]
    other = json.dumps(held).encode()
    assert told(Told().fresh([other])) == told(Told().fresh([dump("hang", 0)]))


def test_a_ring_without_entries() -> None:
    assert Told().fresh([b'{"pg_config":{},"pg_status":{},"version":"2.10"}', b"", b"not JSON"]) == {}
