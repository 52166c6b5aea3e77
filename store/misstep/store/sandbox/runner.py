"""Starts a sandboxed process for a statement, and ends it when it passes a limit."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from misstep.core.errors import InputError, StorageError, TooLargeError
from misstep.store.place import CONFIG, Place, extension, secret
from misstep.store.sandbox.handover import Handover, Other, Source, files
from misstep.store.sandbox.job import Job

ANSWER_LIMIT = 32 * 1024 * 1024
"""Bytes of an answer."""
START_SECONDS = 10.0
"""What a process may take besides, to start and open the lake."""
_CHUNK = 1 << 16
_NOISE = 4000


class Bounds(NamedTuple):
    """What one statement may take.

    Attributes:
        seconds: wall time, beyond the start of its process.
        memory: bytes.
        rows: of the answer.
        threads: of DuckDB.
    """

    seconds: float = 30.0
    memory: int = 1 << 30
    rows: int = 10_000
    threads: int = 2


class Run:
    """One statement in one process; `stop` ends it from another thread."""

    def __init__(self, place: Place, bounds: Bounds) -> None:
        self._place, self._bounds = place, bounds
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Kill the process; `run` raises."""
        self._stopped.set()
        if self._process is not None:
            self._process.kill()

    def run(self, source: Source, sql: str, others: Mapping[str, Other]) -> bytes:
        """The answer as JSON: columns, rows and whether there were more.

        Args:
            source: what the statement sees.
            sql: the statement.
            others: small tables besides those of the store, by name.

        Raises:
            InputError: the statement is not run, or fails; TooLargeError where it passed a limit.
            StorageError: no process could be started, or it died.
        """
        handover = Handover(source, sql, others)
        with files(handover.tables) as handles, tempfile.TemporaryFile() as job:
            job.write(self._job(sql, handover, handles).write())
            job.seek(0)
            try:
                # The session is its own, so that what it might start ends with it.
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "misstep.store.sandbox.worker"],
                    stdin=job, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/", env=_environment(),
                    pass_fds=tuple(handles.values()), start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                raise StorageError(f"no process could be started for the statement: {error}") from error
            with self._process as process:
                return self._wait(process)

    def _job(self, sql: str, handover: Handover, handles: dict[str, int]) -> Job:
        place, bounds = self._place, self._bounds
        folders = sorted(
            {str(place.folder.resolve()), *([] if place.remote else [str(place.files.resolve())])}
        )
        libraries = [extension(name) for name in _extensions(place)]
        setup = [f"LOAD '{path}'" for path in libraries]
        setup += [secret(os.environ)] if place.remote else []
        setup.append(place.statement(read_only=True))
        readable = [place.data.rstrip("/") + "/"] if place.remote else [str(place.files) + "/"]
        return Job(
            sql, dict(CONFIG), setup, handover.views, handles, [*folders, *(str(Path(path).parent) for path in libraries)], readable,
            bounds.rows, bounds.seconds, bounds.memory, bounds.threads, place.shared or place.remote,
        )  # fmt: skip

    def _wait(self, process: subprocess.Popen[bytes]) -> bytes:
        deadline = time.monotonic() + self._bounds.seconds + START_SECONDS
        try:
            body, noise, late = _read(process, deadline)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        status = process.wait()
        if late or status in (-signal.SIGXCPU, -signal.SIGALRM):
            raise TooLargeError(f"the statement took longer than {self._bounds.seconds:g} s and was ended")
        if len(body) > ANSWER_LIMIT:
            raise TooLargeError(
                f"the answer is larger than {ANSWER_LIMIT >> 20} MiB; ask for fewer rows or columns"
            )
        if self._stopped.is_set():
            raise TooLargeError("the statement was ended before it had an answer")
        if not body.endswith(b"}"):
            raise _died(status, noise)
        if body.startswith(b'{"error":'):
            told = json.loads(body)
            raise (TooLargeError if told.get("kind") == "limit" else InputError)(str(told["error"]))
        return body


def _extensions(place: Place) -> list[str]:
    """What the lake takes, in the order of loading."""
    return [
        "postgres_scanner" if place.shared else "sqlite_scanner",
        *(["httpfs"] if place.remote else []),
        "ducklake",
    ]


def _read(process: subprocess.Popen[bytes], deadline: float) -> tuple[bytes, bytes, bool]:
    """What it wrote, what it complained of, and whether time ran out."""
    assert process.stdout is not None and process.stderr is not None
    parts: dict[int, list[bytes]] = {process.stdout.fileno(): [], process.stderr.fileno(): []}
    size = 0
    with selectors.DefaultSelector() as selector:
        for handle in parts:
            selector.register(handle, selectors.EVENT_READ)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                return b"", b"", True
            for key, _ in selector.select(left):
                chunk = os.read(key.fd, _CHUNK)
                if not chunk:
                    selector.unregister(key.fd)
                    continue
                size += len(chunk)
                parts[key.fd].append(chunk)
                if size > ANSWER_LIMIT:
                    return b" " * (ANSWER_LIMIT + 1), b"", False
    body, noise = (b"".join(found) for found in parts.values())
    return body, noise[-_NOISE:], False


def _died(status: int, noise: bytes) -> InputError | StorageError:
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
        return TooLargeError(
            f"the statement ended its process ({name}); most often it needed too much memory"
        )
    return StorageError(
        f"the process for the statement failed: {noise.decode(errors='replace').strip()[-500:]}"
    )


def _environment() -> dict[str, str]:
    """No tokens, no addresses: what Python needs to start."""
    kept = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
    found = {name: os.environ[name] for name in kept if name in os.environ}
    return {
        **found,
        "LC_ALL": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "ARROW_IO_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
