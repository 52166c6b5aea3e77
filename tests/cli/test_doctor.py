"""Each check against this machine or a made-up one."""

import json
import os
import socket
import stat
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from misstep.cli.checks import BROKEN, LIMITED, OK, Check, machine, place, software
from misstep.cli.commands.doctor import table
from misstep.cli.main import main
from misstep.cli.terminal import Terminal
from misstep.core.exits import Exit
from misstep.core.settings import Settings

SCREEN = Terminal(color=False, unicode=True, width=70, interactive=False)
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at Linux")


def test_the_table_keeps_commands_whole() -> None:
    command = "sudo " + "very " * 20 + "long command"
    text = table([Check("kernel log", LIMITED, "word " * 30, command), Check("x", OK, "fine")], SCREEN)
    assert command in text
    assert text.splitlines()[0].startswith("▲ kernel log  word")
    assert text.splitlines()[-1] == "✓ x           fine"
    assert table([Check("x", BROKEN, "no")], SCREEN._replace(unicode=False)).startswith("x x")


@linux
def test_json_holds_every_check(capsys: Any) -> None:
    status = main(["doctor", "--json"])
    checks = json.loads(capsys.readouterr().out)["checks"]
    names = {check["name"] for check in checks}
    assert names >= {
        "system",
        "Ray",
        "kernel log",
        "exit codes",
        "ptrace",
        "cgroups",
        "pressure",
        "data folder",
        "Ray token",
    }
    assert all(check["detail"] for check in checks)
    assert status == (Exit.FAILURE if any(c["state"] == BROKEN for c in checks) else Exit.OK)


def test_a_kernel_log_that_is_missing(tmp_path: Path) -> None:
    found = machine.kernel_log(tmp_path / "kmsg")
    assert (found.state, "stay unseen" in found.detail) == (LIMITED, True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read all")
def test_a_kernel_log_that_is_shut(tmp_path: Path) -> None:
    (tmp_path / "kmsg").touch(mode=0)
    found = machine.kernel_log(tmp_path / "kmsg")
    assert found.state == LIMITED
    assert "setpriv" in found.remedy


def test_a_kernel_log_that_is_open(tmp_path: Path) -> None:
    (tmp_path / "kmsg").write_text("6,1,2,-;x\n")
    assert machine.kernel_log(tmp_path / "kmsg").state == OK


@pytest.mark.parametrize(("scope", "remedy"), [("1", "sudo sysctl kernel.yama.ptrace_scope=0"), ("3", "")])
def test_ptrace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scope: str, remedy: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert machine.stacks(tmp_path).state == OK  # no Yama, no limit
    (tmp_path / "ptrace_scope").write_text(f"{scope}\n")
    assert machine.stacks(tmp_path)[1:] == (LIMITED, machine.stacks(tmp_path).detail, remedy)


@linux
def test_processes_of_others_are_told_of_where_they_are_shut() -> None:
    found = machine.other_processes()
    if os.geteuid() == 0:
        assert (found.state, found.remedy) == (OK, "")
    else:
        assert "environments of your own only" in found.detail
        assert (found.state == LIMITED) == ("of other users" in found.detail) == bool(found.remedy)


def test_cgroups(tmp_path: Path) -> None:
    assert machine.cgroups(tmp_path).state == LIMITED
    (tmp_path / "memory").mkdir()
    assert "v1" in machine.cgroups(tmp_path).detail
    (tmp_path / "cgroup.controllers").touch()
    assert "v2" in machine.cgroups(tmp_path).detail


def test_pressure(tmp_path: Path) -> None:
    assert machine.pressure(tmp_path).remedy == "boot with psi=1"
    (tmp_path / "memory").write_text("some avg10=0.00\n")
    assert machine.pressure(tmp_path).state == OK


@linux
def test_a_taken_port_is_named_with_its_owner() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert place.listener(port) == f"pid {os.getpid()} ({Path('/proc/self/comm').read_text().strip()})"
    # A process that is being forked at this moment may hold the socket until it calls exec.
    deadline = time.monotonic() + 60
    while place.listener(port) is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert place.listener(port) is None


@linux
def test_ports_that_our_own_hold_are_no_complaint(tmp_path: Path) -> None:
    from dataclasses import replace

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        settings = Settings(data=tmp_path)
        settings = replace(settings, collector=replace(settings.collector, port=port))
        taken = [c for c in place.check(settings) if c.name == "ports"]
        assert taken[0].state == LIMITED
        assert str(os.getpid()) in taken[0].detail
        ours = place._ports(settings, {"collector": f"http://127.0.0.1:{port}"})
        assert all(str(port) not in c.detail or c.state == OK for c in ours)


def test_a_token_that_others_can_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "token"
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    assert place._tokens().state == OK
    path.write_text("x")
    path.chmod(0o644)
    assert place._tokens()[1:] == (LIMITED, f"{path} can be read by other users", f"chmod 600 {path}")
    path.chmod(stat.S_IRUSR)
    assert place._tokens().state == OK


@pytest.mark.parametrize(
    ("found", "state", "says"),
    [
        (None, LIMITED, "not installed"),
        ({"version": "", "default": False}, LIMITED, "not installed"),
        ({"version": "2.60.0", "default": False}, LIMITED, "without [default]"),
        ({"version": "2.9.3", "default": True}, LIMITED, "sends no events"),
        ({"version": "2.55.1", "default": True}, LIMITED, "does not say how a worker died"),
        ({"version": "2.60.0", "default": True}, OK, "2.60.0 with [default]"),
        ({"version": "9.1.0", "default": True}, LIMITED, "newer than 2.60"),
    ],
)
def test_ray(monkeypatch: pytest.MonkeyPatch, found: dict[str, object] | None, state: str, says: str) -> None:
    monkeypatch.setattr(software, "_ask", lambda python: found)
    check = software.ray()
    assert check.state == state
    assert says in check.detail


def test_the_python_that_is_asked_answers() -> None:
    answer = software._ask(sys.executable)
    assert answer is not None
    assert answer["python"] == sys.executable


def test_how_long_things_are_kept_is_told(tmp_path: Path) -> None:
    from dataclasses import replace

    from misstep.core.settings import Settings, StoreSettings

    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "file").write_bytes(bytes(3 << 20))
    settings = Settings(data=tmp_path, store=StoreSettings(lake_bytes=1 << 30, spans_days=0))
    found = place._kept(settings)
    assert found.state == OK
    assert (
        found.detail == "samples 30 days, logs 90 days, spans for ever; the lake takes 0.00 GB of at most 1.0"
    )
    full = place._kept(replace(settings, store=StoreSettings(lake_bytes=1 << 20)))
    assert full.state == LIMITED
