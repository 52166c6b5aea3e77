"""Runs one case under `misstep run` and collects what Misstep says of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from misstep.core.client import Client
from misstep.core.clock import SECOND
from misstep.core.errors import UnavailableError
from misstep.lab import keeper
from misstep.lab.cases.ledger import Case

SCRIPT_NAME = "train.py"
SETTLE = 15.0
"""Seconds of the collector's ticks after the command's end until what stands is the verdict, settled or not."""
LAG = 120.0
"""Seconds after which a collector that lags behind is no longer waited for."""
OUTPUT = "output"
PATIENCE = 8.0
"""Seconds in which the daemons of a Ray whose driver is gone end by themselves."""
_FAULT = re.compile(r"fault at (\d+\.\d+)")
CTRL_C = b"\x03"
TRIES = 4
STEADY = 4.0
"""Seconds for which a verdict on a command that hangs must stand."""


@dataclass
class Outcome:
    """What came of a case.

    Attributes:
        exit: status of the command, negative for a signal; None if it had to be ended.
        incidents: those that stand; `recovered` stood for a time.
        seconds: how long the case took in all.
        seen: the collector's tick when it was asked last, Unix nanoseconds.
        lag: seconds by which the collector's ticks were behind when it was asked last.
        after: seconds from the fault, where the script tells when that was, else from the end of the command (or its
            start, if it hangs), to the opening of the incident.
    """

    case: Case
    exit: int | None = None
    sessions: list[dict[str, Any]] = field(default_factory=list)
    incidents: list[dict[str, Any]] = field(default_factory=list)
    recovered: list[dict[str, Any]] = field(default_factory=list)
    settled: bool = False
    seconds: float = 0.0
    after: float | None = None
    seen: int = 0
    lag: float = 0.0
    output: str = ""


def _command(case: Case) -> list[str]:
    if not case.ranks:
        return [sys.executable, SCRIPT_NAME]
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(case.ranks),
        "--max-restarts", str(case.restarts), SCRIPT_NAME,
    ]  # fmt: skip


class Runner:
    """Runs cases one after the other.

    Args:
        client: of the collector that is asked.
        environment: of the commands; it tells `misstep run` which Misstep is meant.
        folder: where scripts and Ray sessions go; short, since Ray puts sockets below.
    """

    def __init__(self, client: Client, environment: dict[str, str], folder: Path) -> None:
        self._client = client
        self._environment = environment
        self._folder = folder
        self._number = 0

    def run(self, case: Case) -> Outcome:
        """Run a case to its verdict."""
        self._number += 1
        place = self._folder / f"c{self._number}"
        place.mkdir()
        shutil.copy(case.script, place / SCRIPT_NAME)
        outcome = Outcome(case)
        started, begun = time.time_ns(), time.monotonic()
        with open(place / OUTPUT, "w+b") as output, _terminal() as (keyboard, terminal):
            process = self._start(case, place, output, terminal)
            try:
                self._attend(process, case, place, started, keyboard)
                outcome.exit = None if process.poll() is None else process.returncode
                ended = started if outcome.exit is None else time.time_ns()
                self._ask(outcome, place, started, settle=outcome.exit is not None)
            finally:
                _end(process)
                _sweep(place)
            output.seek(0)
            outcome.output = output.read().decode(errors="replace")
        told = _FAULT.search(outcome.output)
        ended = round(float(told[1]) * SECOND) if told else ended
        for incident in [*outcome.incidents, *outcome.recovered][:1]:
            outcome.after = (incident["opened_ns"] - ended) / SECOND
        outcome.seconds = time.monotonic() - begun
        shutil.rmtree(place, ignore_errors=True)
        return outcome

    def _start(self, case: Case, place: Path, output: Any, terminal: int) -> subprocess.Popen[bytes]:
        """Start the command as leader of the terminal's foreground group, as a shell would."""
        argv = [sys.executable, "-m", "misstep.cli", "run", "--", *_command(case)]
        environment = self._environment | {
            "RAY_TMPDIR": str(place), "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        return subprocess.Popen(
            argv,
            cwd=place,
            env=environment,
            stdin=terminal,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_take_terminal,  # noqa: PLW1509  (no thread runs here)
        )

    def _attend(
        self, process: subprocess.Popen[bytes], case: Case, place: Path, started: int, keyboard: int
    ) -> None:
        """Return when the command has ended, hangs with a steady verdict, or its time is up."""
        begun, steady_since, named = time.monotonic(), 0, ""
        while process.poll() is None and time.monotonic() - begun < case.limit:
            if case.interrupt and case.interrupt in (place / OUTPUT).read_text(errors="replace"):
                time.sleep(2.0)
                os.write(keyboard, CTRL_C)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(30)
                return
            if case.hangs:
                outcome = Outcome(case)
                self._ask(outcome, place, started, settle=False)
                text = str([(i["cause"], i["blamed"][:1]) for i in outcome.incidents])
                if text != named:
                    named, steady_since = text, outcome.seen
                elif outcome.incidents and outcome.seen - steady_since > STEADY * SECOND:
                    return
            time.sleep(0.5 if case.hangs else 0.1)

    def _ask(self, outcome: Outcome, place: Path, started: int, *, settle: bool) -> None:
        enough = time.time_ns() + round((SETTLE if settle else 0) * SECOND)
        deadline = time.monotonic() + (LAG if settle else 0)
        while True:
            outcome.seen = time.time_ns()
            outcome.sessions = self._sessions(place, started)
            outcome.incidents, outcome.recovered, settled = [], [], []
            for session in outcome.sessions:
                answer = self._get("incidents", session=session["session"])
                outcome.incidents += answer["incidents"]
                outcome.recovered += answer["recovered"]
                settled.append(bool(answer["settled"]))
                outcome.seen = min(outcome.seen, answer["as_of_ns"])
            outcome.settled = bool(settled) and all(settled)
            outcome.lag = (time.time_ns() - outcome.seen) / SECOND
            if outcome.settled or outcome.seen > enough or time.monotonic() > deadline:
                return
            time.sleep(0.5)

    def _get(self, path: str, **query: Any) -> Any:
        """Ask, and again where a busy machine keeps the answer back for longer than a client waits."""
        for _ in range(TRIES - 1):
            with contextlib.suppress(UnavailableError):
                return self._client.get(path, **query)
        return self._client.get(path, **query)

    def _sessions(self, place: Path, started: int) -> list[dict[str, Any]]:
        """The sessions of this case: Ray's below its folder, others by their time."""
        found = []
        for session in self._get("sessions")["sessions"]:
            folder = session["attributes"].get("ray.folder", "")
            mine = folder.startswith(f"{place}/") if folder else session["kind"] != "ray"
            if mine and session["started_ns"] >= started - 2 * SECOND:
                found.append(session)
        return found


@contextlib.contextmanager
def _terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a new pseudo terminal."""
    ends = pty.openpty()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


def _take_terminal() -> None:
    """Make stdin the controlling terminal of this new session, so that Ctrl-C comes from the kernel."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the command's whole session; Ray's daemons follow their driver."""
    for number, patience in ((signal.SIGINT, 15.0), (signal.SIGKILL, 5.0)):
        if process.poll() is None:
            try:
                os.killpg(process.pid, number)
                process.wait(patience)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                pass


def _sweep(place: Path) -> None:
    """Wait for what a case has left, Ray's daemons or ranks, which its folder gives away, and end those that stay."""
    deadline = time.monotonic() + PATIENCE
    while left := [pid for pid in keeper.parents() if _is_of(pid, place)]:
        if time.monotonic() > deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)


def _is_of(pid: int, place: Path) -> bool:
    """Whether a process works in a folder or was started with a file of it."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
        folder = Path(f"/proc/{pid}/cwd").readlink()
    except OSError:
        return False
    return os.fsencode(f"{place}/") in arguments or folder == place or place in folder.parents
