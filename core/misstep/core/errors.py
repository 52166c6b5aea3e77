"""The errors a user can meet.

    MisstepError
    ├── SettingsError        a setting is unknown, malformed or contradicts another
    ├── UnavailableError     something we need does not answer (collector, port, Ray)
    │   └── MissingExtraError   a component is not installed
    ├── InputError           input from outside is malformed or over a limit
    │   └── TooLargeError
    ├── StorageError         the disk refuses (full, read-only, damaged)
    └── VerdictError         the demo's verdict is not the fault that was injected

Libraries' own exceptions are translated into these at the boundary, with ``from``, and caught once, in `misstep.cli.main`.
"""

from __future__ import annotations

from misstep.core.exits import Exit


class MisstepError(Exception):
    """Root of all errors that we raise on purpose. The message says what happened and what to do."""

    exit: Exit = Exit.FAILURE


class SettingsError(MisstepError):
    """A setting is unknown, malformed or contradicts another."""

    exit = Exit.USAGE


class UnavailableError(MisstepError):
    """Something that we need does not answer."""

    exit = Exit.UNAVAILABLE


class MissingExtraError(UnavailableError):
    """A component's dependencies are not installed.

    Args:
        command: what the user asked for, for example ``misstep collector``.
        extra: the extra that brings it, for example ``collector``.
        module: the module that could not be imported.
    """

    exit = Exit.MISSING_EXTRA

    def __init__(self, command: str, extra: str, module: str) -> None:
        super().__init__(
            f"{command} needs the package {module}. Install it with: pip install 'misstep[{extra}]'"
        )


class InputError(MisstepError):
    """Input from outside is malformed; it was refused whole and counted."""


class TooLargeError(InputError):
    """Input from outside is over a limit; it was refused whole and counted."""


class StorageError(MisstepError):
    """The disk refuses to keep what it was given; nothing was acknowledged."""


class VerdictError(MisstepError):
    """The verdict names another cause or entity than the fault that was injected."""

    exit = Exit.WRONG_VERDICT
