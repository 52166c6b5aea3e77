"""The kernel log: /dev/kmsg, or a file of recorded lines. Each record is ``priority,sequence,µs,flags;text``.

Format: Documentation/ABI/testing/dev-kmsg. A read gives one record; EPIPE says that records were overwritten, and
the next one's sequence number tells how many.
"""

from __future__ import annotations

import os
import time

from misstep.agent.context import Context
from misstep.agent.kernel_lines import Line, Reader
from misstep.agent.probe import OK, SourceState, off, unsupported
from misstep.agent.records import ERROR, FATAL, INFO, WARNING, Records
from misstep.core import names

_CURSOR = "kernel_log"
_RECORD_LIMIT = 8192
_RECORDS_PER_CHECK = 4000
_MESSAGES_PER_CHECK = 20
_RECENT = 60_000_000_000
"""A line of a file whose stamp lies so few nanoseconds back is of this boot; else it was recorded, and counts as of now."""
_SEVERITY = (FATAL, FATAL, FATAL, ERROR, WARNING, INFO, INFO, INFO)


class KernelLogProbe:
    """Follows the kernel log from where the last agent on this boot left it, else from now."""

    source = "kernel_log"
    interval = 1.0
    follows_events = False

    def __init__(self, context: Context) -> None:
        self._context = context
        self._path = context.settings.agent.kernel_log
        self._device = self._path.startswith("/dev/")
        self._reader = Reader()
        self._fd = -1
        self._sequence = -1
        self._offset = 0

    def supported(self) -> SourceState:
        """Open it; what keeps us out is told with the command that lets us in."""
        if not self._path:
            return off("the settings name no kernel log")
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return unsupported(f"{self._path} is not there", "docker run --device /dev/kmsg …")
        except PermissionError:
            return unsupported(
                f"this user may not read {self._path}, so OOM kills and crashes by signal leave no kernel line",
                "sudo sysctl kernel.dmesg_restrict=0   # or: sudo misstep agent",
            )
        self._resume()
        return OK

    def check(self, now: int, out: Records) -> SourceState | None:
        """Read what was added."""
        uptime = time.monotonic_ns()
        quiet = 0
        read = self._read_device if self._device else self._read_file
        before = (self._sequence, self._offset)
        for raw in read(out):
            parsed = _parse(raw)
            if parsed is None:
                out.gap("kernel", 1, "a kernel record was malformed")
                continue
            priority, sequence, stamp, text = parsed
            if sequence <= self._sequence:
                continue
            if 0 <= self._sequence < sequence - 1:
                out.gap(
                    "kernel",
                    sequence - 1 - self._sequence,
                    "kernel records were overwritten before they were read",
                )
            self._sequence = sequence
            line = self._reader.read(priority, text)
            if line is None:
                continue
            if line.event in ("kernel.message", "kernel.device"):
                quiet += 1
                if quiet > _MESSAGES_PER_CHECK:
                    continue
            age = uptime - stamp * 1000
            when = now - age if self._device or 0 <= age < _RECENT else now
            self._tell(out, line, priority, sequence, when, text)
        out.gap(
            "kernel", quiet - _MESSAGES_PER_CHECK, f"more than {_MESSAGES_PER_CHECK} kernel warnings at once"
        )
        if before != (self._sequence, self._offset):
            out.cursor(_CURSOR, f"{self._place()}:{self._sequence}:{self._offset}")
        return OK

    def close(self) -> None:
        """Let it go."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # -- reading -----------------------------------------------------------------------------------
    def _place(self) -> str:
        """What the cursor counts in: this boot for the device, this very file otherwise."""
        return self._context.host.boot if self._device else str(os.fstat(self._fd).st_ino)

    def _resume(self) -> None:
        place, _, rest = self._context.spool.cursor(_CURSOR).partition(":")
        sequence, _, offset = rest.partition(":")
        if place == self._place() and rest:
            self._sequence, self._offset = int(sequence), int(offset)
        elif self._device:
            os.lseek(self._fd, 0, os.SEEK_END)

    def _read_device(self, out: Records) -> list[bytes]:
        found: list[bytes] = []
        while len(found) < _RECORDS_PER_CHECK:
            try:
                found.append(os.read(self._fd, _RECORD_LIMIT))
            except BlockingIOError:
                break
            except BrokenPipeError:
                continue  # overrun; the next sequence number tells by how much
            except InterruptedError:
                continue
        return found

    def _read_file(self, out: Records) -> list[bytes]:
        if os.fstat(self._fd).st_size < self._offset:
            self._offset, self._sequence = 0, -1
            out.gap("kernel", 1, f"{self._path} was cut short")
        held = os.pread(self._fd, 1 << 20, self._offset)
        end = held.rfind(b"\n") + 1
        self._offset += end
        return [line for line in held[:end].split(b"\n") if line and not line.startswith(b" ")]

    # -- telling -----------------------------------------------------------------------------------
    def _tell(self, out: Records, line: Line, priority: int, sequence: int, when: int, text: str) -> None:
        workload = self._context.workload
        process = workload.find(line.pid) if line.pid else None
        entity = ""
        if line.gpu:
            entity = f"gpu/{self._context.host.id[:12]}/{line.gpu}"
        elif process is not None:
            entity = workload.entity(process)
        elif line.event in ("kernel.message", "kernel.device"):
            entity = self._context.host.entity
        held = dict(line.attributes)
        held[names.KERNEL_SEQUENCE] = sequence
        if process is not None:
            held[names.PROCESS_START] = process.start
            held[names.PROCESS_TITLE] = process.title
            if line.gpu:
                held[names.PROCESS_ENTITY] = workload.entity(process)
        out.event(
            line.event,
            entity=entity,
            session=process.session if process is not None else "",
            state=line.state,
            body=text,
            time=when,
            severity=_SEVERITY[priority],
            attributes=held,
        )


def _parse(record: bytes) -> tuple[int, int, int, str] | None:
    """Priority 0 to 7, sequence, microseconds, first line of the text; None for what is no record."""
    head, semicolon, text = record.partition(b";")
    field = head.split(b",")
    if not semicolon or len(field) < 3:
        return None
    try:
        priority, sequence, stamp = int(field[0]), int(field[1]), int(field[2])
    except ValueError:
        return None
    return priority & 7, sequence, stamp, text.split(b"\n", 1)[0].decode("utf-8", "replace")
