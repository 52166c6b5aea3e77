"""What Linux lets a process take from itself, for good: reading elsewhere, writing, connecting, starting others.

Landlock (https://docs.kernel.org/userspace-api/landlock.html) confines reading to folders; seccomp
(https://docs.kernel.org/userspace-api/seccomp_filter.html) refuses system calls. Where a kernel has neither, the other
walls stand alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38

_LANDLOCK_CREATE, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT = 444, 445, 446
_PATH_BENEATH = 1
_READ_FILE = 1 << 2
_READ = _READ_FILE | 1 << 3  # and list folders
_DUCKDB_READS = (Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
"""DuckDB looks for its memory limit there, and ends where it may not."""
_ALL = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_ALL_NEWER = (1 << 16) - 1
_NETWORK = 1 << 0 | 1 << 1  # TCP: bind, connect

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CLONE_THREAD = 0x10000
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_EPERM, _EACCES, _ENOSYS = 1, 13, 38

# Numbers of system calls: x86_64, aarch64 (asm/unistd_64.h, asm-generic/unistd.h); -1 where there is none.
_FORBIDDEN = {
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, -1), "vfork": (58, -1), "socket": (41, 198),
    "socketpair": (53, 199), "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "kill": (62, 129), "tkill": (200, 130), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424),
    "unlink": (87, -1), "unlinkat": (263, 35), "rename": (82, -1), "renameat": (264, 38), "renameat2": (316, 276),
    "mkdir": (83, -1), "mkdirat": (258, 34), "rmdir": (84, -1), "link": (86, -1), "linkat": (265, 37),
    "symlink": (88, -1), "symlinkat": (266, 36), "chmod": (90, -1), "fchmod": (91, 52), "fchmodat": (268, 53),
    "chown": (92, -1), "fchown": (93, 55), "lchown": (94, -1), "fchownat": (260, 54), "truncate": (76, 45),
    "mknod": (133, -1), "mknodat": (259, 33), "mount": (165, 40), "creat": (85, -1), "bpf": (321, 280),
    "perf_event_open": (298, 241), "io_uring_setup": (425, 425), "keyctl": (250, 219), "add_key": (248, 217),
    "userfaultfd": (323, 282), "unshare": (272, 97), "setns": (308, 268), "utimensat": (280, 88),
    "open_by_handle_at": (304, 265), "setxattr": (188, 5), "memfd_create": (319, 279), "shmget": (29, 194),
}  # fmt: skip
_SOCKETS = frozenset({"socket", "socketpair"})
_OPEN, _OPENAT, _CLONE = (2, -1), (257, 56), (56, 220)
_CLONE3, _OPENAT2, _SECCOMP = 435, 437, (317, 277)
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

_NETWORK_READS = tuple(
    Path(path)
    for path in (
        "/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/gai.conf", "/etc/ssl", "/etc/pki",
        "/usr/share/ca-certificates", "/lib", "/usr/lib",
    )
)  # fmt: skip
"""What finding a host by its name and trusting its certificate takes."""


def limits(*, memory: int, cpu_seconds: int, files: int = 256) -> None:
    """Bound address space, CPU time and open files; no byte is written to a file, no core is dumped."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = files if hard == resource.RLIM_INFINITY else min(files, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def bind_to_parent() -> None:
    """Die with the parent, gain no rights, show no memory to others of the same user."""
    libc = _libc()
    if libc is None:
        return
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def read_only_below(folders: Iterable[Path], *, network: bool = False) -> bool:
    """From here on this thread and those that it starts read files below these folders, and do nothing else with files.

    Args:
        folders: what may be read.
        network: whether TCP stays allowed.

    Returns:
        Whether the kernel has Landlock.
    """
    libc = _libc()
    if libc is None:
        return False
    version = libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(1))
    if version < 1:
        return False
    handled = _ALL.get(version, _ALL_NEWER)
    attributes = struct.pack("=Q", handled)
    if version >= 4:
        attributes += struct.pack("=Q", 0 if network else _NETWORK)
    ruleset = libc.syscall(
        _LANDLOCK_CREATE, ctypes.c_char_p(attributes), ctypes.c_size_t(len(attributes)), ctypes.c_uint(0)
    )
    if ruleset < 0:
        return False
    with _closing(ruleset):
        for folder in (*folders, *_DUCKDB_READS, *(_NETWORK_READS if network else ())):
            if folder.exists():
                _allow_reading(libc, ruleset, folder)
        return bool(libc.syscall(_LANDLOCK_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint(0)) == 0)


def forbid_calls(*, network: bool = False) -> bool:
    """From here on no thread opens a file for writing, starts a process, opens a socket or changes a file's name.

    Args:
        network: whether sockets stay allowed.

    Returns:
        Whether the kernel took the filter.
    """
    libc = _libc()
    machine = _ARCHITECTURES.get(platform.machine())
    if libc is None or machine is None:
        return False
    program = _program(*machine, frozenset() if not network else _SOCKETS)
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    # SECCOMP_SET_MODE_FILTER with TSYNC: the threads that DuckDB has started are confined too.
    answer = libc.syscall(_SECCOMP[machine[0]], ctypes.c_uint(1), ctypes.c_uint(1), ctypes.c_char_p(header))
    return bool(answer == 0)


def _allow_reading(libc: ctypes.CDLL, ruleset: int, folder: Path) -> None:
    handle = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    with _closing(handle):
        rule = struct.pack("=Qi", _READ if folder.is_dir() else _READ_FILE, handle)
        libc.syscall(
            _LANDLOCK_ADD_RULE,
            ctypes.c_int(ruleset),
            ctypes.c_int(_PATH_BENEATH),
            ctypes.c_char_p(rule),
            ctypes.c_uint(0),
        )


def _program(column: int, architecture: int, spared: frozenset[str]) -> bytes:
    """A classic BPF program over ``struct seccomp_data``: number at 0, architecture at 4, arguments from 16 on."""
    lines = [_load(4), _jump_equal(architecture, 1, 0), _give(_ERRNO | _EPERM), _load(0)]
    for name, numbers in _FORBIDDEN.items():
        if numbers[column] >= 0 and name not in spared:
            lines += [_jump_equal(numbers[column], 0, 1), _give(_ERRNO | _EPERM)]
    for number in (_CLONE3, _OPENAT2):  # their arguments cannot be seen; callers fall back to the older calls
        lines += [_jump_equal(number, 0, 1), _give(_ERRNO | _ENOSYS)]
    for numbers, argument in ((_OPEN, 1), (_OPENAT, 2)):
        if numbers[column] >= 0:
            lines += [
                _jump_equal(numbers[column], 0, 4), _load(16 + 8 * argument), _jump_any(_WRITING, 0, 1),
                _give(_ERRNO | _EACCES), _give(_ALLOW),
            ]  # fmt: skip
    lines += [
        _jump_equal(_CLONE[column], 0, 3),
        _load(16),
        _jump_any(_CLONE_THREAD, 1, 0),
        _give(_ERRNO | _EPERM),
    ]
    # Calls of the x32 ABI have numbers of their own.
    lines += [_load(0), _jump_any(0x40000000, 0, 1), _give(_ERRNO | _EPERM), _give(_ALLOW)]
    return b"".join(lines)


def _load(offset: int) -> bytes:
    return struct.pack("HBBI", 0x20, 0, 0, offset)


def _jump_equal(value: int, yes: int, no: int) -> bytes:
    return struct.pack("HBBI", 0x15, yes, no, value)


def _jump_any(bits: int, yes: int, no: int) -> bytes:
    return struct.pack("HBBI", 0x45, yes, no, bits)


def _give(value: int) -> bytes:
    return struct.pack("HBBI", 0x06, 0, 0, value)


def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@contextlib.contextmanager
def _closing(handle: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(handle)
