"""Whether the parts of Misstep that a command starts are installed."""

from __future__ import annotations

from importlib.util import find_spec

from misstep.core.errors import MissingExtraError

COLLECTOR = ("duckdb", "duckdb_extension_ducklake", "ptars", "pyarrow", "starlette", "uvicorn")
"""One module of each package whose lack would end the collector at its start."""


def missing(modules: tuple[str, ...]) -> str | None:
    """The first of the modules that is not installed; nothing is imported."""
    return next((module for module in modules if find_spec(module) is None), None)


def require_collector(command: str, extra: str = "collector") -> None:
    """Say what to install before a child process dies of it.

    Raises:
        MissingExtraError: the collector's extra is not installed.
    """
    if (module := missing(COLLECTOR)) is not None:
        raise MissingExtraError(command, extra, module)
