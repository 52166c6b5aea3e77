"""The journal through everything a disk can do to it."""

from __future__ import annotations

import random
import shutil
import sqlite3
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from misstep.core.errors import StorageError
from misstep.store import salvage
from misstep.store.journal import Journal
from misstep.store.request import marks_of
from misstep.store.segment import HighWater, Row, Segment, parts, path_of


def row(seq: int, size: int = 30) -> Row:
    payload = bytes([seq % 251]) * size
    return Row(seq, 1000 + seq, "logs", "agent", "boot", seq * 2, "gzip", b"v", payload)


def open_journal(folder: Path, position: int = 0) -> Journal:
    return Journal(folder / "journal", position=position, received=0, marks={})


def fill(folder: Path, rows: int, size: int = 30) -> list[Row]:
    """Rows, one commit each, in a journal that was killed rather than closed."""
    live = open_journal(folder / "live")
    written = [row(seq, size) for seq in range(1, rows + 1)]
    for one in written:
        live.append([one], marks_of([one]))
    shutil.copytree(folder / "live", folder / "dead")
    live.close()
    return written


def pending(journal: Journal, after: int = 0) -> list[Row]:
    return list(journal.pending(after))


def log_of(folder: Path) -> Path:
    return parts(path_of(folder / "dead" / "journal", 1))[1]


def test_rows_come_back_after_a_kill_and_the_next_seq_goes_on(tmp_path: Path) -> None:
    written = fill(tmp_path, 5)
    journal = open_journal(tmp_path / "dead")
    assert pending(journal) == written
    assert pending(journal, after=3) == written[3:]
    assert journal.next_seq == 6
    assert journal.received == 1005
    assert journal.marks == {("agent", "boot"): HighWater(10, 1005)}
    assert not journal.counts
    journal.close()


def test_marks_outlive_the_segments_that_raised_them(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    for seq in range(1, 4):
        journal.append([row(seq)], marks_of([row(seq)]))
        journal.rotate()
        journal.drop(seq)
    assert journal.segments() == 1
    journal.close()
    again = open_journal(tmp_path, position=3)
    assert pending(again, after=3) == []
    assert again.marks == {("agent", "boot"): HighWater(6, 1003)}
    assert again.next_seq == 4
    again.close()


def test_a_segment_goes_only_when_all_of_it_is_sealed(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    for seq in (1, 2):
        journal.append([row(seq)], {})
    journal.rotate()
    journal.append([row(3)], {})
    journal.drop(1)
    assert journal.segments() == 2
    journal.drop(2)
    assert journal.segments() == 1
    assert [path.name for path in (tmp_path / "journal").glob("*.sqlite")] == [f"{3:020d}.sqlite"]
    journal.close()


@pytest.mark.parametrize("tail", ["cut", "zeroes", "noise"])
def test_a_torn_tail_costs_only_what_it_hides(tmp_path: Path, tail: str) -> None:
    written = fill(tmp_path, 6)
    log = log_of(tmp_path)
    data = log.read_bytes()
    end = len(data) - 5000
    log.write_bytes(data[:end] + {"cut": b"", "zeroes": bytes(5000), "noise": b"\xa5" * 5000}[tail])
    journal = open_journal(tmp_path / "dead")
    found = pending(journal)
    assert found == written[: len(found)]
    assert 3 <= len(found) < 6
    assert journal.next_seq == len(found) + 1
    assert journal.marks[("agent", "boot")].agent_seq == 2 * len(found)
    assert bool(journal.counts["journal_torn_tails"]) == (tail != "cut")
    journal.append([row(journal.next_seq)], {})
    journal.close()


def flipped(folder: Path, at: int, bit: int) -> Path:
    """A copy of what a kill left, with one bit of the log turned round."""
    copy = folder / "flipped"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder / "dead", copy)
    log = parts(path_of(copy / "journal", 1))[1]
    content = bytearray(log.read_bytes())
    content[at] ^= 1 << bit
    log.write_bytes(content)
    return copy


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_costs_at_most_the_row_that_it_lies_in(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    tmp_path = tmp_path_factory.mktemp("flip")
    written = fill(tmp_path, 8, size=9000)
    at = data.draw(st.integers(0, log_of(tmp_path).stat().st_size - 1))
    copy = flipped(tmp_path, at, data.draw(st.integers(0, 7)))
    journal = open_journal(copy)
    found = pending(journal)
    lost = [one for one in written if one not in found]
    assert found == [one for one in written if one not in lost]
    assert len(lost) <= 1, "one bit touches one page, and no page holds parts of two of these rows"
    if lost:
        assert journal.counts["journal_damaged_segments"] == 1
        assert journal.counts["journal_lost_rows"] == 1
        assert (copy / "quarantine" / f"{1:020d}.lost").read_text() == f"{lost[0].seq}\n"
    assert journal.marks == {("agent", "boot"): HighWater(16, 1008)}
    journal.close()
    again = open_journal(copy)
    assert pending(again) == found, "what was rescued stays"
    assert not again.counts["journal_damaged_segments"]
    again.close()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.randoms(use_true_random=False))
def test_a_rescue_ends_whatever_the_disk_did(
    tmp_path_factory: pytest.TempPathFactory, seed: random.Random
) -> None:
    tmp_path = tmp_path_factory.mktemp("noise")
    written = fill(tmp_path, 6, size=3000)
    log = log_of(tmp_path)
    content = bytearray(log.read_bytes())
    for _ in range(400):
        content[seed.randrange(len(content))] = seed.randrange(256)
    log.write_bytes(content)
    if seed.random() < 0.5:
        path_of(tmp_path / "dead" / "journal", 1).write_bytes(content[::-1])
    found = salvage.salvage(path_of(tmp_path / "dead" / "journal", 1))
    assert set(found.rows) <= set(written)


@pytest.mark.parametrize("where", [3, 16, 24, 24 + 100])
def test_no_page_hides_rows_that_lie_elsewhere(tmp_path: Path, where: int) -> None:
    """Of every frame the same byte: heads, the first page, the schema, roots and what they lead to."""
    written = fill(tmp_path, 14, size=600)
    for frame in range(32, log_of(tmp_path).stat().st_size, 24 + 4096):
        copy = flipped(tmp_path, frame + where, 1)
        journal = open_journal(copy)
        assert len(set(pending(journal)) & set(written)) >= 13, f"frame at {frame}"
        journal.close()


@pytest.mark.parametrize("at", [0, 9, 17, 30])
def test_a_damaged_head_of_the_log_costs_nothing(tmp_path: Path, at: int) -> None:
    written = fill(tmp_path, 5)
    content = bytearray(log_of(tmp_path).read_bytes())
    content[at] ^= 0xFF
    log_of(tmp_path).write_bytes(content)
    journal = open_journal(tmp_path / "dead")
    assert pending(journal) == written
    assert journal.counts["journal_damaged_segments"] == 1
    assert journal.marks[("agent", "boot")].agent_seq == 10
    journal.close()


def test_neither_position_nor_time_of_a_lost_row_is_given_again(tmp_path: Path) -> None:
    written = fill(tmp_path, 3, size=9000)
    content = log_of(tmp_path).read_bytes()
    copy = flipped(tmp_path, content.rindex(written[-1].payload[-1000:]), 0)
    journal = open_journal(copy)
    assert pending(journal) == written[:-1]
    assert (journal.next_seq, journal.received) == (4, written[-1].received)
    journal.close()
    again = open_journal(copy)
    assert (again.next_seq, again.received) == (4, written[-1].received)
    again.close()


def test_a_segment_that_was_killed_at_birth_is_nothing(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.append([row(1)], {})
    journal.close()
    unborn = sqlite3.connect(path_of(tmp_path / "journal", 2))
    unborn.execute("PRAGMA journal_mode=WAL")
    unborn.close()
    again = open_journal(tmp_path)
    assert pending(again) == [row(1)]
    assert not again.counts
    again.close()


def test_a_damaged_page_in_the_database_itself_hides_only_its_rows(tmp_path: Path) -> None:
    written = fill(tmp_path, 8, size=9000)
    base = path_of(tmp_path / "dead" / "journal", 1)
    db = sqlite3.connect(base)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    content = bytearray(base.read_bytes())
    at = content.index(written[4].payload[:3000])
    content[at] ^= 1
    base.write_bytes(content)
    journal = open_journal(tmp_path / "dead")
    assert pending(journal) == [one for one in written if one.seq != 5]
    assert journal.counts["journal_lost_rows"] == 1
    journal.close()


def test_a_file_that_is_no_database_is_put_aside(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    folder.mkdir()
    path_of(folder, 1).write_bytes(b"not a database" * 100)
    journal = open_journal(tmp_path)
    assert pending(journal) == []
    assert (tmp_path / "quarantine" / path_of(folder, 1).name).exists()
    journal.append([row(1)], {})
    journal.close()


def test_what_a_failed_commit_left_never_counts(tmp_path: Path) -> None:
    """A commit may fail and yet be on disk; the next segment says where the one before ended."""
    journal = open_journal(tmp_path)
    journal.append([row(1)], marks_of([row(1)]))
    ghost = row(2)
    journal._current._insert([ghost])  # type: ignore[union-attr]
    journal._current._mark(marks_of([ghost]))  # type: ignore[union-attr]
    journal._set_aside()
    journal.append([row(2, size=50)], {})
    journal.close()
    again = open_journal(tmp_path)
    assert pending(again) == [row(1), row(2, size=50)]
    assert again.marks == {("agent", "boot"): HighWater(2, 1001)}, (
        "or the agent's next try would be taken for a copy"
    )
    again.close()


def test_a_rescue_that_was_cut_short_is_done_again(tmp_path: Path) -> None:
    written = fill(tmp_path, 3)
    folder = tmp_path / "dead" / "journal"
    half = Segment.create(folder / f"{1:020d}-rescued.sqlite", 1, 0, {}, written[:1])
    half.close()
    journal = open_journal(tmp_path / "dead")
    assert pending(journal) == written
    journal.close()


def test_a_deletion_that_was_cut_short_is_finished(tmp_path: Path) -> None:
    written = fill(tmp_path, 3)
    folder = tmp_path / "dead" / "journal"
    path_of(folder, 1).unlink()
    journal = open_journal(tmp_path / "dead", position=len(written))
    assert pending(journal, after=3) == []
    assert not log_of(tmp_path).exists()
    journal.close()


def test_a_journal_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    open_journal(tmp_path).close()
    db = sqlite3.connect(path_of(tmp_path / "journal", 1))
    db.execute("UPDATE meta SET value = 99 WHERE key = 'version'")
    db.commit()
    db.close()
    with pytest.raises(StorageError, match="newer Misstep"):
        open_journal(tmp_path)


def test_a_refused_write_stores_nothing_and_the_next_one_works(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.append([row(1)], {})
    folder = tmp_path / "journal"
    moved = tmp_path / "elsewhere"
    journal._set_aside()
    folder.rename(moved)
    with pytest.raises(StorageError, match="cannot be written"):
        journal.append([row(2)], {})
    moved.rename(folder)
    journal.append([row(2)], {})
    journal.close()
    again = open_journal(tmp_path)
    assert [one.seq for one in pending(again)] == [1, 2]
    again.close()


def test_frames_are_read_as_sqlite_writes_them(tmp_path: Path) -> None:
    fill(tmp_path, 4)
    log = salvage.read_log(path_of(tmp_path / "dead" / "journal", 1))
    assert log is not None
    assert log.torn == 0
    size = log_of(tmp_path).stat().st_size
    assert len(log.frames) == (size - 32) // (24 + 4096)
    assert struct.unpack(">I", log_of(tmp_path).read_bytes()[8:12])[0] == 4096
