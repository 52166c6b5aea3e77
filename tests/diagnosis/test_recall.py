"""What a tick finds must not depend on what earlier ticks remember."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from misstep.diagnosis import Incident


@pytest.mark.parametrize("name", ["start_timed_out", "quiet_retry", "held", "crash_task"])
def test_each_tick_finds_the_same_with_and_without_memory(captured: Callable[[str], Any], name: str) -> None:
    def told(*, remember: bool) -> list[tuple[int, list[str]]]:
        found: list[tuple[int, list[str]]] = []

        def each(at: int, incidents: list[Incident]) -> None:
            found.append((at, [one.to_json() for one in incidents]))

        captured(name).run(each=each, remember=remember)
        return found

    assert told(remember=True) == told(remember=False)
