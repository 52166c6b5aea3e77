import pytest

from misstep.core.identity import Entity, Interval, Session, process_id, ray_session


def test_an_entity_survives_the_wire() -> None:
    entity = Entity("process", "5f1c9a/21877/81233")
    assert str(entity) == "process/5f1c9a/21877/81233"
    assert Entity.parse(str(entity)) == entity


@pytest.mark.parametrize("text", ["", "task", "task/", "/x", "thing/x"])
def test_what_is_no_entity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an entity"):
        Entity.parse(text)


def test_a_session_survives_the_wire() -> None:
    session = ray_session("local", "demo", "session_2026-11-20_09-49-30_276594_21621")
    assert str(session) == "local/ray/demo/2026-11-20_09-49-30_276594_21621"
    assert Session.parse(str(session)) == session


@pytest.mark.parametrize("text", ["", "a/b/c", "a/b/c/d/e", "a//c/d"])
def test_what_is_no_session_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a session"):
        Session.parse(text)


def test_a_reused_pid_is_another_process() -> None:
    assert process_id("5f1c9a3e77b0c4d5", 21877, 81233) == "5f1c9a3e77b0/21877/81233"
    assert process_id("5f1c9a3e77b0c4d5", 21877, 81234) != process_id("5f1c9a3e77b0c4d5", 21877, 81233)


@pytest.mark.parametrize(
    ("interval", "at", "inside"),
    [
        (Interval(10, 20), 9, False),
        (Interval(10, 20), 10, True),
        (Interval(10, 20), 19, True),
        (Interval(10, 20), 20, False),
        (Interval(10), 10**18, True),
    ],
)
def test_contains(interval: Interval, at: int, inside: bool) -> None:
    assert interval.contains(at) is inside


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        (Interval(10, 20), Interval(20, 30), False),
        (Interval(10, 20), Interval(19, 30), True),
        (Interval(10), Interval(0, 10), False),
        (Interval(10), Interval(0, 11), True),
        (Interval(10), Interval(500), True),
    ],
)
def test_overlaps_both_ways(one: Interval, other: Interval, shared: bool) -> None:
    assert one.overlaps(other) is shared
    assert other.overlaps(one) is shared
