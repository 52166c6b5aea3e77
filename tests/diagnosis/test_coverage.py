"""What was lost on the way is told of the sources that it is missing from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from misstep.core import names

Captured = Callable[[str], Any]


@pytest.mark.parametrize(("kind", "count", "told"), [
    ("line", 1, "1 line was lost: it was cut"), ("log_byte", 7, "7 bytes of logs were lost: it was cut"),
])  # fmt: skip
def test_a_lost_line_is_told_of_the_logs_and_of_nobody_else(
    captured: Captured, kind: str, count: int, told: str
) -> None:
    replay = captured("torch_hang")
    stack = next(row for row in replay.rows if row.event == "torch.stack")
    attributes = {names.DROPPED: str(count), names.DROPPED_KIND: kind}
    replay.rows.append(
        stack._replace(event="agent.gap", session="", body="it was cut", attributes=attributes, row=999)
    )
    host = next(row for row in replay.rows if row.attributes.get(names.SOURCE) == "host")
    replay.rows.append(host._replace(attributes={names.SOURCE: "training_logs"}, row=998))
    replay.rows.sort(key=lambda row: row.received)
    (incident,) = replay.run()
    lost = {gap["source"]: gap["reason"] for gap in incident.to_dict()["unseen"] if "lost" in gap["reason"]}
    assert lost == {"training_logs": told}


def test_a_reading_that_was_missed_is_told_of_everybody(captured: Captured) -> None:
    replay = captured("torch_hang")
    stack = next(row for row in replay.rows if row.event == "torch.stack")
    attributes = {names.DROPPED: "3", names.DROPPED_KIND: "tick"}
    replay.rows.append(
        stack._replace(event="agent.gap", session="", body="late", attributes=attributes, row=999)
    )
    replay.rows.sort(key=lambda row: row.received)
    (incident,) = replay.run()
    said = {
        gap["source"] for gap in incident.to_dict()["unseen"] if gap["reason"] == "3 readings were lost: late"
    }
    assert {"host", "processes"} <= said
