"""The spool: order, bounds, cursors, and what it survives."""

import os
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from misstep.agent.records import Records
from misstep.agent.series import Sheet, declared
from misstep.agent.spool import REQUEST_BYTES, Spool
from misstep.core.clock import SettableClock
from misstep.core.errors import StorageError, UnavailableError


def reading(*names: str, lines: int = 0, cursor: str = "", now: int = 1) -> Records:
    out = Records(now)
    for name in names:
        out.event("kernel.message", body=name)
    for number in range(lines):
        out.line(b"line %d" % number, b"")
    if cursor:
        out.cursor("source", cursor)
    return out


def drain(spool: Spool, read_events: Any) -> list[str]:
    found = []
    while spool.wait(0):
        flight = spool.claim()
        if flight is None:
            break
        if flight.signal == "logs":
            found += [event.body for event in read_events(flight.payload)]
        spool.settle(flight)
    return found


def commit_metrics(spool: Spool, size: int, count: int = 1) -> None:
    spool.commit([], os.urandom(size), count)


def test_what_was_committed_comes_out_in_order_and_once(make_spool: Any, read_events: Any) -> None:
    spool = make_spool()
    for number in range(5):
        spool.commit([reading(f"a{number}", f"b{number}", cursor=str(number))])
    assert spool.cursor("source") == "4"
    assert drain(spool, read_events) == [f"{x}{n}" for n in range(5) for x in "ab"]
    assert drain(spool, read_events) == []
    spool.commit([])
    assert spool.waiting_bytes == 0


def test_numbers_rise_and_events_go_before_lines_before_metrics(make_spool: Any) -> None:
    spool = make_spool()
    commit_metrics(spool, 100)
    spool.commit([reading(lines=3)])
    spool.commit([reading("x")])
    flights = []
    while (flight := spool.claim()) is not None:
        flights.append(flight)
        spool.settle(flight)
    assert [(f.seq, f.kind, f.signal, f.records) for f in flights] == [
        (1, "event", "logs", 1),
        (2, "line", "logs", 3),
        (3, "metric", "metrics", 1),
    ]


def test_a_claim_stands_until_it_is_settled_and_survives_reopening(make_spool: Any, tmp_path: Path) -> None:
    spool = make_spool()
    spool.commit([reading("first")])
    flight = spool.claim()
    spool.commit([reading("second")])  # newer rows do not slip into a request that may have arrived
    assert spool.claim() == flight
    spool.close()
    again = make_spool()
    assert again.boot == spool.boot
    assert again.claim() == flight
    again.settle(flight)
    assert again.claim().seq == flight.seq + 1


def test_a_settled_request_that_was_not_yet_deleted_keeps_its_number(make_spool: Any, tmp_path: Path) -> None:
    """Killed between the collector's answer and the next transaction: the same rows under the same number."""
    spool = make_spool()
    spool.commit([reading("x")])
    flight = spool.claim()
    spool.settle(flight)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in tmp_path.glob("spool.sqlite*"):
        (copy / path.name).write_bytes(path.read_bytes())
    again = make_spool(copy)
    assert again.claim() == flight


def test_requests_are_cut_to_size(make_spool: Any, read_events: Any) -> None:
    spool = make_spool(limit=1 << 26)
    big = Records(1)
    for number in range(40):
        big.event("kernel.message", body=f"{number:03}" + "x" * 100_000)
    spool.commit([big])
    sizes, bodies = [], []
    while (flight := spool.claim()) is not None:
        sizes.append(len(flight.payload))
        bodies += [event.body[:3] for event in read_events(flight.payload)]
        spool.settle(flight)
    assert bodies == [f"{number:03}" for number in range(40)]
    assert max(sizes) <= REQUEST_BYTES
    assert len(sizes) <= 6


def test_a_full_spool_gives_up_metrics_first_events_last_and_says_so(
    make_spool: Any, read_events: Any
) -> None:
    spool = make_spool(limit=200_000)
    for _ in range(30):
        commit_metrics(spool, 10_000, count=7)
    for number in range(20):
        out = Records(1)
        out.lines.append(os.urandom(4_000))
        out.event("kernel.message", body=f"event {number}")
        spool.commit([out])
    assert spool.waiting_bytes <= 200_000
    dropped = spool.dropped()
    assert dropped["metric"] > 0
    assert set(dropped) == {"metric"}
    commit_metrics(spool, 1)
    for _ in range(60):
        out = Records(1)
        out.lines.append(os.urandom(4_000))
        spool.commit([out])
    assert spool.dropped()["line"] > 0
    assert "event" not in spool.dropped()


def test_gaps_are_told_once_each_with_the_number(make_spool: Any, read_events: Any) -> None:
    clock = SettableClock()
    spool = make_spool(limit=50_000, clock=clock)
    for _ in range(10):
        commit_metrics(spool, 10_000, count=7)
        clock.advance(1)
    clock.advance(20)
    spool.commit([])
    told = 0
    while (flight := spool.claim()) is not None:
        if flight.kind == "event":
            for event in read_events(flight.payload):
                assert event.name == "agent.gap"
                assert event.body == "the spool was full"
                assert event.attributes["misstep.dropped.kind"] == "metric"
                told += event.attributes["misstep.dropped"]
        spool.settle(flight)
    assert told == spool.dropped()["metric"] > 0
    clock.advance(60)
    spool.commit([])
    assert spool.claim() is None


def test_a_reading_s_own_gaps_are_counted(make_spool: Any, read_events: Any) -> None:
    spool = make_spool()
    out = Records(1)
    out.gap("kernel", 3, "overwritten")
    out.gap("kernel", 2, "overwritten")
    spool.commit([out])
    [event] = read_events(spool.claim().payload)
    assert event.attributes["misstep.dropped"] == 5
    assert spool.dropped() == {"kernel": 5}


def test_what_is_too_old_goes(make_spool: Any) -> None:
    clock = SettableClock()
    spool = make_spool(age=60, clock=clock)
    commit_metrics(spool, 100, count=4)
    spool.commit([reading("old")])
    clock.advance(100)
    spool.commit([reading("new")])
    assert spool.dropped() == {"metric": 4, "event": 1}


def test_what_is_in_flight_is_never_given_up(make_spool: Any) -> None:
    clock = SettableClock()
    spool = make_spool(limit=30_000, age=60, clock=clock)
    commit_metrics(spool, 20_000, count=3)
    flight = spool.claim()
    clock.advance(100)
    for _ in range(5):
        commit_metrics(spool, 20_000, count=1)
    assert spool.claim() == flight
    spool.settle(flight)
    left = 0
    while (flight := spool.claim()) is not None:
        left += flight.records if flight.kind == "metric" else 0
        spool.settle(flight)
    assert spool.dropped()["metric"] == 5 - left > 0


def test_refused_records_are_counted(make_spool: Any, read_events: Any) -> None:
    spool = make_spool()
    spool.commit([reading("a", "b")])
    spool.settle(spool.claim(), dropped=2, reason="HTTP 400")
    spool.commit([])
    assert spool.dropped() == {"event": 2}
    [event] = read_events(spool.claim().payload)
    assert (event.name, event.body) == ("agent.gap", "HTTP 400")


@pytest.mark.parametrize("damage", ["header", "middle", "empty", "text"])
def test_a_damaged_spool_is_set_aside_and_a_new_boot_minted(
    make_spool: Any, tmp_path: Path, damage: str, read_events: Any
) -> None:
    spool = make_spool()
    for number in range(50):
        out = Records(1)
        out.lines.append(os.urandom(3000))
        out.cursor("source", str(number))
        spool.commit([out])
    boot = spool.boot
    spool.close()
    path = tmp_path / "spool.sqlite"
    held = bytearray(path.read_bytes())
    if damage == "header":
        held[:100] = bytes(100)
    elif damage == "middle":
        held[8192:20480] = b"\xff" * 12288
    elif damage == "empty":
        held = bytearray(b"")
    else:
        held = bytearray(b"not a database at all, but long enough to have a header " * 100)
    path.write_bytes(held)
    again = make_spool()
    assert again.boot != boot
    assert again.cursor("source") == ""
    again.commit([reading("life goes on")])
    bodies = drain(again, read_events)
    assert "life goes on" in bodies
    if damage != "empty":  # an empty file is what SQLite makes itself before the first commit
        assert again.dropped() == {"spool": 1}
        assert any("was damaged" in body for body in bodies)
        assert list(tmp_path.glob("*.damaged-*"))


def test_damage_while_running_is_survived(make_spool: Any, tmp_path: Path, read_events: Any) -> None:
    spool = make_spool()
    spool.commit([reading("before")])
    boot = spool.boot
    spool._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with open(tmp_path / "spool.sqlite", "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * ((tmp_path / "spool.sqlite").stat().st_size - 4096))
    spool._db.execute("PRAGMA cache_size=0")
    out = reading("during")
    try:
        spool.commit([out])
    except StorageError:
        spool.lose([out], 0, "the spool was damaged")
    spool.commit([reading("after")])
    assert spool.boot != boot
    assert "after" in drain(spool, read_events)


def test_a_full_disk_keeps_the_old_and_says_so(make_spool: Any, read_events: Any) -> None:
    spool = make_spool(limit=1 << 26)
    spool.commit([reading("before", cursor="1")])
    pages = spool._db.execute("PRAGMA page_count").fetchone()[0]
    spool._db.execute(f"PRAGMA max_page_count={pages + 2}")  # what SQLite sees of a full disk: SQLITE_FULL
    out = Records(1)
    out.lines.append(os.urandom(500_000))
    out.event("kernel.message", body="lost")
    out.cursor("source", "2")
    with pytest.raises(StorageError, match="full"):
        spool.commit([out])
    assert spool.cursor("source") == "1"
    spool.lose([out], 3, "the disk refused the spool")
    spool._db.execute("PRAGMA max_page_count=1000000")
    spool.commit([reading("after")])
    assert spool.dropped() == {"line": 1, "event": 1, "metric": 3}
    bodies = drain(spool, read_events)
    assert bodies[0] == "before"
    assert "after" in bodies
    assert "lost" not in bodies


def test_numbers_leap_after_the_machine_rebooted(make_spool: Any) -> None:
    """SQLite may lose its newest commits with the power; numbers that the collector has seen must not come again."""
    spool = make_spool(host_boot="a")
    spool.commit([reading("x")])
    flight = spool.claim()
    spool.settle(flight)
    spool.close()
    again = make_spool(host_boot="b")
    again.commit([reading("y")])
    assert again.boot == spool.boot
    assert again.claim().seq >= flight.seq + 1_000_000


def test_one_agent_per_folder(make_spool: Any) -> None:
    make_spool()
    with pytest.raises(UnavailableError, match=f"pid {os.getpid()}"):
        make_spool()


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        Spool(str(tmp_path / "file" / "x"), limit=1, age=1, gap_event=lambda *a: None)


def test_waiting_ends_when_something_comes_and_when_it_closes(make_spool: Any) -> None:
    spool = make_spool()
    assert spool.wait(0.01) is False
    threading.Timer(0.05, lambda: spool.commit([reading("x")])).start()
    assert spool.wait(10) is True
    spool.settle(spool.claim())
    threading.Timer(0.05, spool.close).start()
    assert spool.wait(10) is False


def test_the_file_gives_space_back(make_spool: Any, tmp_path: Path) -> None:
    spool = make_spool(limit=1 << 26)
    for _ in range(20):
        commit_metrics(spool, 200_000)
    while (flight := spool.claim()) is not None:
        spool.settle(flight)
    for _ in range(8):
        spool.commit([reading("x")])
        while (flight := spool.claim()) is not None:
            spool.settle(flight)
    spool.close()
    db = sqlite3.connect(tmp_path / "spool.sqlite")
    assert db.execute("PRAGMA page_count").fetchone()[0] < 400
    db.close()


def test_points_travel_through_the_spool(make_spool: Any) -> None:
    out = Records(5)
    out.point(declared("system.memory.limit"), 1.0)
    spool = make_spool()
    payload = out.metrics(Sheet())
    spool.commit([out], payload, 1)
    flight = spool.claim()
    assert (flight.signal, flight.records, flight.payload) == ("metrics", 1, payload)
