"""Ports that are taken, and one collector per folder."""

import os
import socket
from pathlib import Path

import pytest

from misstep.collector import sockets
from misstep.collector.lock import FolderLock
from misstep.core.errors import SettingsError, StorageError, UnavailableError


def test_a_taken_default_is_named_with_its_owner_and_replaced() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        listener = sockets.bind("127.0.0.1", port, insist=False, purpose="OTLP")
    with listener.socket:
        assert listener.port not in (port, *range(10002, 20000))
        assert f"port {port} for OTLP is taken by process {os.getpid()} (" in listener.note
        assert str(listener.port) in listener.note


def test_a_taken_port_that_was_asked_for_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(
            UnavailableError, match=rf"port {port} for the API is taken by process {os.getpid()}"
        ):
            sockets.bind("127.0.0.1", port, insist=True, purpose="the API")


def test_a_free_port_needs_no_note() -> None:
    listener = sockets.bind("localhost", 0, insist=True, purpose="the API")
    with listener.socket:
        assert (listener.note, listener.socket.getsockname()) == ("", ("127.0.0.1", listener.port))
        with socket.create_connection(("127.0.0.1", listener.port)):
            pass


def test_ports_of_ray_are_refused() -> None:
    with pytest.raises(SettingsError, match="Ray's workers"):
        sockets.bind("127.0.0.1", 10500, insist=True, purpose="the API")


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid"])
def test_foreign_addresses_are_a_setting_error(host: str) -> None:
    with pytest.raises(SettingsError):
        sockets.bind(host, 0, insist=True, purpose="the API")


def test_urls() -> None:
    assert sockets.url("127.0.0.1", 7663, tls=False) == "http://127.0.0.1:7663"
    assert sockets.url("::", 7663, tls=True) == "https://[::1]:7663"
    assert sockets.url("0.0.0.0", 7663, tls=True) == "https://127.0.0.1:7663"


def test_one_collector_per_folder(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with FolderLock(folder), pytest.raises(UnavailableError, match=rf"process {os.getpid()}.*--data"):
        FolderLock(folder)
    FolderLock(folder).close()
    assert folder.stat().st_mode & 0o077 == 0


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="--data"):
        FolderLock(tmp_path / "file" / "data")
