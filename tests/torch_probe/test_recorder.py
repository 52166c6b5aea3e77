"""Flight Recorder dumps of real jobs (torch 2.13, Gloo, 4 ranks), and what has only the shape of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from misstep.agent.torch import recorder
from misstep.agent.torch.rank import Rank
from misstep.agent.torch.recorder import Position

DATA = Path(__file__).parent.parent / "data" / "torch"


def dump(case: str, rank: int) -> bytes:
    return (DATA / case / f"fr_rank{rank}.json").read_bytes()


def test_a_rank_that_waits_is_in_a_collective_and_the_missing_one_is_not() -> None:
    waits, missing = recorder.read([dump("hang", 0)]), recorder.read([dump("hang", 2)])
    assert waits.by_group() == {"0": Position(10, 9), "1": Position(10, 10)}
    assert missing.by_group() == {"0": Position(9, 9), "2": Position(10, 10)}
    (inside,) = [one for one in waits.collectives if one.open]
    assert (inside.group, inside.label, inside.sequence) == ("0", "default_pg", 10)
    assert (inside.operation, inside.sizes, inside.dtypes) == ("gloo:all_reduce", "[[65536]]", '["Float"]')
    assert not [one for one in missing.collectives if one.open]


def test_a_call_is_over_when_its_entry_says_so_whatever_the_status_of_its_group_says() -> None:
    """Read on a busy machine 0.3 s after the last call came to its end."""
    text = dump("ended_unnoted", 0)
    assert json.loads(text)["pg_status"]["0"]["last_completed_collective"] == "6"
    found = recorder.read([text])
    assert found.by_group() == {"0": Position(9, 9), "1": Position(5, 5)}
    assert not [one for one in found.collectives if one.open]


def test_what_nccl_says_of_a_group_stands() -> None:
    """Its entries say late, when its watchdog has looked, and those of coalesced calls never."""
    held = json.loads(dump("ended_unnoted", 0).replace(b"gloo:", b"nccl:"))
    assert recorder.read([json.dumps(held).encode()]).by_group()["0"] == Position(9, 6)


@pytest.mark.parametrize("newest", [1, 2, 7, 19, 20, 21])
def test_the_newest_are_those_at_the_end_of_the_whole(newest: int) -> None:
    whole = recorder.read([dump("healthy", 0)]).collectives
    assert recorder.read([dump("healthy", 0)], newest).collectives == whole[-newest:]


def test_nccls_states() -> None:
    """What 2.13's sources write for NCCL: a state of its own, and retired without it after a timeout."""
    entry = json.loads(dump("hang", 0))["entries"][0] | {"profiling_name": "nccl:all_reduce"}
    held = [entry | more for more in ({"state": "completed"}, {"state": "started", "retired": False}, {})]
    text = json.dumps({"version": "2.10", "entries": held}).encode()
    assert [one.state for one in recorder.read([text]).collectives] == ["completed", "started", "failed"]


def test_a_version_that_is_not_known_is_not_read() -> None:
    text = json.dumps(json.loads(dump("hang", 0)) | {"version": "3.0"}).encode()
    assert recorder.read([text]) == ([], {}, {}, frozenset(), ("3.0",))


def test_no_entries_and_no_groups() -> None:
    """What a rank says before its first collective."""
    text = b'{"comm_lib_version":"","nccl_comm_state":{},"pg_config":{},"pg_status":{},"version":"2.10"}'
    assert recorder.read([text]) == ([], {}, {}, frozenset(), ())
    assert recorder.status(b"[" + text + b"]") == ({}, True)


_JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)  # fmt: skip
_KEYS = ("process_group", "profiling_name", "collective_seq_id", "time_created_ns", "state", "retired", "is_p2p", "pg_id", "input_sizes", "record_id")  # fmt: skip


@given(st.dictionaries(st.sampled_from(_KEYS), _JSON), st.one_of(_JSON, st.dictionaries(st.text(), _JSON)))
def test_a_damaged_entry_costs_itself_and_no_other(broken: dict[str, Any], status: Any) -> None:
    held = json.loads(dump("hang", 0))
    good = recorder.read([json.dumps(held).encode()]).collectives
    held["entries"].append(held["entries"][0] | broken if broken else [])
    held["pg_status"] = status
    found = recorder.read([json.dumps(held).encode()]).collectives
    assert set(good) <= set(found)
    assert len(found) <= len(good) + 1


def test_sends_and_receives_are_not_taken_for_collectives() -> None:
    """Gloo's status counts them too, and keeps no entries of them."""
    held = json.loads(dump("hang", 0))
    plain = recorder.read([json.dumps(held).encode()])
    assert plain.mixed == frozenset()
    held["pg_status"]["0"]["last_enqueued_collective"] = "64"
    mixed = recorder.read([json.dumps(held).encode()])
    assert (mixed.positions, mixed.mixed) == (plain.positions, frozenset({"0"}))


def test_between_readings_a_group_with_sends_stands_where_its_entries_said() -> None:
    rank = Rank(1, 0)
    rank.names, rank.mixed = {"0": "0", "1": "1"}, frozenset({"0"})
    rank.positions = {"0": recorder.Position(7, 7)}
    assert rank.see(b"x", {"0": recorder.Position(70, 7), "1": recorder.Position(3, 3)}, 1.0)
    assert rank.by_group() == {"0": (7, 7), "1": (3, 3)}
    assert not rank.waits
