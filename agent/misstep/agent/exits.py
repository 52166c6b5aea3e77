"""How processes end: exit codes and signals from the kernel's process connector, or through pidfds.

The connector (linux/cn_proc.h) multicasts every exit; a socket filter keeps only those of whole processes, so forks
and threads neither wake us nor fill the buffer. Root can listen, since Linux 6.6 any user, but only in the machine's
own PID namespace. Where it cannot be heard, Linux ≥ 6.15 still tells the exit of a process through a pidfd that was
opened while it lived.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
import time

from misstep.agent.probe import OK, SourceState, failing, unsupported
from misstep.agent.records import Records
from misstep.agent.workload import Exit

_NETLINK_CONNECTOR = 11
_CN_IDX_PROC = 1
_LISTEN, _IGNORE = 1, 2
_NLMSG_DONE = 3
_EVENT_NONE, _EVENT_EXIT = 0, 0x80000000
_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_MESSAGE = struct.Struct("=IIIIHH")  # cn_msg
_EVENT = struct.Struct("=IIQ")  # proc_event: what, cpu, timestamp_ns (CLOCK_MONOTONIC)
_EXIT = struct.Struct("=IIIi")  # process_pid, process_tgid, exit_code, exit_signal
_AT = _HEADER.size + _MESSAGE.size
_SO_ATTACH_FILTER = 26
_SO_RCVBUFFORCE = 33
_BUFFER = 1024 * 1024
_CORE = 0x80
_KEPT = 8192

_PIDFD_GET_INFO = 3 << 30 | 64 << 16 | 0xFF << 8 | 11  # _IOWR(0xFF, 11, struct pidfd_info), 64 bytes
_PIDFD_INFO_EXIT = 8
_REMEDY = "sudo misstep agent"


class Exits:
    """Remembers how recent processes ended. Any thread may ask; the main thread drains."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._pidfds: dict[int, int] = {}
        self._recent: dict[int, Exit] = {}
        self._lost = 0
        self.state = self._open()

    @property
    def listening(self) -> bool:
        """Whether the connector is heard; otherwise only processes that were held can be asked about."""
        return self._socket is not None

    def hold(self, pid: int) -> None:
        """A process of the workload was found; without the connector a pidfd is kept until it has ended."""
        if self._socket is not None or pid in self._pidfds:
            return
        try:
            self._pidfds[pid] = os.pidfd_open(pid)
        except OSError:
            pass  # gone already, or out of descriptors: its end stays unknown, and is told so

    def release(self, pid: int) -> None:
        """No more questions about a process that was held."""
        held = self._pidfds.pop(pid, None)
        if held is not None:
            os.close(held)

    def lookup(self, pid: int) -> Exit | None:
        """How the newest process with this pid ended, if it did and is remembered."""
        found = self._recent.get(pid)
        held = self._pidfds.get(pid)
        if found is None and held is not None:
            status = _pidfd_status(held)
            if status is not None:
                found = self._remember(pid, time.time_ns(), status)
        return found

    def drain(self) -> list[Exit]:
        """Exits since the last call, oldest first, and not those that only a pidfd knows."""
        found: list[Exit] = []
        if self._socket is None:
            return found
        offset = time.time_ns() - time.monotonic_ns()
        while True:
            try:
                message = self._socket.recv(4096)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != 105:  # ENOBUFS: the buffer ran over and the kernel dropped some
                    raise
                self._lost += 1
                continue
            if len(message) >= _AT + _EVENT.size + _EXIT.size:
                what, _, stamp = _EVENT.unpack_from(message, _AT)
                pid, tgid, status, _ = _EXIT.unpack_from(message, _AT + _EVENT.size)
                if what == _EVENT_EXIT and pid == tgid:
                    found.append(self._remember(pid, stamp + offset, status))

    def lost(self) -> int:
        """How often since the last call the kernel dropped exits because we did not read them in time."""
        lost, self._lost = self._lost, 0
        return lost

    def close(self) -> None:
        """Stop listening."""
        for pid in list(self._pidfds):
            self.release(pid)
        if self._socket is not None:
            try:
                self._socket.send(_request(_IGNORE))
            except OSError:
                pass  # the kernel forgets listeners whose sockets close
            self._socket.close()
            self._socket = None

    def _remember(self, pid: int, when: int, status: int) -> Exit:
        signal = status & 0x7F
        ended = Exit(pid, when, None if signal else status >> 8 & 0xFF, signal, bool(status & _CORE))
        self._recent.pop(pid, None)
        self._recent[pid] = ended
        while len(self._recent) > _KEPT:
            del self._recent[next(iter(self._recent))]
        return ended

    def _open(self) -> SourceState:
        try:
            held = socket.socket(
                socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, _NETLINK_CONNECTOR
            )
        except OSError as error:
            return self._without(f"this kernel has no process connector ({error.strerror})")
        try:
            _filter(held)
            try:
                held.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
            except PermissionError:
                held.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            held.bind((0, _CN_IDX_PROC))
            held.send(_request(_LISTEN))
            held.recv(
                4096
            )  # the kernel acknowledges in the send; from inside a PID namespace it says nothing
        except BlockingIOError:
            held.close()
            return self._without("the kernel tells exits only in the machine's own PID namespace")
        except OSError as error:
            held.close()
            return self._without(f"the kernel's process connector is refused ({error.strerror})")
        self._socket = held
        return OK

    def _without(self, reason: str) -> SourceState:
        if _pidfd_tells():
            return SourceState("ok", f"{reason}; processes that live under a second end unseen", _REMEDY)
        return unsupported(f"{reason}; exit codes and signals stay unknown", _REMEDY)


class ExitProbe:
    """Keeps the memory of `Exits` fresh; the process probe reports what concerns the workload."""

    source = "process_exits"
    interval = 1.0
    follows_events = False

    def __init__(self, exits: Exits) -> None:
        self._exits = exits
        self.news: list[Exit] = []
        """Exits of this tick, for the process probe."""

    def supported(self) -> SourceState:
        """As it was found at start."""
        return self._exits.state

    def check(self, now: int, out: Records) -> SourceState | None:
        """Read what the kernel has told."""
        self.news = self._exits.drain()
        lost = self._exits.lost()
        if lost:
            out.gap("exit", lost, "the kernel's process connector overflowed (each count is a burst)")
            return failing("exits came faster than they could be read; some exit codes are lost")
        return self._exits.state

    def close(self) -> None:
        """Stop listening."""
        self._exits.close()


def _request(operation: int) -> bytes:
    body = struct.pack("=I", operation)
    message = _MESSAGE.pack(_CN_IDX_PROC, 1, 0, 0, len(body), 0) + body
    return _HEADER.pack(_HEADER.size + len(message), _NLMSG_DONE, 0, 0, os.getpid()) + message


def _filter(held: socket.socket) -> None:
    """Let through acknowledgements, and exits where process_pid == process_tgid. Classic BPF; loads are big-endian."""
    load, equal, equal_x, to_x, give = 0x20, 0x15, 0x1D, 0x07, 0x06
    what, pid, tgid = _AT, _AT + _EVENT.size, _AT + _EVENT.size + 4
    program = (
        (load, 0, 0, what),
        (equal, 5, 0, _swapped(_EVENT_NONE)),
        (equal, 0, 5, _swapped(_EVENT_EXIT)),
        (load, 0, 0, pid),
        (to_x, 0, 0, 0),
        (load, 0, 0, tgid),
        (equal_x, 0, 1, 0),
        (give, 0, 0, 0xFFFFFFFF),
        (give, 0, 0, 0),
    )
    code = array.array("B", b"".join(struct.pack("=HBBI", *step) for step in program))
    address, _ = code.buffer_info()
    held.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), address))


def _swapped(number: int) -> int:
    return int.from_bytes(struct.pack("=I", number), "big")


def _pidfd_status(pidfd: int) -> int | None:
    """Wait status of a process that was reaped; None while it was not, or where the kernel does not tell."""
    info = bytearray(64)
    struct.pack_into("=Q", info, 0, _PIDFD_INFO_EXIT)
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info)
    except OSError:
        return None
    mask, status = struct.unpack_from("=Q", info)[0], struct.unpack_from("=i", info, 60)[0]
    return int(status) if mask & _PIDFD_INFO_EXIT else None


def _pidfd_tells() -> bool:
    """Whether this kernel knows PIDFD_INFO_EXIT (6.15), told by its release: trying it would need a child of ours."""
    try:
        major, minor = (int(part) for part in os.uname().release.split(".")[:2])
    except ValueError:
        return False
    return (major, minor) >= (6, 15)
