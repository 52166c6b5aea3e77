"""A process of its own progress for each test."""

from __future__ import annotations

import pytest

from misstep.workload import callbacks, loop, progress
from misstep.workload.progress import Progress


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch) -> Progress:
    """The progress that helpers and callbacks tell to."""
    made = Progress()
    for module in (loop, callbacks, progress):
        monkeypatch.setattr(module, "CURRENT", made)
    return made
