"""Sources: told at each change and every 30 s."""

from typing import Any

import pytest

from misstep.agent.coverage import Coverage
from misstep.agent.probe import OK, failing, off, unsupported
from misstep.agent.records import Records
from misstep.core.clock import SECOND


@pytest.fixture
def told(read_events: Any) -> Any:
    def tell(coverage: Coverage, now: int) -> list[tuple[str, ...]]:
        out = Records(now)
        coverage.check(now, out)
        keys = (
            "misstep.source",
            "misstep.session",
            "misstep.state",
            "misstep.source.reason",
            "misstep.source.remedy",
        )
        return [tuple(e.attributes.get(key, "") for key in keys) for e in read_events(out.events)]

    return tell


def test_changes_at_once_and_all_every_half_minute(told: Any) -> None:
    coverage = Coverage("host/a")
    coverage.report("host", OK)
    coverage.report("kernel_log", unsupported("closed", "sudo misstep agent"))
    now = 100 * SECOND
    first = [("host", "", "ok", "", ""), ("kernel_log", "", "unsupported", "closed", "sudo misstep agent")]
    assert told(coverage, now) == first
    coverage.report("host", OK)
    assert told(coverage, now + SECOND) == []
    coverage.report("ray_logs", off("no logs"), "local/ray/ray/x")
    assert told(coverage, now + 2 * SECOND) == [("ray_logs", "local/ray/ray/x", "off", "no logs", "")]
    assert len(told(coverage, now + 30 * SECOND)) == 3
    coverage.end("local/ray/ray/x")
    assert told(coverage, now + 60 * SECOND) == first


def test_a_failure_between_two_ticks_is_not_hidden_by_the_recovery(told: Any) -> None:
    coverage = Coverage("host/a")
    coverage.report("host", OK)
    told(coverage, SECOND)
    coverage.report("host", failing("lost"))
    coverage.report("host", OK)
    assert [row[2] for row in told(coverage, 2 * SECOND)] == ["failing", "ok"]


def test_a_clock_set_back_does_not_silence_it(told: Any) -> None:
    coverage = Coverage("host/a")
    coverage.report("host", OK)
    assert told(coverage, 10_000 * SECOND)
    assert told(coverage, 10 * SECOND)


def test_only_declared_sources() -> None:
    with pytest.raises(KeyError):
        Coverage("host/a").report("moon", OK)
