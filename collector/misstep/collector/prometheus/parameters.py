"""Times, durations, matchers and limits as Prometheus' API takes them. Times are Unix nanoseconds."""

from __future__ import annotations

import math
import re
import time
from datetime import UTC, datetime

from misstep.collector.dialect import Question
from misstep.collector.prometheus.errors import PrometheusRefusal, refused, wrong
from misstep.core.clock import SECOND
from misstep.store.promql.errors import QueryError
from misstep.store.promql.parse import parse
from misstep.store.promql.syntax import Matcher, Selector

_MILLISECOND = 1_000_000
_FARTHEST = 1 << 62
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_DURATION = re.compile(r"(?:(\d+)y)?(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?")
_UNITS = (31_536_000_000, 604_800_000, 86_400_000, 3_600_000, 60_000, 1000, 1)
_MATCHES_MOST = 100


def query_text(question: Question) -> str:
    """The parameter ``query``."""
    return question.text("query")


def moment(question: Question, name: str, default: int | None = None) -> int:
    """A time: Unix seconds or RFC 3339, to the millisecond.

    Raises:
        Refusal: 400, it is missing or none of these.
    """
    text = question.text(name)
    if not text:
        if default is None:
            raise wrong(name, "", "timestamp")
        return default
    if _NUMBER.fullmatch(text):
        seconds = float(text)
        if not math.isfinite(seconds) or abs(seconds) * SECOND >= _FARTHEST:
            raise wrong(name, text, "timestamp")
        return round(seconds * 1000) * _MILLISECOND
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is None or "T" not in text.upper():
            raise ValueError
    except ValueError:
        raise wrong(name, text, "timestamp") from None
    since = found - _EPOCH
    return ((since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000) * _MILLISECOND


def now(question: Question) -> int:
    """The time that a question means without saying one: ``at``, or the present."""
    at = question.at()
    return (time.time_ns() if at is None else at) // _MILLISECOND * _MILLISECOND


def duration(question: Question, name: str, default: int | None = None) -> int:
    """A duration: seconds, or ``1h30m``.

    Raises:
        Refusal: 400, it is missing, none of these or too long.
    """
    text = question.text(name)
    if not text and default is not None:
        return default
    found: float = -1.0
    if _NUMBER.fullmatch(text):
        found = float(text) * 1000
    elif text and (parts := _DURATION.fullmatch(text)):
        found = float(sum(int(number) * unit for number, unit in zip(parts.groups("0"), _UNITS, strict=True)))
    elif text:
        raise wrong(name, text, "duration")
    if not text or not math.isfinite(found) or abs(found) * _MILLISECOND >= _FARTHEST:
        raise wrong(name, text, "duration")
    return round(found) * _MILLISECOND


def limit(question: Question) -> int:
    """At most so many entries; 0 for all.

    Raises:
        Refusal: 400, it is no such number.
    """
    text = question.text("limit")
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise PrometheusRefusal("bad_data", 'invalid parameter "limit": limit must be non-negative integer')
    return int(text)


def alternatives(question: Question, *, required: bool = False) -> list[tuple[Matcher, ...]]:
    """The selectors of ``match[]``.

    Raises:
        Refusal: 400, one of them is none.
    """
    given = question.form.get("match[]", [])
    if required and not given:
        raise PrometheusRefusal("bad_data", "no match[] parameter provided")
    if len(given) > _MATCHES_MOST:
        raise PrometheusRefusal("bad_data", f"more than {_MATCHES_MOST} match[] parameters")
    return [selector(text) for text in given]


def selector(text: str) -> tuple[Matcher, ...]:
    """The matchers of one selector.

    Raises:
        Refusal: 400, it is something else.
    """
    try:
        node = parse(text)
    except QueryError as error:
        raise refused(error) from error
    if not isinstance(node, Selector) or node.moment.at is not None or node.moment.offset:
        raise PrometheusRefusal("bad_data", f'invalid parameter "match[]": {text[:100]!r} is no selector')
    return node.matchers


def warnings(question: Question) -> list[str]:
    """What an answer lacks: collectors of a shared lake that do not tell what they have not sealed."""
    return [f"partial answer: {who} does not tell what it has not sealed" for who in question.view().missing]
