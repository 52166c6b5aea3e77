"""Where an agent looks for the sockets of ranks."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from misstep.agent.torch.folders import Folders


@pytest.fixture
def users() -> Iterator[Path]:
    """The folder of a user, below /tmp as the hook makes it."""
    made = Path(tempfile.mkdtemp(prefix="misstep-", dir="/tmp"))
    yield made / "torch"
    shutil.rmtree(made)


def later(path: Path) -> int:
    """A time at which no change of a folder is fresh any more."""
    return max(time.time_ns(), path.stat().st_mtime_ns) + 10_000_000_000


def test_root_looks_into_the_folders_of_all_users(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    folders = Folders("")
    folders.search(time.time_ns())
    assert str(users) not in folders.changed(time.time_ns())
    users.mkdir()  # the folder above was there at the last look
    folders.search(later(users))
    assert str(users) in folders.changed(later(users))


def test_a_user_looks_into_his_own_alone(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    users.mkdir()
    folders = Folders("")
    folders.search(time.time_ns())
    assert str(users) not in folders.changed(time.time_ns())


def test_a_folder_that_is_set_is_the_only_one(
    users: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    users.mkdir()
    folders = Folders(str(tmp_path))
    folders.search(time.time_ns())
    assert folders.changed(time.time_ns()) == [str(tmp_path)]


def test_a_folder_is_listed_again_only_after_a_change(tmp_path: Path) -> None:
    folders = Folders(str(tmp_path))
    assert folders.changed(later(tmp_path)) == [str(tmp_path)]
    assert folders.changed(later(tmp_path)) == []
    (tmp_path / "1.py").touch()
    assert folders.changed(later(tmp_path)) == [str(tmp_path)]


def test_what_came_a_moment_after_a_look_is_found_by_the_next(tmp_path: Path) -> None:
    folders = Folders(str(tmp_path))
    stood = tmp_path.stat().st_mtime_ns
    assert folders.changed(stood + 1_000_000) == [str(tmp_path)]
    (tmp_path / "1.py").touch()
    os.utime(tmp_path, ns=(stood, stood))  # a clock so coarse that both have the same time
    assert folders.changed(stood + 1_500_000_000) == [str(tmp_path)]


def test_a_folder_that_is_not_there_has_not_changed(tmp_path: Path) -> None:
    assert Folders(str(tmp_path / "none")).changed(time.time_ns()) == []
