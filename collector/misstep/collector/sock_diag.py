"""One TCP socket of this machine, looked up by its two ends: the kernel answers in microseconds, however many there are.

Protocol: https://man7.org/linux/man-pages/man7/sock_diag.7.html; numbers are in the machine's byte order but for ports.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import NamedTuple

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST = 1
_ANY_COOKIE = (0xFFFFFFFF, 0xFFFFFFFF)
_HEADER = struct.Struct("=IHHII")
_QUESTION = struct.Struct("=BBxxI")
_ENDS = struct.Struct("!HH16s16s")
_DEVICE = struct.Struct("=III")
_OWNER = struct.Struct("=II")
_STATE_AT, _OWNER_AT = 17, 80
_SECONDS = 1.0


class Found(NamedTuple):
    """A socket; `state` as in `/proc/net/tcp`. Without an inode no process holds it any more."""

    state: int
    uid: int
    inode: int


def find(local: tuple[str, int], remote: tuple[str, int]) -> Found | None:
    """The socket with these ends; None if there is none, or the kernel does not say.

    Instead of one that is gone a listener on its port may be found: look at the state.
    """
    question = _question(local, remote)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as asked:
            asked.settimeout(_SECONDS)
            asked.send(
                _HEADER.pack(_HEADER.size + len(question), _SOCK_DIAG_BY_FAMILY, _REQUEST, 0, 0) + question
            )
            answer = asked.recv(4096)
    except OSError:
        return None
    if len(answer) < _OWNER_AT + _OWNER.size or _HEADER.unpack_from(answer)[1] != _SOCK_DIAG_BY_FAMILY:
        return None
    return Found(answer[_STATE_AT], *_OWNER.unpack_from(answer, _OWNER_AT))


def _question(local: tuple[str, int], remote: tuple[str, int]) -> bytes:
    ends = [ipaddress.ip_address(address.split("%")[0]) for address in (local[0], remote[0])]
    plain = [getattr(end, "ipv4_mapped", None) or end for end in ends]
    four = all(end.version == 4 for end in plain)
    addresses = [end.packed.ljust(16, b"\0") for end in (plain if four else ends)]
    return (
        _QUESTION.pack(socket.AF_INET if four else socket.AF_INET6, socket.IPPROTO_TCP, 0)
        + _ENDS.pack(local[1], remote[1], *addresses)
        + _DEVICE.pack(0, *_ANY_COOKIE)
    )
