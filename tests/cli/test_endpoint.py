import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from misstep.cli import endpoint
from misstep.core.errors import StorageError

GONE = 2**22 + 7
"""Above the largest pid of Linux."""


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "run" / "endpoint.json"
    endpoint.write(path, {"pid": os.getpid()})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [p.name for p in path.parent.iterdir()] == ["endpoint.json"]


def test_found_while_its_process_lives(tmp_path: Path) -> None:
    data = tmp_path / "elsewhere"
    assert endpoint.find(data) is None
    written = {"pid": os.getpid(), "data": str(data), "collector": "http://127.0.0.1:1"}
    for path in endpoint.paths(data):
        endpoint.write(path, written)
    assert endpoint.find(data) == written
    assert endpoint.find() == written  # a command that was not told the folder


def test_what_a_killed_process_left_does_not_count(tmp_path: Path) -> None:
    path = endpoint.paths(tmp_path)[0]
    endpoint.write(path, {"pid": GONE})
    assert endpoint.find(tmp_path) is None
    assert endpoint.holder(path) is None


def test_a_zombie_does_not_live() -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not endpoint.alive(child.pid)
    child.wait()


def test_only_ones_own_file_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "endpoint.json"
    endpoint.write(path, {"pid": 1})
    endpoint.remove(path, os.getpid())
    assert path.exists()
    endpoint.remove(path, 1)
    assert not path.exists()
    endpoint.remove(path, 1)


def test_a_place_can_be_forced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISSTEP_ENDPOINT_FILE", str(tmp_path / "e.json"))
    assert endpoint.paths(tmp_path / "data") == [tmp_path / "e.json"]
    (tmp_path / "e.json").write_text(json.dumps({"pid": os.getpid()}))
    assert endpoint.find() == {"pid": os.getpid()}


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write"):
        endpoint.write(tmp_path / "file" / "endpoint.json", {})
