"""Whose a connection is and who holds a port, on real sockets and on recorded tables."""

import os
import socket
from pathlib import Path

import pytest

from misstep.collector import sock_diag
from misstep.collector.owner import connection_owner, is_loopback, port_holder

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def table(folder: Path, name: str, *rows: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(HEAD + "".join(f"{row}\n" for row in rows))
    return folder


# Rows as Linux 6 wrote them; 0x9C40 is 40000 and 0x1DEF is 7663.
ESTABLISHED = "   7: 0100007F:9C40 0100007F:1DEF 01 00000000:00000000 00:00000000 00000000  1001        0 81233 1 0000000000000000 20 4 30 10 -1"
TIME_WAIT = "   7: 0100007F:9C40 0100007F:1DEF 06 00000000:00000000 03:00001234 00000000     0        0 0 3 0000000000000000"
FIN_WAIT = "   7: 0100007F:9C40 0100007F:1DEF 05 00000000:00000000 00:00000000 00000000     0        0 0 1 0000000000000000"
ORPHAN = "   7: 0100007F:9C40 0100007F:1DEF 01 00000000:00000000 00:00000000 00000000     0        0 0 1 0000000000000000"
MAPPED = "   2: 0000000000000000FFFF00000100007F:9C40 0000000000000000FFFF00000100007F:1DEF 01 00000000:00000000 00:00000000 00000000  1001        0 81233 1"
SIX = "   2: 00000000000000000000000001000000:9C40 00000000000000000000000001000000:1DEF 01 00000000:00000000 00:00000000 00000000  1001        0 81233 1"
ESTABLISHED_STATE = 1
CLIENT, SERVER = ("127.0.0.1", 40000), ("127.0.0.1", 7663)


def test_the_owner_stands_in_the_clients_row(tmp_path: Path) -> None:
    reverse = (
        ESTABLISHED.replace("9C40", "X").replace("1DEF", "9C40").replace("X", "1DEF").replace("1001", "   0")
    )
    assert connection_owner(CLIENT, SERVER, folder=table(tmp_path, "tcp", reverse, ESTABLISHED)) == 1001


@pytest.mark.parametrize("row", [TIME_WAIT, FIN_WAIT, ORPHAN])
def test_a_closed_connection_shows_root_and_does_not_count(tmp_path: Path, row: str) -> None:
    assert connection_owner(CLIENT, SERVER, folder=table(tmp_path, "tcp", row)) is None


def test_ipv4_in_ipv6_sockets_is_found(tmp_path: Path) -> None:
    assert connection_owner(CLIENT, SERVER, folder=table(tmp_path, "tcp6", MAPPED)) == 1001
    mapped = ("::ffff:127.0.0.1", 40000)
    assert connection_owner(mapped, SERVER, folder=table(tmp_path, "tcp", ESTABLISHED)) == 1001


def test_ipv6_is_found(tmp_path: Path) -> None:
    assert connection_owner(("::1", 40000), ("::1", 7663), folder=table(tmp_path, "tcp6", SIX)) == 1001


def test_without_a_table_nobody_is_known(tmp_path: Path) -> None:
    assert connection_owner(CLIENT, SERVER, folder=tmp_path / "none") is None


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_real_connection_is_ours(family: socket.AddressFamily) -> None:
    address = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.socket(family) as listener:
        try:
            listener.bind((address, 0))
        except OSError:
            pytest.skip("no IPv6 here")
        listener.listen()
        with socket.create_connection(listener.getsockname()[:2]) as client:
            ours, theirs = client.getsockname()[:2], listener.getsockname()[:2]
            accepted, _ = listener.accept()
            with accepted:
                assert connection_owner(ours, theirs) == os.geteuid()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_the_kernel_is_asked_for_one_socket(family: socket.AddressFamily) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(family) as client:
        port = listener.getsockname()[1]
        try:
            client.connect(("127.0.0.1" if family == socket.AF_INET else "::ffff:127.0.0.1", port))
        except OSError:
            pytest.skip("no IPv6 here")
        ours, theirs = ("127.0.0.1", client.getsockname()[1]), ("127.0.0.1", port)
        found = sock_diag.find(ours, theirs)
        if found is None:
            pytest.skip("the kernel does not say")
        assert found == (ESTABLISHED_STATE, os.geteuid(), os.fstat(client.fileno()).st_ino)
        accepted, _ = listener.accept()
        with accepted:
            client.close()
            gone = sock_diag.find(ours, theirs)
            assert gone is None or gone.state != ESTABLISHED_STATE
            assert connection_owner(ours, theirs) is None
    assert sock_diag.find(theirs, ours) is None


def test_the_holder_of_a_port_is_named() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        assert port_holder(listener.getsockname()[1]) is None
        listener.listen()
        holder = port_holder(listener.getsockname()[1])
    assert holder is not None
    assert (holder.uid, holder.pid) == (os.geteuid(), os.getpid())
    assert "pytest" in holder.command or "python" in holder.command


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_loopback(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize(
    "address", ["", "localhost", "10.0.0.1", "::", "::ffff:10.0.0.1", "0.0.0.0", "127.0.0.1.example"]
)
def test_not_loopback(address: str) -> None:
    assert not is_loopback(address)
