"""Exit codes of every `misstep` command."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """stdout is data, stderr is narration, and the code says how it went."""

    OK = 0
    """Done; for `diagnose`, no incident; for `demo`, the verdict is the injected fault."""
    FAILURE = 1
    """An error that has no code of its own; stderr says which."""
    USAGE = 2
    """The command line or a setting is wrong."""
    MISSING_EXTRA = 3
    """A component is not installed; stderr has the pip line."""
    UNAVAILABLE = 4
    """Something that we need does not answer: no collector, a port that is taken, no Ray."""
    WRONG_VERDICT = 5
    """`demo` only: the verdict is not the injected fault, or none came in time."""
    INCIDENT = 10
    """`diagnose` only: at least one incident stands."""
    INTERRUPTED = 130
    """Ctrl-C."""
