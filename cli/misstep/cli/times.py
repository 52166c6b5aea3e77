"""Moments as people write and read them: local time on the screen, Unix nanoseconds inside."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta, tzinfo

from misstep.core.clock import SECOND
from misstep.core.errors import SettingsError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_AGO = re.compile(r"-?(\d+(?:\.\d+)?)([smhd])$")
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2})(\.\d+)?)?$")


def moment(text: str, now: int, zone: tzinfo | None = None, *, last: int | None = None) -> int:
    """Read a moment, Unix nanoseconds.

    Args:
        text: ISO 8601 (without an offset it is local), ``HH:MM[:SS]`` (the last time it was so late),
            ``-5m`` (so long ago; s, m, h, d) or ``now``.
        now: Unix nanoseconds.
        zone: the local zone; by default the machine's.
        last: the newest moment that a bare clock time may mean: of a session that ended yesterday,
            ``14:02`` is yesterday's.

    Raises:
        SettingsError: it is none of these.
    """
    text = text.strip()
    if text == "now":
        return now
    if ago := _AGO.match(text):
        return now - round(float(ago[1]) * _UNITS[ago[2]] * SECOND)
    try:
        if clock := _CLOCK.match(text):
            return _last_time_it_was(clock, now if last is None else min(now, last + 60 * SECOND), zone)
        when = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(
            f"{text!r} is not a time; write 2026-11-20T14:02:31, 14:02:31 or -5m (5 minutes ago)"
        ) from None
    return _nanoseconds(when if when.tzinfo else _localize(when, zone))


def clock(ns: int, zone: tzinfo | None = None, today: date | None = None) -> str:
    """``14:02:31``, with the date before it where `today` is given and is another day."""
    when = local(ns, zone)
    text = when.strftime("%H:%M:%S")
    return text if today is None or when.date() == today else f"{when.date().isoformat()} {text}"


def local(ns: int, zone: tzinfo | None = None) -> datetime:
    """The moment in the local zone, whole seconds."""
    return datetime.fromtimestamp(ns // SECOND, zone).astimezone(zone)


def span(seconds: float) -> str:
    """``38 s``, ``4 min``, ``2 h 5 min``, ``3 d``: a duration in words of at most two units."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes = whole // 60
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d"


def _last_time_it_was(clock: re.Match[str], now: int, zone: tzinfo | None) -> int:
    today = local(now, zone)
    fraction = round(float(clock[4] or 0) * 1e6)
    when = today.replace(
        hour=int(clock[1]), minute=int(clock[2]), second=int(clock[3] or 0), microsecond=fraction
    )
    if _nanoseconds(when) > now:
        when = _localize(when.replace(tzinfo=None) - timedelta(days=1), zone)
    return _nanoseconds(when)


def _localize(naive: datetime, zone: tzinfo | None) -> datetime:
    return naive.replace(tzinfo=zone) if zone else naive.astimezone()


def _nanoseconds(when: datetime) -> int:
    return int(when.replace(microsecond=0).timestamp()) * SECOND + when.microsecond * 1000
