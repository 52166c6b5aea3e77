"""Whose a local TCP connection is, and who holds a port: asked of the kernel, or read in `/proc/net/tcp` and `/proc/net/tcp6`.

Format: https://docs.kernel.org/networking/proc_net_tcp.html. Addresses are hexadecimal words in the
machine's byte order, ports hexadecimal numbers; the fields that we read are local (1), remote (2),
state (3), uid (7) and inode (9).
"""

from __future__ import annotations

import ipaddress
import struct
from pathlib import Path
from typing import NamedTuple

from misstep.collector import sock_diag

PROC_NET = Path("/proc/net")
_ESTABLISHED = 1
_LISTEN = b"0A"
_TRIES = 3


class Holder(NamedTuple):
    """Who holds a port. `pid` is 0 and `command` empty where the process belongs to somebody else."""

    uid: int
    pid: int
    command: str


def is_loopback(address: str) -> bool:
    """Whether an address is of this machine's loopback, IPv4 in IPv6 clothing included."""
    try:
        parsed = ipaddress.ip_address(address.split("%")[0])
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback


def connection_owner(
    client: tuple[str, int], server: tuple[str, int], *, folder: Path = PROC_NET
) -> int | None:
    """The user whose process opened the connection from `client` to `server`, both ends on this machine.

    Only a socket that is ESTABLISHED with an inode counts: a client that has closed already shows uid 0.

    Args:
        client: address and port of the one end.
        server: of the other.
        folder: tables to read, which takes milliseconds, where the kernel does not answer.

    Returns:
        The uid, or None where it cannot be told.
    """
    # Tables that are no kernel's are read alone.
    found = sock_diag.find(client, server) if folder == PROC_NET else None
    if found is not None:
        return found.uid if found.state == _ESTABLISHED and found.inode != 0 else None
    # The kernel hands the table out page by page; a row may be missed while other connections come and go.
    for _ in range(_TRIES):
        for name, needle in _needles(client, server):
            table = _read(folder / name)
            at = table.find(needle)
            if at >= 0:
                fields = table[at : table.find(b"\n", at)].split()
                state, uid, inode = int(fields[2], 16), int(fields[6]), int(fields[8])
                return uid if state == _ESTABLISHED and inode != 0 else None
    return None


def port_holder(port: int, *, proc: Path = Path("/proc")) -> Holder | None:
    """Who listens on a TCP port of this machine; None where nobody does or the table cannot be read."""
    for name in ("tcp", "tcp6"):
        for line in _read(proc / "net" / name).splitlines()[1:]:
            fields = line.split()
            if len(fields) > 9 and fields[3] == _LISTEN and int(fields[1].rpartition(b":")[2], 16) == port:
                pid = _pid_of(fields[9].decode(), proc)
                return Holder(int(fields[7]), pid, _command(pid, proc) if pid else "")
    return None


def _needles(client: tuple[str, int], server: tuple[str, int]) -> list[tuple[str, bytes]]:
    """The text of the client's row in each table: an IPv4 connection may stand in that of IPv6 too."""
    ends = [ipaddress.ip_address(address.split("%")[0]) for address in (client[0], server[0])]
    plain = [getattr(end, "ipv4_mapped", None) or end for end in ends]
    found = []
    if all(end.version == 4 for end in plain):
        mapped = [ipaddress.ip_address(f"::ffff:{end}") for end in plain]
        found = [("tcp", plain), ("tcp6", mapped)]
    else:
        found = [("tcp6", ends)]
    return [
        (name, f" {_hex(pair[0].packed)}:{client[1]:04X} {_hex(pair[1].packed)}:{server[1]:04X} ".encode())
        for name, pair in found
    ]


def _hex(packed: bytes) -> str:
    return "".join(f"{word:08X}" for word in struct.unpack(f"={len(packed) // 4}I", packed))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _pid_of(inode: str, proc: Path) -> int:
    wanted = f"socket:[{inode}]"
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            for link in (entry / "fd").iterdir():
                if str(link.readlink()) == wanted:
                    return int(entry.name)
        except OSError:
            continue
    return 0


def _command(pid: int, proc: Path) -> str:
    words = _read(proc / str(pid) / "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()
    return words[:120] or _read(proc / str(pid) / "comm").decode(errors="replace").strip()
