"""The hook tells of the exception that ends a process, and changes nothing else."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from misstep.agent import launch
from misstep.agent.receiver import Receiver
from misstep.core import names

HOOK = str(Path(launch.__file__).parent / "hook")
DEEP = "def deep():\n    raise ValueError('no such batch')\ndef outer():\n    try: deep()\n    except ValueError as e: raise RuntimeError('step 3') from e\nouter()\n"


@pytest.fixture
def receiver(context: Any) -> Iterator[Receiver]:
    held = Receiver(context, locate=lambda *where: "", heard=lambda *_: None)
    held.start()
    yield held
    held.close()


@pytest.fixture
def python(receiver: Receiver, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(code: str, *flags: str, path: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        script = tmp_path / "job.py"
        script.write_text(code)
        held = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PYTHONPATH": HOOK + (f":{path}" if path else ""),
        }
        held["MISSTEP_REPORT"] = f"http://127.0.0.1:{receiver.port}/v1/report"
        return subprocess.run(
            [sys.executable, *flags, str(script)],
            env=held | environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_an_exception_is_told_whole(python: Any, spooled: Any, tmp_path: Path) -> None:
    done = python(DEEP)
    plain = python(DEEP, MISSTEP_HOOK="0")
    assert (
        (done.returncode, done.stdout, done.stderr)
        == (plain.returncode, plain.stdout, plain.stderr)
        == (1, "", done.stderr)
    )
    (report,) = spooled()
    assert report.name == "process.exception"
    assert report.body == done.stderr
    assert report.attributes["exception.type"] == "RuntimeError"
    assert report.attributes["exception.message"] == "step 3"
    assert report.attributes["exception.cause.type"] == "ValueError"
    assert report.attributes["code.file.path"] == str(tmp_path / "job.py")
    assert report.attributes["code.line.number"] == 5
    assert report.attributes[names.ENTITY].startswith("process/")


def test_a_hook_that_forgets_the_one_before_does_not_hide_it(python: Any, spooled: Any) -> None:
    done = python("import sys\nsys.excepthook = lambda *_: print('mine')\nraise KeyError('x')\n")
    assert (done.returncode, done.stdout, done.stderr) == (1, "mine\n", "")
    (report,) = spooled()
    assert report.attributes["exception.type"] == "KeyError"


def test_a_hook_that_calls_the_one_before_tells_once(python: Any, spooled: Any) -> None:
    python(
        "import sys\nbefore = sys.excepthook\nsys.excepthook = lambda *a: before(*a)\nraise KeyError('x')\n"
    )
    assert len(spooled()) == 1


@pytest.mark.parametrize("code", ["print(1)", "import sys; sys.exit(3)", "import os; os._exit(4)"])
def test_other_ends_are_not_told(python: Any, spooled: Any, code: str) -> None:
    done, plain = python(code), python(code, MISSTEP_HOOK="0")
    assert (done.returncode, done.stdout, done.stderr) == (plain.returncode, plain.stdout, plain.stderr)
    assert spooled() == []


def test_ctrl_c_is_told_as_what_it_is(python: Any, spooled: Any) -> None:
    code = "raise KeyboardInterrupt"
    done, plain = python(code), python(code, MISSTEP_HOOK="0")
    assert (done.returncode, done.stdout, done.stderr) == (plain.returncode, plain.stdout, plain.stderr)
    assert [told.attributes[names.EXCEPTION_TYPE] for told in spooled()] == ["KeyboardInterrupt"]


def test_an_exception_of_a_thread_is_told_as_such_and_shown_as_before(python: Any, spooled: Any) -> None:
    code = "import threading\nt = threading.Thread(target=lambda: {}['gone'], name='loader')\nt.start()\nt.join()\n"
    done = python(code)
    assert (done.returncode, done.stderr) == (0, python(code, MISSTEP_HOOK="0").stderr)
    (told,) = spooled()
    assert told.attributes[names.THREAD] == "loader"
    assert told.attributes[names.EXCEPTION_TYPE] == "KeyError"


def test_switched_off(python: Any, spooled: Any) -> None:
    python(DEEP, MISSTEP_HOOK="0")
    assert spooled() == []


def test_without_an_agent_nothing_shows(python: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    done = python(DEEP, MISSTEP_REPORT=f"http://127.0.0.1:{port}/v1/report")
    assert done.returncode == 1
    assert done.stderr == python(DEEP, MISSTEP_HOOK="0").stderr


def test_the_users_own_sitecustomize_is_loaded(python: Any, tmp_path: Path, spooled: Any) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "sitecustomize.py").write_text("import sys\nsys.marked = __file__\n")
    code = "import sys, sitecustomize\nprint(sys.marked == sitecustomize.__file__, any('hook' in p for p in sys.path))\nraise KeyError\n"
    assert python(code, path=str(mine)).stdout == "True False\n"
    assert len(spooled()) == 1


def test_an_error_in_the_users_own_sitecustomize_is_shown_as_before(python: Any, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "sitecustomize.py").write_text("import nonesuch\n")
    shown = python("print(1)", path=str(mine))
    assert shown.stdout == "1\n"
    assert "ModuleNotFoundError" in shown.stderr


def test_it_loads_nothing_at_start(python: Any) -> None:
    code = "import sys\nprint(*sorted({'json', 'socket', 'traceback', 'urllib', 'importlib.util'} & set(sys.modules)))"
    assert python(code).stdout == python(code, MISSTEP_HOOK="0").stdout


def test_it_reads_as_the_oldest_python(tmp_path: Path) -> None:
    import ast

    ast.parse((Path(HOOK) / "sitecustomize.py").read_text(), feature_version=(3, 8))
