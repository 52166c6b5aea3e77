"""A full disk under the store: a clear answer, nothing acknowledged, and everything goes on when space returns."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from misstep.core.errors import StorageError
from misstep.core.settings import StoreSettings
from misstep.store import lake
from misstep.store.request import Batch
from misstep.store.store import Store


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small disk needs root")
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("this machine does not let us mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_refuses_and_recovers(small_disk: Path, otlp: Any) -> None:
    store = Store.open(small_disk / "data", StoreSettings(), background=False)
    bodies: list[str] = []
    refused = 0
    for seq in range(1, 60):
        text = f"line {seq} " + random.Random(seq).randbytes(100_000).hex()
        try:
            otlp.send(store, "logs", otlp.log(("", 5, {}, text)), agent="a", seq=seq)
            bodies.append(text)
        except StorageError as error:
            assert "full" in str(error) or "I/O" in str(error)
            refused += 1
            if refused == 3:
                break
    assert refused == 3
    assert store.stats()["requests_refused"] == 3
    assert [row.body for row in store.view().logs()] == bodies
    remount = ["mount", "-o", "remount,size=16m", str(small_disk)]
    subprocess.run(remount, check=True)
    receipt = otlp.send(store, "logs", otlp.log(("", 5, {}, "again")), agent="a", seq=seq)
    assert not receipt.duplicate, "what was refused was not stored, so its repetition is no copy"
    store.close()
    again = Store.open(small_disk / "data", StoreSettings(), background=False)
    assert [row.body for row in again.view().logs()] == [*bodies, "again"]
    assert again.seal()
    again.close()


def test_a_file_size_limit_is_answered_like_a_full_disk(tmp_path: Path, otlp: Any) -> None:
    """The same without root: the kernel refuses to let any file grow."""
    store = Store.open(tmp_path / "data", StoreSettings(), background=False)
    otlp.send(store, "logs", otlp.log(("", 5, {}, "before")), agent="a", seq=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    body = otlp.log(("", 5, {}, random.Random(1).randbytes(200_000).hex()))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        for _ in range(3):
            with pytest.raises(StorageError, match="cannot be written"):
                store.append(Batch("logs", body, "", "a", "b", 2), body).result()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert not otlp.send(store, "logs", body, agent="a", seq=2).duplicate
    store.close()
    again = Store.open(tmp_path / "data", StoreSettings(), background=False)
    assert [len(row.body) for row in again.view().logs()] == [6, 400_000]
    again.close()


def test_seals_go_on_after_the_catalog_could_not_be_read(
    tmp_path: Path, otlp: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(tmp_path / "data", StoreSettings(seal_interval=0.05))
    refused = threading.Event()

    def refuse(*_: object) -> None:
        refused.set()
        raise duckdb.Error("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(lake, "position", refuse)
        store._lake._position = None
        otlp.send(store, "logs", otlp.log(("", 5, {}, "line")), agent="a", seq=1)
        assert refused.wait(60)
        with pytest.raises(StorageError, match="cannot be read"):
            store.seal()
    deadline = time.monotonic() + 60
    while not store.stats().get("seals"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert store.stats()["seal_errors"] >= 1
    store.close()
