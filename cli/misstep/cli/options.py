"""Options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

from misstep.cli import endpoint
from misstep.core.client import Client
from misstep.core.errors import UnavailableError
from misstep.core.settings import Settings, load


def add_config(parser: argparse.ArgumentParser) -> None:
    """``--config FILE``."""
    parser.add_argument("--config", metavar="FILE", type=Path, help="settings file instead of misstep.toml")


def add_json(parser: argparse._ActionsContainer, help: str = "print JSON instead of text") -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help=help)


def add_collector(parser: argparse.ArgumentParser) -> None:
    """``--collector URL`` for commands that ask one."""
    parser.add_argument("--collector", metavar="URL", help="the collector to ask, if not this machine's own")


def settings(arguments: argparse.Namespace, **overrides: object) -> Settings:
    """The settings for a command with ``--config``; overrides that are None are left out."""
    return load(getattr(arguments, "config", None), overrides=overrides)


def client(arguments: argparse.Namespace, *, timeout: float = 10.0) -> Client:
    """The client for the collector that the flag, the settings or the endpoint file names.

    Args:
        arguments: of the command.
        timeout: seconds for each read.

    Raises:
        UnavailableError: no Misstep runs on this machine and none was named.
    """
    chosen = load()
    url = getattr(arguments, "collector", None) or chosen.collector_url
    if not url:
        found = endpoint.find(chosen.data)
        if found is None:
            raise UnavailableError("Misstep is not running here. Start it with: misstep up")
        url = str(found["collector"])
    return Client(url, token=chosen.token or None, timeout=timeout)
