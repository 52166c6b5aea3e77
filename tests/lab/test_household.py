"""Real processes: whatever happens to the lab, nothing that it started is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from misstep.core.errors import UnavailableError
from misstep.lab.household import Household, alive, free_ports

DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open(sys.argv[1], "w").write(str(os.getpid()))
        time.sleep(600)
    os._exit(0)
time.sleep(600)
"""
"""Starts a daemon that detaches itself as Ray's do, and stays."""


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def read_pid(path: Path) -> int:
    assert wait_for(lambda: path.exists() and path.read_text() != "")
    return int(path.read_text())


def test_daemons_that_detached_themselves_end_and_the_folder_goes(tmp_path: Path) -> None:
    bystander = subprocess.Popen(["sleep", "600"])
    try:
        with Household() as home:
            pid = home.start("d", [sys.executable, "-c", DAEMON, str(tmp_path / "pid")], os.environ)
            daemon = read_pid(tmp_path / "pid")
            assert alive(pid) and alive(daemon)
        assert not alive(pid) and not alive(daemon)
        assert not home.folder.exists()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_what_ignores_sigterm_ends_too() -> None:
    with Household() as home:
        pid = home.start("stubborn", ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"], os.environ)
        assert wait_for(lambda: alive(pid))
    assert not alive(pid)


def test_processes_end_when_the_lab_itself_is_killed(tmp_path: Path) -> None:
    program = (
        "import os, sys, time\nfrom misstep.lab.household import Household\n"
        "home = Household()\nhome.start('d', [sys.executable, '-c', sys.argv[1], sys.argv[2]], os.environ)\n"
        "print(home.folder, flush=True)\ntime.sleep(600)\n"
    )
    lab = subprocess.Popen(
        [sys.executable, "-c", program, DAEMON, str(tmp_path / "pid")], stdout=subprocess.PIPE, text=True
    )
    assert lab.stdout is not None
    with lab.stdout:
        folder = lab.stdout.readline().strip()
    daemon = read_pid(tmp_path / "pid")
    lab.send_signal(signal.SIGKILL)
    lab.wait()
    assert wait_for(lambda: not alive(daemon))
    assert wait_for(lambda: not Path(folder).exists())


def test_a_program_that_is_not_there_is_named() -> None:
    with Household() as home, pytest.raises(UnavailableError, match="no-such-program"):
        home.start("nobody", ["/no-such-program"], os.environ)


def test_output_is_kept_for_error_messages() -> None:
    with Household() as home:
        home.start("talker", ["sh", "-c", "echo one; echo two >&2"], os.environ)
        assert wait_for(lambda: home.last_words("talker") == "one\ntwo")
        assert home.last_words("talker", lines=1) == "two"
        assert home.last_words("nobody") == ""


def test_free_ports_are_in_a_row_and_outside_the_range_of_ray_workers() -> None:
    ports = free_ports(20)
    assert ports == list(range(ports[0], ports[0] + 20))
    assert ports[0] > 19999 and ports[-1] < 32768
