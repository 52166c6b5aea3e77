"""What a store does when it opens: remember what the lake has, and replay the journal's unsealed rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from misstep.store import encoding
from misstep.store.hot import Hot
from misstep.store.ingest import Group, Ingest
from misstep.store.journal import Journal
from misstep.store.lake import Lake
from misstep.store.limits import EVENTS_REMEMBERED, LIVE
from misstep.store.segment import Row
from misstep.store.verdict import UNDECODABLE

GROUP_BYTES = 8 * 1024 * 1024
GROUP_ROWS = 256


def remember(ingest: Ingest, lake: Lake) -> None:
    """Tell the ingest which series, resources and events the lake has."""
    position, received = lake.position()
    if position == lake.origin.base:
        return
    since = lake.first_after(received - LIVE)
    ingest.remember(
        defined=lake.ids("series_id", "series", 0),
        resources=lake.ids("resource", "resources", 0),
        live=lake.ids("series_id", "samples", since),
        received=received,
        events=lake.events(EVENTS_REMEMBERED),
    )


def warm(hot: Hot, lake: Lake, keep: int) -> None:
    """Bring the newest of the lake back into memory, where nearly every question looks.

    Args:
        hot: empty.
        lake: where from.
        keep: bytes of memory for sealed rows; a compressed payload takes about thirty times its size there.
    """
    position, _ = lake.position()
    floor = lake.newest(keep // 32) if position > lake.origin.base else position
    hot.start_at(floor)
    if position > floor:
        hot.insert(lake.read(floor))
        hot.sealed(position, keep)


def groups(journal: Journal, after: int) -> Iterator[list[Row]]:
    """The journal's rows with a greater seq, in portions."""
    rows: list[Row] = []
    size = 0
    for row in journal.pending(after):
        rows.append(row)
        size += len(row.payload)
        if size >= GROUP_BYTES or len(rows) >= GROUP_ROWS:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def replay(ingest: Ingest, rows: Sequence[Row]) -> Group:
    """Decode rows of the journal and apply their verdicts."""
    payloads, verdicts = [], []
    for row in rows:
        try:
            payloads.append(decompress(row))
            verdicts.append(row.verdict)
        except encoding.DAMAGED:
            payloads.append(b"")
            verdicts.append(UNDECODABLE)
    return ingest.replay([row.signal for row in rows], payloads, verdicts)


def decompress(row: Row) -> bytes:
    """The body of a row; its size was checked when it came.

    Raises:
        Exception: one of `encoding.DAMAGED`, it is not what its encoding says.
    """
    return encoding.protobuf(row.signal, row.payload, row.encoding)


def put_aside(folder: Path, row: Row) -> None:
    """Keep a payload that cannot be decoded: its segment will be deleted."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{row.seq:020d}.{row.signal}"
    path.write_bytes(row.payload)
