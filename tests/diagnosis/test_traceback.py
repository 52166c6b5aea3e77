"""Reading Python's and Ray's tracebacks, however they are nested, wrapped or cut."""

from __future__ import annotations

import traceback as python

import pytest
from hypothesis import given
from hypothesis import strategies as st

from misstep.diagnosis.failures import classify
from misstep.diagnosis.raytext import actor_death, exit_code, memory_kill
from misstep.diagnosis.traceback import is_user_file, parse, root

NESTED = """\
Traceback (most recent call last):
  File "/home/ray/train.py", line 16, in <module>
    print(ray.get(total.remote()))
          ^^^^^^^^^^^^^^^^^^^^^^^^
  File "/opt/venv/lib/python3.11/site-packages/ray/_private/worker.py", line 1053, in get_objects
    raise value.as_instanceof_cause()
ray.exceptions.RayTaskError(ValueError): \x1b[36mray::total()\x1b[39m (pid=12389, ip=192.0.2.2)
  File "/home/ray/train.py", line 14, in total
    return sum(ray.get(xs))
           ^^^^^^^^^^^^^^^^
ray.exceptions.RayTaskError(ValueError): \x1b[36mray::Reader.load()\x1b[39m (pid=12658, ip=192.0.2.2, actor_id=44ee40343e902c788acc066f01000000, repr=<train.Reader object at 0x7f>)
  File "/home/ray/train.py", line 7, in load
    return parse(row)
  File "/home/ray/rows.py", line 4, in parse
    return int(row["value"])
  File "/opt/venv/lib/python3.11/site-packages/lib/number.py", line 99, in convert
    raise ValueError(text)
ValueError: invalid literal for int() with base 10: 'x17'
"""


def test_the_innermost_task_and_the_users_line_are_named() -> None:
    raised = root(NESTED)
    assert raised is not None
    assert (raised.function, raised.pid, raised.type) == ("Reader.load", 12658, "ValueError")
    assert raised.actor == "44ee40343e902c788acc066f01000000"
    assert raised.user_frame is not None
    assert raised.user_frame.place == "rows.py:4"
    assert [section.function for section in parse(NESTED)] == ["", "total", "Reader.load"]


@pytest.mark.parametrize("keep", range(6, 14))
def test_a_text_cut_at_the_front_tells_the_same_fault(keep: int) -> None:
    lines = NESTED.splitlines()[-keep:]
    whole, cut = root(NESTED), root("\n".join(lines))
    assert whole is not None and cut is not None
    assert cut.signature == whole.signature


def test_what_a_ray_error_was_rethrown_as_is_its_consequence() -> None:
    text = (
        NESTED
        + "\nThe above exception was the direct cause of the following exception:\n\n"
        + "Traceback (most recent call last):\n"
        + '  File "/home/ray/train.py", line 18, in <module>\n    raise RuntimeError("epoch failed") from error\n'
        + "RuntimeError: epoch failed\n"
    )
    raised = root(text)
    assert raised is not None
    assert (raised.type, raised.function) == ("ValueError", "Reader.load")


def test_of_two_errors_of_plain_python_the_one_that_escaped_counts() -> None:
    text = (
        'Traceback (most recent call last):\n  File "/home/ray/a.py", line 2, in f\n    d["k"]\nKeyError: \'k\'\n\n'
        "During handling of the above exception, another exception occurred:\n\n"
        'Traceback (most recent call last):\n  File "/home/ray/a.py", line 4, in f\n    raise Missing("no k")\n'
        "settings.Missing: no k\n"
    )
    raised = root(text)
    assert raised is not None
    assert (raised.type, raised.message) == ("Missing", "no k")


def test_a_working_directory_that_was_uploaded_is_left_out_of_the_path() -> None:
    text = (
        "ray::boom() (pid=1, ip=192.0.2.2)\n"
        '  File "/tmp/ray/session_x/runtime_resources/working_dir_files/_ray_pkg_c0ad4d9f09f7f88c/pkg/job.py", line 16, in boom\n'
        "ValueError: intentional\n"
    )
    raised = root(text)
    assert raised is not None and raised.user_frame is not None
    assert raised.user_frame.path == "pkg/job.py:16"


def test_the_error_inside_a_failed_environment_does_not_hide_it() -> None:
    text = (
        'Traceback (most recent call last):\n  File "/home/ray/a.py", line 5, in <module>\n    ray.get(ok.remote())\n'
        "ray.exceptions.RuntimeEnvSetupError: Failed to set up runtime environment.\n"
        "[Node 192.0.2.2] Traceback (most recent call last):\n"
        '  File "/opt/venv/lib/python3.11/site-packages/ray/_private/runtime_env/protocol.py", line 269, in open_file\n    return open(uri)\n'
        "FileNotFoundError: [Errno 2] No such file or directory: '/data/nope.zip'\n"
    )
    failure = classify("TASK_EXECUTION_EXCEPTION", text)
    assert failure.kind == "task.no_environment"
    assert failure.facts["reason"].startswith("FileNotFoundError")


def test_the_end_of_somebody_elses_death_is_no_exception_of_the_caller() -> None:
    text = "User exception:\non causes include: (1) the process was killed by the OOM killer, (2) ray stop --force was called, or (3) the worker crashed"
    assert classify("TASK_EXECUTION_EXCEPTION", text, function="feed").kind == ""


def test_an_actors_death_tells_class_pid_and_detail() -> None:
    text = (
        "The actor died unexpectedly before finishing this task.\n\tclass_name: Writer\n\tactor_id: c1256534e42322c2e968453a01000000\n"
        "\tpid: 15490\n\tnamespace: x\n\tip: 192.0.2.2\nThe actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR "
        "Worker exit detail: Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was killed"
    )
    death = actor_death(text)
    assert death is not None
    assert (death.class_name, death.pid, death.exit_type) == ("Writer", 15490, "SYSTEM_ERROR")
    assert death.detail == "Worker unexpectedly exits with a connection error code 2. End of file."
    assert exit_code("Worker exits with an exit code 5.") == 5
    assert exit_code(death.detail) is None


def test_the_memory_monitors_report_is_read() -> None:
    kill = memory_kill(
        "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, ID: 78575ac885d1) was 5.97GB used / 23.54GB limit (0.25)\n"
        "OOM kill reason: Memory usage 6331015168B exceeded threshold of 6319128576B (25.0% of 25276514304B limit)\n"
        "Selected to kill: (Task: job ID=01000000, lease ID=00, task name=hog, required resources={CPU: 1}, pid=25988, actual memory used=4.10GB, worker ID=53fad4)\n"
        "Top 10 memory users: PID\tMEM(GB)\tCOMMAND\n25988\t4.10\tray::hog\n26294\t0.22\t../../venv/bin/python v.py\n"
    )
    assert kill is not None
    assert (kill.victims[0].name, kill.victims[0].pid, kill.mark, kill.limit) == (
        "hog",
        25988,
        6331015168,
        25276514304,
    )
    assert kill.users[1][0] == 26294


names = st.from_regex(r"f_[a-z_0-9]{0,12}", fullmatch=True)
words = st.text(
    st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="\x7f\x85\xa0\xad"), max_size=60
).map(str.strip)


@given(
    depth=st.integers(0, 6),
    function=names,
    message=words.filter(lambda text: "ray::" not in text),
    kind=st.sampled_from([ValueError, KeyError, RuntimeError, ZeroDivisionError, OSError]),
)
def test_what_python_prints_is_read_back(
    depth: int, function: str, message: str, kind: type[Exception]
) -> None:
    """A real traceback of generated code: the last frame is the one that raised, type and message are its own."""
    scope: dict[str, object] = {"kind": kind, "message": message}
    source = f"def {function}(_left):\n    if _left: {function}(_left - 1)\n    raise kind(message)\n"
    exec(compile(source, "/home/ray/generated.py", "exec"), scope)  # noqa: S102 - a real traceback needs real code
    try:
        scope[function](depth)  # type: ignore[operator]
    except Exception:  # noqa: BLE001 - whatever was drawn
        text = python.format_exc()
    raised = root(text)
    assert raised is not None and raised.user_frame is not None
    assert raised.type == kind.__name__
    assert raised.user_frame == ("/home/ray/generated.py", 3, function)
    said = str(kind(message))
    assert raised.message == said.partition("\n")[0]


@given(st.text(max_size=400))
def test_no_text_breaks_the_reader(text: str) -> None:
    parse(text)
    classify("TASK_EXECUTION_EXCEPTION", text)
    classify("ACTOR_DIED", text)
    memory_kill(text)


def test_files_of_python_and_packages_are_not_the_users() -> None:
    assert not is_user_file("/opt/venv/lib/python3.11/site-packages/torch/nn.py")
    assert not is_user_file("/usr/local/lib/python3.11/asyncio/events.py")
    assert not is_user_file("<frozen importlib._bootstrap>")
    assert is_user_file("/home/me/ray/train.py")
