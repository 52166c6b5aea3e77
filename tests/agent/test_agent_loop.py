"""The loop: a grid of deadlines, probes that fail, disks that refuse."""

from typing import Any

import pytest

from misstep.agent.loop import Agent
from misstep.agent.probe import OK, off, unsupported
from misstep.agent.series import declared
from misstep.core.clock import SECOND, SettableClock
from misstep.core.errors import StorageError


class Scripted:
    """A probe that does what it is told."""

    source = "host"

    follows_events = False

    def __init__(self, interval: Any = 1.0, source: Any = "host") -> None:
        self.interval, self.source = interval, source
        self.eventful = True
        self.asked, self.closed = 0, False
        self.checked: list[int] = []
        self.answer = OK
        self.acts: list[Exception] = []

    def supported(self) -> Any:
        self.asked += 1
        return self.answer

    def check(self, now: Any, out: Any) -> Any:
        self.checked.append(now)
        if self.eventful:
            out.event("kernel.message", body=f"{self.source} {len(self.checked)}")
        out.point(declared("system.memory.limit"), 1.0)
        out.cursor(self.source, str(len(self.checked)))
        if self.acts:
            raise self.acts.pop(0)
        return OK

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def clock() -> Any:
    return SettableClock()


@pytest.fixture
def rig(make_context: Any, clock: Any, read_events: Any) -> Any:
    context = make_context(clock)

    def sent() -> Any:
        found: list[Any] = []
        while (flight := context.spool.claim()) is not None:
            found += read_events(flight.payload) if flight.signal == "logs" else []
            context.spool.settle(flight)
        return found

    return context, sent


def test_each_probe_at_its_own_time_and_all_in_one_transaction(rig: Any, clock: Any) -> None:
    context, sent = rig
    fast, slow = Scripted(1.0), Scripted(5.0, "kernel_log")
    agent = Agent(context, [fast, slow])
    for _ in range(11):
        agent.tick()
        clock.advance(1)
    assert (len(fast.checked), len(slow.checked)) == (11, 3)
    assert context.spool.cursor("host") == "11"
    bodies = [event.body for event in sent() if event.name == "kernel.message"]
    assert bodies[:3] == ["host 1", "kernel_log 1", "host 2"]
    agent.close()
    assert fast.closed
    assert slow.closed


def test_ticks_without_an_event_are_kept_two_together_and_an_event_takes_along_what_waits(
    rig: Any, clock: Any
) -> None:
    context, _ = rig
    probe = Scripted()
    agent = Agent(context, [probe])
    kept: list[str] = []
    for eventful in (True, False, False, False, True, False, True):
        probe.eventful = eventful
        agent.tick()
        clock.advance(1)
        kept.append(context.spool.cursor("host"))
    assert kept == ["1", "1", "3", "3", "5", "5", "7"]
    points = 0
    while (flight := context.spool.claim()) is not None:
        points += flight.payload.count(b"system.memory.limit") if flight.signal == "metrics" else 0
        context.spool.settle(flight)
    assert points == 7
    probe.eventful = False
    agent.tick()
    assert context.spool.cursor("host") == "7"
    agent.close()
    assert context.spool.cursor("host") == "8"


def test_what_follows_events_is_read_with_them_and_once_more_after(rig: Any, clock: Any) -> None:
    context, _ = rig
    leader, follower = Scripted(), Scripted(5.0, "kernel_log")
    leader.eventful = follower.eventful = False
    follower.follows_events = True
    agent = Agent(context, [leader, follower])
    started = clock.now()
    for second in range(12):
        leader.eventful = second == 2
        agent.tick()
        clock.advance(1)
    assert [(at - started) // SECOND for at in follower.checked] == [0, 2, 3, 5, 10]


def test_a_failing_probe_is_said_and_costs_the_others_nothing(rig: Any, clock: Any) -> None:
    context, sent = rig
    bad, good = Scripted(), Scripted(source="kernel_log")
    bad.acts = [OSError(5, "Input/output error"), ZeroDivisionError("oops")]
    agent = Agent(context, [bad, good])
    for _ in range(3):
        agent.tick()
        clock.advance(1)
    assert len(bad.checked) == len(good.checked) == 3
    states = [
        (e.attributes["misstep.state"], e.attributes.get("misstep.source.reason", ""))
        for e in sent()
        if e.name == "source.state" and e.attributes["misstep.source"] == "host"
    ]
    assert states == [
        ("failing", "Input/output error"),
        ("failing", "the probe failed: ZeroDivisionError: oops"),
        ("ok", ""),
    ]


def test_what_is_not_supported_is_asked_again_each_half_minute(rig: Any, clock: Any) -> None:
    context, _ = rig
    probe = Scripted()
    probe.answer = unsupported("closed", "open it")
    agent = Agent(context, [probe])
    for _ in range(61):
        agent.tick()
        clock.advance(1)
    assert (probe.asked, probe.checked) == (3, [])
    assert context.coverage.state("host") == unsupported("closed", "open it")
    probe.answer = off("nothing here")
    for _ in range(30):
        agent.tick()
        clock.advance(1)
    assert context.coverage.state("host") == off("nothing here")


def test_the_disk_that_refuses_is_counted_and_said(rig: Any, clock: Any, monkeypatch: Any) -> None:
    context, sent = rig
    agent = Agent(context, [Scripted()])
    agent.tick()
    sent()
    with monkeypatch.context() as patch:

        def refuse(*args: Any) -> None:
            raise StorageError("the spool refuses: database or disk is full")

        patch.setattr(context.spool, "commit", refuse)
        clock.advance(1)
        agent.tick()
        assert context.coverage.state("agent").name == "failing"
    clock.advance(15)
    agent.tick()
    assert context.spool.dropped() == {"event": 1, "metric": 1}
    gaps = {
        e.attributes["misstep.dropped.kind"]: e.attributes["misstep.dropped"]
        for e in sent()
        if e.name == "agent.gap"
    }
    assert gaps == {"event": 1, "metric": 1}


def test_the_grid_holds_when_ticks_are_slow_and_missed_ticks_are_counted(rig: Any, clock: Any) -> None:
    context, _ = rig
    probe = Scripted()
    started = clock.now()
    delays = iter([0.3, 0.0, 3.7, 0.2, 0.0, 0.0])
    check = probe.check

    def slow(now: Any, out: Any) -> Any:
        state = check(now, out)
        clock.advance(next(delays))
        return state

    probe.check = slow  # type: ignore[method-assign]

    def wait(seconds: Any) -> Any:
        clock.advance(seconds)
        return len(probe.checked) == 6

    Agent(context, [probe]).run(wait)
    assert [(at - started) / SECOND for at in probe.checked] == [0, 1, 2, 6, 7, 8]
    assert context.spool.dropped() == {"tick": 3}


def test_the_agent_tells_of_itself(rig: Any, clock: Any, read_events: Any) -> None:
    context, _ = rig
    agent = Agent(context, [Scripted()])
    agent.tick()
    found = []
    while (flight := context.spool.claim()) is not None:
        found.append(flight)
        context.spool.settle(flight)
    [metrics] = [flight for flight in found if flight.signal == "metrics"]
    for name in (
        b"misstep.agent.cpu.time",
        b"misstep.agent.memory.usage",
        b"misstep.probe.duration",
        b"misstep.agent.spool.usage",
    ):
        assert name in metrics.payload
    assert metrics.records == 5


def test_an_agent_that_was_killed_tells_how_long_it_did_not_run(rig: Any, clock: Any) -> None:
    context, _ = rig
    Agent(context, [Scripted()]).tick()
    clock.advance(7)
    agent = Agent(context, [Scripted()])
    agent.tick()
    assert context.spool.dropped() == {"tick": 7}
    agent.tick()
    assert context.spool.dropped() == {"tick": 7}
    agent.close()
    clock.advance(7)
    Agent(context, [Scripted()]).tick()
    assert context.spool.dropped() == {"tick": 7}
