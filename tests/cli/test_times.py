from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest

from misstep.cli.times import clock, moment, span
from misstep.core.clock import SECOND
from misstep.core.errors import SettingsError


def ns(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp()) * SECOND


NOW = ns("2026-11-20T14:02:31+00:00")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", "2026-11-20T14:02:31+00:00"),
        ("-5m", "2026-11-20T13:57:31+00:00"),
        ("5m", "2026-11-20T13:57:31+00:00"),
        ("-90s", "2026-11-20T14:01:01+00:00"),
        ("-1.5h", "2026-11-20T12:32:31+00:00"),
        ("-2d", "2026-11-18T14:02:31+00:00"),
        ("14:02:31", "2026-11-20T14:02:31+00:00"),
        ("14:02", "2026-11-20T14:02:00+00:00"),
        ("14:03", "2026-11-19T14:03:00+00:00"),
        ("2026-11-20T14:02:31Z", "2026-11-20T14:02:31+00:00"),
        ("2026-11-20 10:00", "2026-11-20T10:00:00+00:00"),
        ("2026-11-20T10:00:00+02:00", "2026-11-20T08:00:00+00:00"),
    ],
)
def test_moment(text: str, expected: str) -> None:
    assert moment(text, NOW, UTC) == ns(expected)


def test_a_clock_time_is_of_the_session_that_is_asked_about() -> None:
    yesterday = ns("2026-11-19T14:02:40+00:00")
    assert moment("14:02:31", NOW, UTC, last=yesterday) == ns("2026-11-19T14:02:31+00:00")


def test_fractions_survive() -> None:
    assert moment("14:02:30.25", NOW, UTC) == NOW - 750_000_000
    assert moment("2026-11-20T14:02:30.250Z", NOW, UTC) == NOW - 750_000_000


def test_local_time_is_local() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    assert moment("15:02:31", NOW, berlin) == NOW
    assert clock(NOW, berlin) == "15:02:31"


@pytest.mark.parametrize("text", ["yesterday", "25:00:00", "14:2", "-5x", "", "2026-13-01"])
def test_nonsense_is_refused_with_examples(text: str) -> None:
    with pytest.raises(SettingsError, match=r"14:02:31 or -5m"):
        moment(text, NOW, UTC)


def test_clock_names_another_day() -> None:
    assert clock(NOW, UTC, date(2026, 11, 20)) == "14:02:31"
    assert clock(NOW, UTC, date(2026, 11, 21)) == "2026-11-20 14:02:31"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (38, "38 s"),
        (119, "119 s"),
        (240, "4 min"),
        (7500, "2 h 5 min"),
        (7200, "2 h"),
        (200_000, "2 d"),
    ],
)
def test_span(seconds: float, words: str) -> None:
    assert span(seconds) == words
