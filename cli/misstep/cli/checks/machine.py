"""What the kernel lets this user read."""

from __future__ import annotations

import os
import socket
import struct
import sys
from pathlib import Path

from misstep.cli.checks import LIMITED, OK, Check

CAP_NET_ADMIN, CAP_SYS_PTRACE, CAP_SYSLOG = 12, 19, 34  # linux/capability.h
NETLINK_CONNECTOR, CN_IDX_PROC = 11, 1  # linux/netlink.h, linux/connector.h

AS_USER = (
    "sudo setpriv --reuid=$USER --regid=$(id -g) --init-groups "
    "--inh-caps=+{caps} --ambient-caps=+{caps} $(command -v misstep) up"
)
"""Starts Misstep as the same user with single capabilities, without giving them to every Python."""


def check() -> list[Check]:
    """All of them; none of these is essential."""
    if sys.platform != "linux":
        return []
    return [kernel_log(), process_exits(), other_processes(), stacks(), cgroups(), pressure()]


def kernel_log(path: Path = Path("/dev/kmsg")) -> Check:
    """OOM kills, segfaults, hung tasks and GPU errors stand here and nowhere else."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return Check("kernel log", LIMITED, f"{path} is not there (a container?): kernel OOM kills and segfaults stay unseen",
                     "docker run --device /dev/kmsg … or run the agent on the host")  # fmt: skip
    except PermissionError:
        remedy = AS_USER.format(caps="syslog")
        if _read("/proc/sys/kernel/dmesg_restrict") == "1":
            remedy = f"sudo sysctl kernel.dmesg_restrict=0, or {remedy}"
        return Check("kernel log", LIMITED, f"{path} may not be read: kernel OOM kills and segfaults stay unseen", remedy)  # fmt: skip
    except OSError as error:
        return Check("kernel log", LIMITED, f"{path}: {error.strerror}")
    try:
        os.read(handle, 8192)
    except BlockingIOError:
        pass
    except OSError as error:
        return Check("kernel log", LIMITED, f"{path}: {error.strerror}: kernel OOM kills and segfaults stay unseen")  # fmt: skip
    finally:
        os.close(handle)
    return Check("kernel log", OK, f"{path} is readable: OOM kills, segfaults, hung tasks, GPU errors")


def process_exits() -> Check:
    """Exit code and signal of any process, from the kernel's process connector."""
    name, lost = "exit codes", "how a process ended is known only where Ray says it"
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_CONNECTOR) as connector:
            connector.bind((0, CN_IDX_PROC))
            connector.send(_listen(True, connector.getsockname()[0]))
            connector.send(_listen(False, connector.getsockname()[0]))
    except PermissionError:
        return Check(name, LIMITED, f"the process connector needs CAP_NET_ADMIN: {lost}", AS_USER.format(caps="net_admin"))  # fmt: skip
    except OSError as error:
        return Check(name, LIMITED, f"no process connector here ({error.strerror}): {lost}")
    return Check(name, OK, "the process connector tells every exit code and signal")


def other_processes() -> Check:
    """Whether /proc shows processes of other users."""
    if not Path("/proc/1/stat").exists():
        return Check("processes", LIMITED, "/proc is mounted with hidepid: only your own processes are seen", "sudo mount -o remount,hidepid=0 /proc")  # fmt: skip
    if os.geteuid() == 0:
        return Check("processes", OK, "all users' processes, environments included")
    shut = "environments of your own only: another user's Ray is seen from outside, another user's ranks are not found"
    others = _others()
    if others:
        return Check("processes", LIMITED, f"all processes; {shut}; {others} Python processes here are of other users", "sudo misstep up")  # fmt: skip
    return Check("processes", OK, f"all processes; {shut}")


def _others() -> int:
    """Python processes of other users that are no services of the system (a uid below 1000, root's left out)."""
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            owner = process.stat().st_uid
            found += owner != os.geteuid() and owner not in range(1, 1000) and _is_python(process)
        except OSError:
            continue
    return found


def _is_python(process: Path) -> bool:
    return _read(process / "comm").startswith(("python", "ray::", "pt_main_thread"))


def stacks(folder: Path = Path("/proc/sys/kernel/yama")) -> Check:
    """Whether a debugger may attach: what stack traces of running processes will need."""
    scope = _read(folder / "ptrace_scope")
    if scope in ("", "0") or (os.geteuid() == 0 and scope != "3"):
        return Check("ptrace", OK, "allowed: stacks of running processes can be read (py-spy)")
    remedy = "sudo sysctl kernel.yama.ptrace_scope=0" if scope != "3" else ""
    return Check("ptrace", LIMITED, f"kernel.yama.ptrace_scope={scope}: py-spy cannot read stacks of running processes", remedy)  # fmt: skip


def cgroups(root: Path = Path("/sys/fs/cgroup")) -> Check:
    """Memory limits of containers and jobs."""
    if (root / "cgroup.controllers").exists():
        return Check("cgroups", OK, "v2: memory limits and OOM counters of containers and jobs")
    if (root / "memory").is_dir():
        return Check("cgroups", OK, "v1: memory limits of containers and jobs")
    return Check("cgroups", LIMITED, f"none at {root}: a container's memory limit stays unseen", "sudo mount -t cgroup2 none /sys/fs/cgroup")  # fmt: skip


def pressure(root: Path = Path("/proc/pressure")) -> Check:
    """Pressure stall information."""
    try:
        (root / "memory").read_text()
    except OSError:
        return Check("pressure", LIMITED, "no PSI: how long work waits for memory, CPU and disk stays unseen", "boot with psi=1")  # fmt: skip
    return Check("pressure", OK, "PSI: how long work waits for memory, CPU and disk")


def _listen(on: bool, port: int) -> bytes:
    """A process connector request (linux/cn_proc.h): nlmsghdr, cn_msg, PROC_CN_MCAST_LISTEN or _IGNORE."""
    body = struct.pack("=IIIIHHI", CN_IDX_PROC, 1, 0, 0, 4, 0, 1 if on else 2)
    return struct.pack("=IHHII", 16 + len(body), 3, 0, 0, port) + body


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
