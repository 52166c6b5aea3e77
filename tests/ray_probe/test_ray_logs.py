"""Log files are followed line by line, through everything that files go through."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from misstep.agent.context import Context
from misstep.agent.ray import logfiles
from misstep.agent.ray.cluster import RayProcess
from misstep.agent.ray.logs import RayLogs
from misstep.agent.ray.session import RaySession
from misstep.agent.records import Records
from misstep.agent.tail import CUT, LINE_LIMIT, Tail
from misstep.core import names
from misstep.core.clock import SECOND

WORKER = "19b006846ff93af81556daac8dc14957603dfbf2d8fb705caf3f0adb"


def text(tail: Tail, budget: int = 1 << 20, last: bool = False) -> list[str]:
    return [line.text.decode() for line in tail.lines(budget, last)]


def test_partial_lines_wait_for_their_end(tmp_path: Path) -> None:
    path = tmp_path / "x.out"
    path.write_text("one\ntw")
    tail = Tail(str(path))
    assert text(tail) == ["one"]
    assert text(tail) == []
    with path.open("a") as file:
        file.write("o\r\nthree")
    assert text(tail) == ["two"]
    assert text(tail, last=True) == ["three"]
    assert tail.pending() == 0


def test_offsets_are_where_lines_begin(tmp_path: Path) -> None:
    path = tmp_path / "x.out"
    path.write_bytes("é\n\nlast\n".encode())
    assert [line.offset for line in Tail(str(path)).lines(100)] == [0, 3, 4]


def test_rotation_reads_the_old_file_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "x.out"
    path.write_text("one\n")
    tail = Tail(str(path))
    assert text(tail) == ["one"]
    with path.open("a") as file:
        file.write("two\nhalf")
    path.rename(tmp_path / "x.out.1")
    path.write_text("three\n")
    assert tail.pending()
    assert text(tail) == ["two", "half", "three"]
    assert tail.truncated == 0


def test_truncation_begins_afresh_and_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "x.out"
    path.write_text("a long first line\n")
    tail = Tail(str(path))
    text(tail)
    path.write_text("new\n")
    assert text(tail) == ["new"]
    assert tail.truncated == 1


def test_long_lines_are_cut_and_marked(tmp_path: Path) -> None:
    path = tmp_path / "x.out"
    path.write_bytes(b"a" * 1_000_000 + b"\nnext\n" + b"b" * (LINE_LIMIT + 5) + b"\n")
    lines = list(Tail(str(path)).lines(1 << 21))
    assert [len(line.text) for line in lines] == [LINE_LIMIT + len(CUT), 4, LINE_LIMIT + len(CUT)]
    assert lines[0].text.endswith(CUT)
    assert [line.offset for line in lines] == [0, 1_000_001, 1_000_006]


def test_a_budget_ends_a_reading_and_the_next_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "x.out"
    path.write_text("".join(f"{n:09d}\n" for n in range(1000)))
    tail = Tail(str(path))
    found = text(tail, 995)
    assert len(found) == 99
    while more := text(tail, 3000):
        found += more
    assert found == [f"{n:09d}" for n in range(1000)]


def test_names_of_files() -> None:
    worker = logfiles.classify(f"worker-{WORKER}-01000000-8009.err")
    assert worker == (logfiles.ALL, {names.RAY_WORKER: WORKER, names.PID: 8009, names.RAY_JOB: "01000000"})
    young = logfiles.classify(f"worker-{WORKER}-ffffffff-8009.out")
    assert young is not None
    assert names.RAY_JOB not in young.attributes
    core = logfiles.classify(f"python-core-worker-{WORKER}_8009.log")
    assert core is not None
    assert core.take == logfiles.WORSE
    driver = logfiles.classify("job-driver-raysubmit_x.log")
    assert driver == (logfiles.ALL, {names.RAY_SUBMISSION: "raysubmit_x"})
    for path in (
        "events/event_RAYLET.log",
        "raylet.out",
        "raylet.err",
        "gcs_server.out",
        "runtime_env_setup-01000000.log",
    ):
        assert logfiles.classify(path) is not None
    for path in ("dashboard.log", "debug_state.txt", "raylet.out.1", "log_monitor.log"):
        assert logfiles.classify(path) is None


@pytest.mark.parametrize(
    ("line", "severity"),
    [
        (b"[2026-11-21 04:01:57,146 I 8010 8051] x.cc:133: text", 9), (b"[2026-11-21 04:01:57,147 W 8010 8051] (raylet) x.cc:1: text", 13),
        (b"[2026-11-21 04:33:31,920 E 31003 31003] logging.cc:474: *** SIGSEGV received", 17),
        (b"[2026-11-21 04:01:57,147 C 8010 8051] x.cc:408:  Check failed", 21),
        (b"2026-11-21 04:28:07,175\tWARNING x.py:135 -- text", 13),
        (b'{"asctime":"2026-11-20 09:49:35,013","levelname":"E","message":"m"}', 17), (b"plain text", 0), (b'{"asctime": 1', 0),
    ],
)  # fmt: skip
def test_levels(line: bytes, severity: int) -> None:
    level = logfiles.level(line)
    assert level.severity == severity
    assert (level.time > 0) == (severity > 0)


def test_local_times() -> None:
    moment = int(time.time()) - 100
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment)).encode()
    assert logfiles.level(b"[" + stamp + b",250 I 1 1] x").time == moment * SECOND + 250_000_000


class Folder:
    """A session's logs folder that is written and read."""

    def __init__(self, root: Path, context: Context, read: Any) -> None:
        self.root = root / "session_1"
        self.logs = self.root / "logs"
        (self.logs / "events").mkdir(parents=True)
        (self.logs / "export_events").mkdir()
        self._read = read
        self.session = RaySession("session_1", "local/ray/ray/1", 0)
        blank: dict[str, Any] = dict.fromkeys(RayProcess._fields, "")
        self.session.processes[7] = (
            RayProcess(**(blank | {"pid": 7, "folder": str(self.root), "token": ("", "")})),
            1,
        )
        self.context = context
        self.now = time.time_ns()
        self.restart()

    def restart(self) -> None:
        class Sessions:
            all = staticmethod(lambda: [self.session])

        self.probe = RayLogs(self.context, Sessions())  # type: ignore[arg-type]

    def write(self, name: str, text: str) -> None:
        with (self.logs / name).open("a") as file:
            file.write(text)

    def tick(self, seconds: float = 6.0) -> tuple[list[Any], Records]:
        self.now += int(seconds * SECOND)
        out = Records(self.now)
        self.probe.check(self.now, out)
        self.context.spool.commit([out])
        return self._read(out.lines) + self._read(out.events), out


@pytest.fixture
def folder(tmp_path: Path, context: Context, read: Callable[..., Any]) -> Folder:
    return Folder(tmp_path, context, read)


def test_lines_carry_file_and_markers(folder: Folder) -> None:
    name = f"worker-{WORKER}-ffffffff-8009.out"
    folder.write(name, ":job_id:01000000\n:task_name:hold\nhello\n")
    (line,), _ = folder.tick()
    assert line.body == "hello"
    assert line.attributes == {
        names.FILE_PATH: str(folder.logs / name), names.FILE_OFFSET: 33, names.SESSION: "local/ray/ray/1",
        names.SOURCE: "ray_logs", names.RAY_WORKER: WORKER, names.PID: 8009, names.RAY_JOB: "01000000", names.RAY_TASK_NAME: "hold",
    }  # fmt: skip
    folder.write(name, ":actor_name:Trainer\nmore\n")
    (line,), _ = folder.tick(1)
    assert line.attributes[names.RAY_ACTOR_CLASS] == "Trainer"


def test_a_restarted_agent_goes_on_where_it_stood(folder: Folder) -> None:
    name = f"worker-{WORKER}-ffffffff-8009.err"
    folder.write(name, ":task_name:hold\nfirst\n")
    folder.tick()
    folder.write(name, "second\n")
    folder.restart()
    (line,), _ = folder.tick()
    assert (line.body, line.attributes[names.RAY_TASK_NAME]) == ("second", "hold")


def test_ray_logs_bring_what_is_worse_and_its_continuation(folder: Folder) -> None:
    folder.write(
        "raylet.out",
        "[2026-11-21 04:01:07,935 I 1 1] (raylet) main.cc:283: Setting cluster ID\n"
        "[state-dump] Infeasible queue length: 0\n"
        "[2026-11-21 04:01:08,935 I 1 1] (raylet) x.cc:1: Memory usage 5B exceeded threshold of 4B\n"
        "[2026-11-21 04:01:09,935 E 1 1] (raylet) x.cc:2: broke\n  a second line of it\n"
        "[2026-11-21 04:01:10,935 I 1 1] (raylet) x.cc:3: fine\n  and of this\n"
        "*** SIGSEGV received at time=1795235611 on cpu 0 ***\n",
    )
    lines, _ = folder.tick()
    assert [line.body.partition("cc:")[2] or line.body for line in lines] == [
        "1: Memory usage 5B exceeded threshold of 4B", "2: broke", "  a second line of it", "*** SIGSEGV received at time=1795235611 on cpu 0 ***",
    ]  # fmt: skip
    assert [line.severity for line in lines] == [9, 17, 0, 0]


def test_event_files_and_submissions(folder: Folder, sample: Callable[[str], Any]) -> None:
    folder.write("events/event_RAYLET.log", sample("event_RAYLET.log"))
    folder.write("events/event_AUTOSCALER.log", sample("event_AUTOSCALER.log"))
    folder.write("export_events/event_EXPORT_SUBMISSION_JOB.log", sample("EXPORT_SUBMISSION_JOB.jsonl"))
    found, _ = folder.tick()
    lines = [one for one in found if not one.name]
    assert {line.severity for line in lines if "RAY_WORKER_FAILURE" in line.body} == {17}
    assert any("No available node types can fulfill" in line.body for line in lines)
    submissions = [one for one in found if one.name == "ray.submission"]
    assert {one.attributes[names.STATE] for one in submissions} >= {"PENDING", "RUNNING", "FAILED"}
    failed = next(one for one in submissions if one.attributes[names.STATE] == "FAILED")
    assert failed.attributes[names.ENTITY] == "job/my-named-job"
    assert "ModuleNotFoundError: No module named 'ray'" in failed.json["message"]
    assert len({one.attributes[names.EVENT_ID] for one in submissions}) == len(submissions)


def test_what_a_workers_line_says_of_collectives(folder: Folder) -> None:
    """Ray Train's ranks write to the files of their workers."""
    line = "[rank3]:[E626 06:24:44.9 ProcessGroupNCCL.cpp:616] [Rank 3] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=808, OpType=ALLREDUCE, Timeout(ms)=600000) ran for 600020 milliseconds"
    folder.write(f"worker-{WORKER}-01000000-8009.err", f"step 12\n{line}\n")
    found, _ = folder.tick()
    assert [one.body for one in found if not one.name] == ["step 12", line]
    (event,) = [one for one in found if one.name]
    assert (event.name, event.attributes[names.STATE]) == ("torch.log", "watchdog_timeout")
    assert event.attributes[names.ENTITY] == "rank/local/ray/ray/1/3"
    assert (event.attributes[names.PID], event.attributes[names.SEQUENCE]) == (8009, 808)


def test_an_unfinished_line_comes_when_its_writer_is_quiet(folder: Folder) -> None:
    folder.write(f"worker-{WORKER}-01000000-1.err", "Fatal Python error: Segm")
    assert folder.tick()[0] == []
    assert folder.tick(1)[0] == []
    assert [line.body for line in folder.tick(4)[0]] == ["Fatal Python error: Segm"]


def test_the_end_of_a_session_reads_to_the_end(folder: Folder) -> None:
    folder.write(f"worker-{WORKER}-01000000-1.err", "a\nlast words")
    folder.tick()
    folder.session.ended = 1
    folder.write(f"worker-{WORKER}-01000000-1.err", " of it")
    assert [line.body for line in folder.tick(1)[0]] == ["last words of it"]


def test_a_flood_is_bounded_and_counted(folder: Folder) -> None:
    name = f"worker-{WORKER}-01000000-1.out"
    folder.write(name, "".join(f"{n}\n" for n in range(5000)))
    lines, out = folder.tick()
    assert len(lines) == 2000
    assert out.gaps == {("line", "a Ray log wrote more than 200 lines a second"): 3000}
    folder.write(name, ("x" * 199 + "\n") * 50_000)
    lines, out = folder.tick(60)
    assert sum(out.gaps.values()) > 9_000_000
    assert {kind for kind, _ in out.gaps} == {"log_byte", "line"}


def test_what_ended_long_ago_is_left_alone(folder: Folder) -> None:
    name = f"worker-{WORKER}-01000000-1.out"
    folder.write(name, "old\n")
    os.utime(folder.logs / name, (1_700_000_000, 1_700_000_000))
    lines, out = folder.tick()
    assert (lines, out.gaps) == ([], {})
    folder.write(name, "new\n")
    assert [line.body for line in folder.tick(70)[0]] == ["new"]


def test_a_folder_that_cannot_be_read_is_said(folder: Folder) -> None:
    folder.logs.rename(folder.root / "elsewhere")
    folder.tick()
    state = folder.context.coverage.state("ray_logs", "local/ray/ray/1")
    assert state is not None
    assert (state.name, "No such file" in state.reason) == ("failing", True)


def test_cursors_go_with_the_session(folder: Folder) -> None:
    folder.write(f"worker-{WORKER}-01000000-1.out", "x\n")
    folder.tick()
    (cursor,) = folder.context.spool.cursors("ray_logs:").values()
    assert json.loads(cursor)[1] == 2
    folder.session.name = "another"
    folder.logs.rename(folder.root / "elsewhere")
    folder.tick()
    assert folder.context.spool.cursors("ray_logs:") == {}
