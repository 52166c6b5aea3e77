"""When `diagnose` waits, and when it does not."""

from typing import Any

import pytest

from misstep.cli.answers import CATCH_UP, PATIENCE, behind, settle
from misstep.core.clock import SECOND, SettableClock

SESSION: dict[str, Any] = {"session": "s", "heard_ns": 1_700_000_000 * SECOND}


class Collector:
    """Answers from a script, by seconds since the question."""

    def __init__(self, clock: SettableClock, **changes: Any) -> None:
        self.clock = clock
        self.changes = changes
        self.asked = 0

    def get(self, path: str, **query: object) -> dict[str, Any]:
        self.asked += 1
        passed = self.clock.monotonic() / SECOND
        answer = {
            "as_of_ns": self.clock.now(), "settled": False, "incidents": [], "recovered": [], "unseen": [],
            "summary": {"jobs": {"CREATED": 1}},
        }  # fmt: skip
        for at, change in sorted(self.changes.get("then", {}).items()):
            if passed >= at:
                answer |= change
        return answer


def ask(clock: SettableClock, **changes: Any) -> tuple[dict[str, Any], float, list[str]]:
    said: list[str] = []
    collector: Any = Collector(clock, **changes)
    answer = settle(
        collector, SESSION, said.append, sleep=clock.sleep, monotonic=lambda: clock.monotonic() / SECOND
    )
    return answer, clock.monotonic() / SECOND, said


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


def test_a_settled_session_answers_at_once(clock: SettableClock) -> None:
    _, waited, said = ask(clock, then={0: {"settled": True}})
    assert (waited, said) == (0, [])


def test_a_job_that_just_ended_is_waited_for(clock: SettableClock) -> None:
    over = {"summary": {"jobs": {"FINISHED": 1}}}
    answer, waited, said = ask(
        clock, then={0: over, 2: over | {"incidents": [{"id": "a"}]}, 4: over | {"settled": True, "incidents": [{"id": "b"}]}}
    )  # fmt: skip
    assert answer["incidents"] == [{"id": "b"}]
    assert 4 <= waited < 4.5
    assert "the job just ended" in said[0]


def test_patience_ends(clock: SettableClock) -> None:
    _, waited, _ = ask(clock, then={0: {"summary": {"jobs": {"FAILED": 1}}}})
    assert PATIENCE <= waited < PATIENCE + 0.5


def test_an_incident_of_a_running_job_is_said_at_once(clock: SettableClock) -> None:
    _, waited, _ = ask(clock, then={0: {"incidents": [{"id": "a"}]}})
    assert waited == 0


def test_silence_of_a_running_job_is_said_once_the_question_was_diagnosed(clock: SettableClock) -> None:
    answer, waited, _ = ask(clock, then={2: {"incidents": [{"id": "a"}]}})
    assert (answer["incidents"], waited) == ([{"id": "a"}], 2)
    answer, waited, _ = ask(SettableClock())
    assert not answer["incidents"]


def test_a_diagnosis_that_lags_is_waited_for(clock: SettableClock) -> None:
    early = {"as_of_ns": SESSION["heard_ns"] - 90 * SECOND, "summary": {"jobs": {"FAILED": 1}}}
    _, waited, said = ask(
        clock, then={0: early, 20: early | {"as_of_ns": SESSION["heard_ns"], "settled": True}}
    )
    assert 20 <= waited < 20.5
    assert said[0] == "diagnosis is 90 s behind and catching up"
    answer, waited, _ = ask(SettableClock(), then={0: early})
    assert CATCH_UP <= waited < CATCH_UP + 0.5
    assert behind(answer, SESSION) == 90
    assert behind(answer | {"settled": True}, SESSION) == 0


def test_silence_takes_three_ticks(clock: SettableClock) -> None:
    _, waited, said = ask(clock)
    assert 3 <= waited < 3.5
    assert said
