"""GPUs to read: the lab's library, compiled with the system's compiler."""

from __future__ import annotations

from pathlib import Path

import pytest

from misstep.lab import nvml


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library, compiled once."""
    if nvml.compiler() is None:
        pytest.skip("no C compiler: the GPU library cannot be built (apt-get install gcc libc6-dev)")
    return nvml.library(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def control(compiled: Path) -> nvml.Control:
    """The state of the library's GPUs, healthy at first."""
    return nvml.Control(compiled.parent)
