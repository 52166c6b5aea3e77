"""Holds processes for the lab and leaves none behind: ``python keeper.py FOLDER``, commands on stdin, answers on stdout.

A command is one line of JSON, ``{"argv": [...], "env": {...}, "cwd": ..., "log": path}``; the answer is
``{"pid": n}`` or ``{"error": text}``. When stdin ends, because the lab is done or was killed, every
descendant is ended, SIGTERM first for what was started here, SIGKILL after `GRACE` for all that is left,
and the folder is removed.
The keeper is a child subreaper, so that daemons whose parents died still count as its own, and nobody
else's process is ever touched. Standard library only: it runs with ``-I -S`` and costs 10 MB.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

GRACE = 4.0
"""Seconds between SIGTERM and SIGKILL."""
PR_SET_CHILD_SUBREAPER = 36
"""linux/prctl.h"""


def parents() -> dict[int, int]:
    """Parent by pid of every process that can be read; zombies are left out."""
    found: dict[int, int] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                state, parent = Path(entry.path, "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    found[int(entry.name)] = int(parent)
    return found


def descendants(root: int) -> list[int]:
    """Pids below `root`, parents first."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents().items():
        children.setdefault(parent, []).append(pid)
    found, waiting = [], [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


class Keeper:
    """The processes that were started here."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, command: dict[str, object]) -> dict[str, object]:
        """Start one process in a session of its own, its output appended to the log file."""
        argv, env, log = command["argv"], command["env"], str(command["log"])
        assert isinstance(argv, list) and isinstance(env, dict)
        try:
            with open(log, "ab") as output:
                process = subprocess.Popen(
                    argv,
                    env=env,
                    cwd=str(command["cwd"]) if command.get("cwd") else None,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            return {"error": f"cannot start {argv[0]}: {error}"}
        self.started.append(process)
        return {"pid": process.pid}

    def stop(self) -> None:
        """End every descendant."""
        for process in reversed(self.started):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline and any(process.poll() is None for process in self.started):
            time.sleep(0.05)
        deadline = time.monotonic() + GRACE
        while (left := descendants(os.getpid())) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        # Where this machine's init does not reap (many containers), zombies would stay for good.
        with contextlib.suppress(ChildProcessError):
            while time.monotonic() < deadline:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    time.sleep(0.02)


def reap(keeper: Keeper) -> None:
    """Collect adopted orphans as they die; what `Popen` started is left to `Popen`."""
    while True:
        own = {process.pid for process in keeper.started}
        with contextlib.suppress(ChildProcessError):
            status = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            if status is not None and status.si_pid not in own:
                os.waitpid(status.si_pid, os.WNOHANG)
                continue
        for process in keeper.started:
            process.poll()
        time.sleep(0.5)


def main() -> None:
    """Serve until stdin ends or a signal comes."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    keeper = Keeper()

    def interrupted(number: int, frame: object) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, interrupted)
    signal.signal(signal.SIGHUP, interrupted)
    # Ctrl-C reaches the whole foreground group; the lab decides when things end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=reap, args=(keeper,), daemon=True).start()
    try:
        for line in sys.stdin:
            print(json.dumps(keeper.start(json.loads(line))), flush=True)
    finally:
        keeper.stop()
        shutil.rmtree(sys.argv[1], ignore_errors=True)


if __name__ == "__main__":
    main()
