"""The command line as a whole: help, errors, exit codes."""

import argparse
import shutil
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

from misstep.cli import main as entry
from misstep.cli.main import COMMANDS, EXTRAS, main
from misstep.core import __version__
from misstep.core.errors import StorageError
from misstep.core.exits import Exit


def command(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make `misstep doctor` raise."""
    module = ModuleType("doctor")

    def run(arguments: argparse.Namespace) -> int:
        raise error

    module.run = run  # type: ignore[attr-defined]
    module.prepare = lambda parser: None  # type: ignore[attr-defined]
    monkeypatch.setattr(entry, "_module", lambda name: module)


def test_version(capsys: Any) -> None:
    assert main(["--version"]) == Exit.OK
    assert capsys.readouterr().out == f"misstep {__version__}\n"


def test_help_lists_every_command_and_what_to_try(capsys: Any) -> None:
    assert main(["--help"]) == Exit.OK
    said = capsys.readouterr().out
    for name in COMMANDS:
        assert f"\n  {name} " in said
    assert "misstep demo" in said


def test_nothing_asked_is_a_usage_error_with_the_help(capsys: Any) -> None:
    assert main([]) == Exit.USAGE
    assert "first commands to try" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: Any) -> None:
    assert main([name, "--help"]) == Exit.OK
    said = capsys.readouterr().out
    assert said.startswith(f"usage: misstep {name}")
    assert len(said.splitlines()) > 5


@pytest.mark.parametrize(("typed", "meant"), [("diagnos", "diagnose"), ("log", "logs"), ("docter", "doctor")])
def test_unknown_command_suggests_the_nearest(typed: str, meant: str, capsys: Any) -> None:
    assert main([typed]) == Exit.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert f"did you mean {meant}?" in err


def test_unknown_command_that_is_near_none_lists_all(capsys: Any) -> None:
    assert main(["xyzzy"]) == Exit.USAGE
    said = capsys.readouterr().err
    assert all(name in said for name in COMMANDS)


def test_unknown_option_suggests_the_nearest(capsys: Any) -> None:
    assert main(["diagnose", "--jsn"]) == Exit.USAGE
    assert "did you mean --json?" in capsys.readouterr().err


def test_errors_become_one_line_and_their_code(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    command(monkeypatch, StorageError("the disk is full"))
    assert main(["doctor"]) == Exit.FAILURE
    assert capsys.readouterr() == ("", "misstep: the disk is full\n")


@pytest.mark.parametrize("module", EXTRAS)
def test_a_missing_part_names_its_pip_line(module: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    command(monkeypatch, ModuleNotFoundError(f"No module named '{module}.x'", name=f"{module}.x"))
    assert main(["doctor"]) == Exit.MISSING_EXTRA
    assert f"pip install 'misstep[{EXTRAS[module]}]'" in capsys.readouterr().err


def test_a_mistake_of_ours_is_not_dressed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    command(monkeypatch, ModuleNotFoundError("No module named 'misstep.nowhere'", name="misstep.nowhere"))
    with pytest.raises(ModuleNotFoundError):
        main(["doctor"])


def test_interrupt(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    command(monkeypatch, KeyboardInterrupt())
    assert main(["doctor"]) == Exit.INTERRUPTED
    assert capsys.readouterr() == ("", "")


def test_a_reader_that_leaves_is_no_error() -> None:
    # A pipe whose reading end is closed before anything is written.
    reader = subprocess.Popen(["true"], stdin=subprocess.PIPE)
    reader.wait()
    done = subprocess.run(
        [sys.executable, "-m", "misstep.cli", "completion", "bash"],
        stdout=reader.stdin,
        stderr=subprocess.PIPE,
        check=False,
    )
    assert reader.stdin is not None
    try:
        reader.stdin.close()
    except BrokenPipeError:
        pass
    assert (done.returncode, done.stderr) == (Exit.OK, b"")


def test_relative_times_are_not_options(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    from misstep.cli.commands import diagnose

    def run(arguments: argparse.Namespace) -> int:
        seen.append(arguments.at)
        return 0

    monkeypatch.setattr(diagnose, "run", run)
    assert main(["diagnose", "--at", "-5m"]) == 0
    assert seen == ["-5m"]


def test_arguments_of_a_watched_command_stay_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    from misstep.cli.commands import run as module

    def run(arguments: argparse.Namespace) -> int:
        seen.append(arguments.argv)
        return 0

    monkeypatch.setattr(module, "run", run)
    assert main(["run", "--no-events", "--", "python", "x.py", "--at", "-5m", "--", "--help"]) == 0
    assert main(["run", "python", "x.py", "--json"]) == 0
    assert [argv[1:] if argv[0] == "--" else argv for argv in seen] == [
        ["python", "x.py", "--at", "-5m", "--", "--help"],
        ["python", "x.py", "--json"],
    ]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_command(shell: str, capsys: Any) -> None:
    assert main(["completion", shell]) == Exit.OK
    script = capsys.readouterr().out
    assert all(name in script for name in COMMANDS)
    assert "watch" in script  # of diagnose --watch: arguments are completed too


def test_bash_can_read_its_completion(capsys: Any) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    assert main(["completion", "bash"]) == Exit.OK
    script = capsys.readouterr().out
    asked = "COMP_WORDS=(misstep dia); COMP_CWORD=1; _shtab_misstep 2>/dev/null; echo ${COMPREPLY[@]}"
    done = subprocess.run([bash, "-c", f"{script}\n{asked}"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["diagnose"]
