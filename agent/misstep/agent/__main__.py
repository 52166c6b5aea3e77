"""`python -m misstep.agent [--data DIR] [--collector URL] [--port N] [--token TOKEN] [--config FILE]`.

The flags are few and read by hand: argparse alone would take a twentieth of the agent's memory.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from misstep.core.errors import MisstepError, SettingsError

_FLAGS = {
    "--data": "data",
    "--collector": "collector_url",
    "--port": "agent.receiver_port",
    "--token": "token",
    "--site": "site",
}
_STOP = (signal.SIGTERM, signal.SIGINT)


def main(arguments: Sequence[str]) -> int:
    """Run the agent until SIGTERM or SIGINT; returns the exit code."""
    if any(word in ("-h", "--help") for word in arguments):
        print((__doc__ or "").splitlines()[0].strip("`."))
        return 0
    if sys.platform != "linux":
        print("The agent needs Linux: it reads /proc and the kernel log.", file=sys.stderr)
        return 4
    try:
        return run(arguments)
    except MisstepError as error:
        print(f"misstep agent: {error}", file=sys.stderr)
        return int(error.exit)


def run(arguments: Sequence[str]) -> int:
    """Build the agent from settings and run it.

    Raises:
        MisstepError: it cannot start; the message says why.
    """
    from misstep.agent.assembly import assemble
    from misstep.core.settings import load

    config, overrides = parse(arguments)
    settings = load(Path(config) if config else None, overrides=overrides)
    # Blocked in every thread, taken by the wait below: no handler can run in the middle of a commit.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
    with assemble(settings) as agent:
        gc.collect()
        gc.freeze()  # what start-up made lives as long as the process: collections need not look at it
        agent.run(_is_told_to_stop)
    return 0


def _is_told_to_stop(seconds: float) -> bool:
    """Wait for so long, or until a signal says so.

    A process that was stopped and goes on gets from `sigtimedwait` something that is not None and no signal either.
    """
    came = signal.sigtimedwait(_STOP, seconds)
    return came is not None and came.si_signo in _STOP


def parse(arguments: Sequence[str]) -> tuple[str | None, dict[str, object]]:
    """Flags as (settings file, overrides for `misstep.core.settings.load`); ``--flag value`` and ``--flag=value``.

    Raises:
        SettingsError: a flag is unknown or lacks its value.
    """
    config: str | None = None
    overrides: dict[str, object] = {}
    words = list(arguments)
    while words:
        flag, equals, value = words.pop(0).partition("=")
        if flag != "--config" and flag not in _FLAGS:
            raise SettingsError(f"unknown flag {flag!r}; known are --config, {', '.join(_FLAGS)}")
        if not equals:
            if not words:
                raise SettingsError(f"{flag} needs a value")
            value = words.pop(0)
        if flag == "--config":
            config = os.path.expanduser(value)
        else:
            overrides[_FLAGS[flag]] = value
    return config, overrides


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
