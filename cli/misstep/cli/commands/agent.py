"""Run the agent alone, as on each node of a cluster; the collector is the one that the settings name."""

from __future__ import annotations

import argparse
import os
import sys

from misstep.core.errors import UnavailableError


def prepare(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments: those of ``python -m misstep.agent``."""
    parser.add_argument("--data", metavar="DIR", help="folder for what waits to be sent")
    parser.add_argument(
        "--collector", metavar="URL", help="where to send; by default this machine's collector"
    )
    parser.add_argument("--port", metavar="N", help="loopback port for Ray's events (default 7664)")
    parser.add_argument("--token", metavar="TOKEN", help="needed by a collector off loopback")
    parser.add_argument(
        "--site", metavar="NAME", help="the place these machines stand, first part of every session"
    )
    parser.add_argument("--config", metavar="FILE", help="settings file instead of misstep.toml")


def run(arguments: argparse.Namespace) -> int:
    """Become the agent: the memory of this process is not to stay beside it."""
    if sys.platform != "linux":
        raise UnavailableError("the agent needs Linux: it reads /proc and the kernel log")
    flags = ("data", "collector", "port", "token", "site", "config")
    given = [f"--{flag}={value}" for flag in flags if (value := getattr(arguments, flag)) is not None]
    os.execv(sys.executable, [sys.executable, "-m", "misstep.agent", *given])
