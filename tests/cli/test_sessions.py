from typing import Any

import pytest

from misstep.cli.sessions import choose, pages, pick
from misstep.core.errors import UnavailableError


def session(id: str, started: int, state: str = "ended") -> dict[str, Any]:
    return {"session": id, "state": state, "started_ns": started, "heard_ns": started, "attributes": {}}


HOUR = 3600 * 10**9
OLD = session("local/ray/ray/2026-11-19_08-00-00_1_1", 1 * HOUR)
NEW = session("local/ray/ray/2026-11-20_08-00-00_1_1", 3 * HOUR)
LIVE = session("local/ray/nightly/2026-11-19_23-00-00_1_1", 2 * HOUR, "live") | {"heard_ns": 4 * HOUR}


class Api:
    def __init__(self, sessions: list[dict[str, Any]]) -> None:
        self.sessions = sessions

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        at = int(query["cursor"] or 0)
        more = str(at + 1) if at + 1 < len(self.sessions) else None
        return {"sessions": self.sessions[at : at + 1], "cursor": more}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (None, LIVE),
        ("ray", LIVE),  # all three are Ray's; the one that lives is meant
        ("nightly", LIVE),
        ("2026-11-20", NEW),
        ("2026-11-19_08", OLD),
        (OLD["session"], OLD),
        ("2026-11-19_08-00-00_1_1", OLD),
        ("20_08-00", NEW),
        ("08", None),
        ("local/ray/ray", NEW),
        ("elsewhere", None),
    ],
)
def test_pick(wanted: str | None, expected: dict[str, Any] | None) -> None:
    assert pick([OLD, NEW, LIVE], wanted) == expected


def test_all_pages_are_read() -> None:
    api: Any = Api([OLD, NEW, LIVE])
    assert pages(api, "sessions", "sessions") == [OLD, NEW, LIVE]
    assert choose(api, None) == LIVE


def test_no_session_says_what_to_do() -> None:
    api: Any = Api([])
    with pytest.raises(UnavailableError, match="misstep run -- python"):
        choose(api, None)


def test_an_unknown_name_lists_the_known() -> None:
    api: Any = Api([OLD, NEW])
    with pytest.raises(UnavailableError, match="2026-11-20_08-00-00"):
        choose(api, "nightly")


def test_what_just_ended_is_meant_before_what_lives_on(capsys: pytest.CaptureFixture[str]) -> None:
    ended = session("local/ray/ray/2026-11-20_09-00-00_1_1", 4 * HOUR) | {"heard_ns": 4 * HOUR - 60 * 10**9}
    api: Any = Api([OLD, NEW, LIVE, ended])
    assert choose(api, None) == ended
    assert capsys.readouterr().err == (
        "misstep: 2 clusters are here; this is local/ray/ray/2026-11-20_09-00-00_1_1; "
        "others by name: 2026-11-19_23-00-00\n"
    )


def test_what_was_put_under_watch_is_meant_before_what_was_found() -> None:
    watched = session("local/ray/ray/2026-11-19_22-00-00_1_1", HOUR, "live") | {
        "heard_ns": 4 * HOUR, "attributes": {"ray.events": "yes"},
    }  # fmt: skip
    assert pick([OLD, NEW, LIVE, watched], None) == watched
    assert pick([OLD, NEW, LIVE, watched], "nightly") == LIVE
