"""What a probe is: something that reads one source of evidence and says when it cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from misstep.agent.records import Records


class SourceState(NamedTuple):
    """Whether a source of evidence can be read.

    Attributes:
        name: ``ok``, ``unsupported`` (this machine or user cannot), ``failing`` (it could, and now does not)
            or ``off`` (there is nothing to read: no Ray runs here, a setting says so).
        reason: what a person should know of it; empty when it is ok.
        remedy: a command that opens the source; empty when there is none.
    """

    name: str
    reason: str = ""
    remedy: str = ""


OK = SourceState("ok")


def unsupported(reason: str, remedy: str = "") -> SourceState:
    """A state for what this machine or user cannot read."""
    return SourceState("unsupported", reason, remedy)


def failing(reason: str, remedy: str = "") -> SourceState:
    """A state for what could be read and now cannot."""
    return SourceState("failing", reason, remedy)


def off(reason: str, remedy: str = "") -> SourceState:
    """A state for a source that has nothing to say here."""
    return SourceState("off", reason, remedy)


class Probe(Protocol):
    """Reads one source on the agent's main thread.

    A check must come back within milliseconds: what can block (a socket, a slow file system) belongs on a
    thread of the probe's own, which hands over what it has at the next check.

    Attributes:
        source: a key of `misstep.core.names.SOURCES`.
        interval: seconds between checks; a check may change it.
        follows_events: checked out of turn in a tick in which a probe before it brought an event, and in the next.
    """

    source: str
    interval: float
    follows_events: bool

    def supported(self) -> SourceState:
        """Whether there is anything to read, before the first check and again each 30 s while not ok."""
        ...

    def check(self, now: int, out: Records) -> SourceState | None:
        """Read what is new and put it into `out`, with the cursor up to which it goes.

        Args:
            now: Unix nanoseconds of this tick; points of all probes carry it.
            out: taken whole, also when this raises; set a cursor only after what it covers.

        Returns:
            The source's state, or None if the probe reports to `Coverage` itself (per session, say).

        Raises:
            OSError: the source is failing; the loop says so and calls again.
        """
        ...

    def close(self) -> None:
        """Give back descriptors and threads; called once."""
        ...
