"""Run the collector alone: it receives, stores, diagnoses and answers."""

from __future__ import annotations

import argparse
import os
import sys
from importlib.util import find_spec

from misstep.cli.options import add_settings
from misstep.core.errors import MissingExtraError


def prepare(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    """Become the collector."""
    for module in ("duckdb", "uvicorn", "starlette", "ptars", "pyarrow"):
        if find_spec(module) is None:
            raise MissingExtraError("misstep collector", "collector", module)
    flags = [] if arguments.settings is None else ["--settings", str(arguments.settings)]
    os.execv(sys.executable, [sys.executable, "-m", "misstep.collector", *flags])
