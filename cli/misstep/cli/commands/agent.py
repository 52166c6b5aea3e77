"""Run the agent alone, as on each node of a cluster; the collector is the one that the settings name."""

from __future__ import annotations

import argparse
import os
import sys

from misstep.cli.options import add_settings
from misstep.core.errors import UnavailableError


def prepare(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    """Become the agent: the memory of this process is not to stay beside it."""
    if sys.platform != "linux":
        raise UnavailableError("the agent needs Linux: it reads /proc and the kernel log")
    flags = [] if arguments.settings is None else ["--settings", str(arguments.settings)]
    os.execv(sys.executable, [sys.executable, "-m", "misstep.agent", *flags])
