"""Listening sockets: a port that is taken is named with its owner, and another is chosen where nobody insisted."""

from __future__ import annotations

import errno
import ipaddress
import pwd
import socket
from typing import NamedTuple

from misstep.collector.owner import Holder, port_holder
from misstep.core.errors import SettingsError, UnavailableError

_RAY_PORTS = range(10002, 20000)
_TRIES = 20


class Listener(NamedTuple):
    """A bound socket. `note` says why it is not on the port that was asked for, and is empty otherwise."""

    socket: socket.socket
    port: int
    note: str


def bind(host: str, port: int, *, insist: bool, purpose: str) -> Listener:
    """Bind, not yet listening.

    Args:
        host: address or name.
        port: 0 for any.
        insist: whether the port was asked for by name; a default may be replaced.
        purpose: what the port is for, for messages.

    Raises:
        UnavailableError: the port is taken and was insisted on; says by whom.
        SettingsError: the host is no address of this machine, or the port is Ray's.
    """
    if insist and port in _RAY_PORTS:
        raise SettingsError(
            f"port {port} lies within {_RAY_PORTS.start}-{_RAY_PORTS.stop - 1}, which Ray's workers use; choose another"
        )
    address = _address(host)
    try:
        bound = _bind(address, port)
        return Listener(bound, bound.getsockname()[1], "")
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise SettingsError(f"cannot listen on {host}: {error.strerror}") from error
        taken = _describe(port, error)
    if insist:
        raise UnavailableError(f"port {port} for {purpose} {taken}; choose another, or stop it")
    for _ in range(_TRIES):
        bound = _bind(address, 0)
        chosen: int = bound.getsockname()[1]
        if chosen not in _RAY_PORTS:
            return Listener(bound, chosen, f"port {port} for {purpose} {taken}; using {chosen}")
        bound.close()
    raise UnavailableError(
        f"no free port for {purpose} outside Ray's {_RAY_PORTS.start}-{_RAY_PORTS.stop - 1}"
    )


def url(host: str, port: int, *, tls: bool) -> str:
    """The address by which this machine reaches a listener."""
    wildcard = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    name = wildcard.get(host, host)
    return f"{'https' if tls else 'http'}://{f'[{name}]' if ':' in name else name}:{port}"


def _address(host: str) -> tuple[socket.AddressFamily, str]:
    if host == "localhost":
        return socket.AF_INET, "127.0.0.1"
    try:
        version = ipaddress.ip_address(host).version
        return (socket.AF_INET if version == 4 else socket.AF_INET6), host
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise SettingsError(f"collector.host = {host!r} is no address: {error.strerror}") from error
    return found[0], str(found[4][0])


def _bind(address: tuple[socket.AddressFamily, str], port: int) -> socket.socket:
    listener = socket.socket(address[0], socket.SOCK_STREAM)
    try:
        # Without it, connections that have just been closed keep a restarted collector off its port for a minute.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address[0] == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address[1], port))
        # Two sockets with SO_REUSEADDR may bind one port until one of them listens, so listen at once.
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _describe(port: int, error: OSError) -> str:
    if error.errno == errno.EACCES:
        return "may be opened by root only"
    holder = port_holder(port)
    if holder is None:
        return "is taken"
    return f"is taken by {_holder(holder)}"


def _holder(holder: Holder) -> str:
    if holder.pid:
        return f"process {holder.pid} ({holder.command})"
    try:
        name = pwd.getpwuid(holder.uid).pw_name
    except KeyError:
        name = str(holder.uid)
    return f"a process of user {name}"
