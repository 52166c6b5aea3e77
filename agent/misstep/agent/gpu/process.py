"""The child process that reads NVML: started, listened to, watched, and let go. It is never killed.

A driver that hangs holds whoever calls it, and a killed reader has left GPUs unusable; so a child that does not
answer is told of and left alone until its call returns.
"""

from __future__ import annotations

import mmap
import os
import signal
import sys
import time

from misstep.agent.gpu import codes, wire

_BOOT = "import sys; sys.path.insert(0, {root!r}); from misstep.agent.gpu.child import main; main({library!r}, {interval!r})"
_ROOT = os.path.abspath(__file__).rsplit(os.sep, 4)[0]
_PCI = "/sys/bus/pci/devices"
_CHUNK = 1 << 18
_LEAVE = 1.5
"""Seconds that a child which waits for events may take to go."""


def installed(library: str) -> str:
    """Why there is nothing to start a child for; empty when there is."""
    if "/" in library:
        return "" if os.path.exists(library) else f"{library} is not there"
    if any(os.path.exists(path) for path in ("/dev/nvidiactl", "/proc/driver/nvidia", "/dev/dxg")):
        return ""
    if any(_is_gpu(f"{_PCI}/{name}") for name in _listed(_PCI)):
        return "an NVIDIA GPU is in this machine, and no driver can be reached"
    return "no NVIDIA GPU in this machine"


def own_namespace(root: str = "/proc") -> bool:
    """Whether this is a PID namespace of its own, in which NVML's pids mean nothing: in the host's, pid 2 is the kernel's."""
    try:
        with open(f"{root}/2/comm", "rb") as file:
            return file.read(64).strip() != b"kthreadd"
    except OSError:
        return os.path.exists(f"{root}/1/comm")  # else /proc hides all processes of others


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _is_gpu(device: str) -> bool:
    """Whether a PCI device is a display or 3D controller (class 03) of NVIDIA's."""
    try:
        with open(f"{device}/vendor", "rb") as vendor, open(f"{device}/class", "rb") as kind:
            return vendor.read(6) == b"0x10de" and kind.read(4) == b"0x03"
    except OSError:
        return False


class Child:
    """One life of the child.

    Args:
        library: path or name of libnvidia-ml.
        interval: seconds between readings.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, library: str, interval: float) -> None:
        self._reader = wire.Reader()
        self._heard = time.monotonic()
        page = os.memfd_create("misstep-gpu")
        theirs, self._wish = os.pipe()
        self._frames, out = os.pipe()
        try:
            os.ftruncate(page, mmap.PAGESIZE)
            self._page = mmap.mmap(page, mmap.PAGESIZE)
            boot = _BOOT.format(root=_ROOT, library=library, interval=str(interval))
            self.pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-S", "-c", boot],
                {
                    "PATH": os.environ.get("PATH", ""),
                    "LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", ""),
                },
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, theirs, 0),
                    (os.POSIX_SPAWN_DUP2, out, 1),
                    (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_DUP2, page, wire.PAGE),
                ],
                setpgroup=0,
                setsigmask=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
            )
        except OSError:
            os.close(self._wish)
            os.close(self._frames)
            raise
        finally:
            for held in (theirs, out, page):
                os.close(held)
        os.set_blocking(self._frames, False)

    def read(self) -> list[tuple[bytes, bytes]] | None:
        """The frames since the last call; None when it has ended.

        Raises:
            ValueError: it writes what nobody understands.
        """
        found: list[tuple[bytes, bytes]] = []
        while True:
            try:
                data = os.read(self._frames, _CHUNK)
            except BlockingIOError:
                return found
            if not data:
                return found or None
            self._heard = time.monotonic()
            found += self._reader.feed(data)
            if len(data) < _CHUNK:
                return found

    def silent(self) -> float:
        """Seconds since it wrote anything."""
        return time.monotonic() - self._heard

    def where(self) -> tuple[int, str]:
        """In which call it is, and on which GPU (-1 for none)."""
        gpu, call = self._page[0] - 1, self._page[1] - 1
        return gpu, codes.NAMES[call] if 0 <= call < len(codes.NAMES) else "start-up"

    def dismiss(self) -> None:
        """Ask it to give NVML back and go."""
        if self._wish >= 0:
            os.close(self._wish)
            self._wish = -1

    def gone(self) -> bool:
        """Whether it has ended; then it is reaped."""
        if self.pid:
            try:
                if os.waitpid(self.pid, os.WNOHANG)[0] == 0:
                    return False
            except ChildProcessError:
                pass
            self.pid = 0
        return True

    def close(self, patience: float = _LEAVE) -> bool:
        """Ask it to go and wait; False when it hangs in a call, and is left to itself."""
        self.dismiss()
        deadline = time.monotonic() + patience
        while not self.gone() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.close(self._frames)
        self._page.close()
        return self.pid == 0
