"""A library that speaks NVML's ABI for eight GPUs, so that a job can lose one on a machine that has none.

`library` compiles it with the system's C compiler; `Control` says what its GPUs are like. No logic of the lab's
scenarios is here.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from misstep.core.errors import UnavailableError

SONAME = "libnvidia-ml.so.1"
XID = 0x8
"""nvmlEventTypeXidCriticalError; its data is the Xid."""
UNAVAILABLE = 0x4000
"""nvmlEventTypeGpuUnavailableError."""

_FLAGS = ("-std=c11", "-O2", "-shared", "-fPIC", "-fvisibility=hidden", f"-Wl,-soname,{SONAME}")


def compiler() -> str | None:
    """The system's C compiler."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def library(folder: Path) -> Path:
    """Compile the library into a folder.

    Raises:
        UnavailableError: there is no C compiler, or it refuses.
    """
    found = compiler()
    if found is None:
        raise UnavailableError(
            "the GPUs of this scenario are a C library that is compiled here, and there is no C compiler: "
            "apt-get install gcc libc6-dev"
        )
    target = folder / SONAME
    sources = sorted(str(path) for path in Path(__file__).parent.glob("*.c"))
    done = subprocess.run(
        [found, *_FLAGS, "-o", str(target), *sources, "-lpthread", "-ldl"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UnavailableError(f"{found} cannot compile the GPU library:\n{done.stderr[-2000:]}")
    return target


def pci(gpu: int) -> str:
    """The PCI address of a GPU as kernel lines and entities have it."""
    return f"0000:{0x18 + 0x10 * gpu:02x}:00"


class Control:
    """The state of the GPUs: a file beside the library, replaced whole at each change.

    Args:
        folder: where the library is.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "control"
        self._lines: list[str] = []
        self._write()

    def set(self, gpu: int | str, **values: int) -> None:
        """Change numbers of a GPU (its index, or ``*`` for all, or ``driver``); keys as in ``state.c``."""
        for key, value in values.items():
            self._lines.append(f"{gpu} {key} {value}")
        self._write()

    def processes(self, used: Mapping[int, list[tuple[int, int]]]) -> None:
        """Which processes hold the GPUs: index → (pid, bytes)."""
        self._lines = [line for line in self._lines if " process " not in line]
        for gpu, held in used.items():
            self._lines += [f"{gpu} process {pid} {size}" for pid, size in held]
        self._write()

    def add(self, gpu: int | str, key: str, *values: int) -> None:
        """Add a line with several numbers: ``process pid bytes [gi ci]``, ``link_errors link count``, ``event type data``."""
        self._lines.append(" ".join(map(str, (gpu, key, *values))))
        self._write()

    def clear(self) -> None:
        """Eight healthy GPUs that nobody holds."""
        self._lines = []
        self._write()

    def _write(self) -> None:
        draft = self._path.with_suffix(".draft")
        draft.write_text("".join(line + "\n" for line in self._lines))
        draft.replace(self._path)
