"""Parts for the tests of torch's ranks."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from misstep.agent import launch
from misstep.lab.household import Household
from misstep.lab.service import Service

HOOK = str(Path(launch.__file__).parent / "hook")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without torch, what needs it is skipped with a word."""
    if importlib.util.find_spec("torch") is None:
        for item in items:
            if item.get_closest_marker("torch"):
                item.add_marker(pytest.mark.skip(reason="torch is not installed: make torch"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where ranks put their sockets."""
    made = tmp_path / "t"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def environment(folder: Path) -> Callable[..., dict[str, str]]:
    """The environment of a rank under watch, or with ``hook="0"`` of one that is not."""

    def make(hook: str = "1", **more: str) -> dict[str, str]:
        held = {k: v for k, v in os.environ.items() if not k.startswith(("MISSTEP_", "RANK", "MASTER_"))}
        return held | {
            "PYTHONPATH": HOOK,
            "MISSTEP_HOOK": hook,
            "MISSTEP_TORCH_FOLDER": str(folder),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            **more,
        }

    return make


class Watched(NamedTuple):
    """A Misstep that runs, where its processes live, and the environment of jobs that it watches."""

    home: Household
    service: Service
    environment: dict[str, str]


@pytest.fixture(scope="session")
def watched() -> Callable[[], AbstractContextManager[Watched]]:
    """Runs a Misstep for as long as its block lasts."""
    return _watched


@contextmanager
def _watched() -> Iterator[Watched]:
    with Household() as home:
        service = Service(home)
        service.start()
        service.wait()
        held = {k: v for k, v in os.environ.items() if not k.startswith("MISSTEP_")}
        held |= launch.child_environment(service.agent_url, environ=held)
        held |= {
            launch.TORCH_FOLDER: service.environment["MISSTEP_AGENT_TORCH_FOLDER"],
            "OMP_NUM_THREADS": "1",
        }
        yield Watched(home, service, held)


@pytest.fixture
def without_pids() -> Callable[[Any], Any]:
    """Takes what differs between any two runs out of a text."""
    import re

    return lambda text: re.sub(r"\d{4,}|\d\d:\d\d:\d\d\.\d+", "N", text)
