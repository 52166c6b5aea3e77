from typing import Any

import pytest

from misstep.cli.sessions import choose, pages, pick
from misstep.core.errors import UnavailableError


def session(id: str, started: int, state: str = "ended") -> dict[str, Any]:
    return {"session": id, "state": state, "started_ns": started, "heard_ns": started}


OLD = session("local/ray/ray/2026-11-19_08-00-00_1_1", 1)
NEW = session("local/ray/ray/2026-11-20_08-00-00_1_1", 3)
LIVE = session("local/ray/nightly/2026-11-19_23-00-00_1_1", 2, "live")


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
