"""What py-spy says when it gives no stacks."""

from __future__ import annotations

import os
import subprocess
import sys

from misstep.agent.torch import pyspy


def test_the_reason_is_told_without_the_backtrace_of_the_program() -> None:
    program = pyspy.program()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    child.communicate()
    found = pyspy.dump([child.pid, os.getpid()], program)
    why = found[child.pid]
    assert isinstance(why, str)
    assert "process" in why.lower()
    assert "main" not in why
    assert not isinstance(found[os.getpid()], str), "one that is gone does not cost the stacks of the others"


def test_a_backtrace_is_cut_off() -> None:
    said = "Error: Failed to copy\nCaused by:\n    0: Permission denied (os error 13)\n\nStack backtrace:\n  10: main\n"
    assert pyspy.reason(said) == "Failed to copy; Caused by:; 0: Permission denied (os error 13)"
    assert pyspy.reason("") == "py-spy said nothing"
