"""The files of training jobs: whose they are, from where they are read, and what of them is told."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from misstep.agent.context import Context
from misstep.agent.pids import start_ticks
from misstep.agent.records import Records
from misstep.agent.spool import Spool
from misstep.agent.torch.followed import Holder
from misstep.agent.torch.logs import TrainingLogs
from misstep.agent.torch.reader import Reader
from misstep.agent.workload import Process
from misstep.core import names
from misstep.core.clock import SettableClock

SESSION = "local/torch/train.py/1"
TIMEOUT = b"[rank1]:[E626 06:24:44.9 ProcessGroupNCCL.cpp:616] [Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=808, OpType=ALLREDUCE, Timeout(ms)=600000) ran for 600020 milliseconds before timing out.\n"
INIT = b"n1:%d:9 [0] NCCL INFO ncclCommInitRank comm 0x55d rank 0 nranks 2 cudaDev 0 nvmlDev 0 busId 1 commId 0x2f - Init %s\n"


class Kept:
    """A spool that only keeps."""

    def __init__(self) -> None:
        self.taken: list[Records] = []
        self.held: dict[str, str] = {}

    def commit(self, batches: list[Records]) -> None:
        self.taken += batches
        for one in batches:
            self.held |= one.cursors

    def cursors(self, prefix: str) -> dict[str, str]:
        return {key: value for key, value in self.held.items() if value and key.startswith(prefix)}


class Bench:
    """A reader, its spool, and processes that hold files open."""

    def __init__(self, context: Context, read_events: Callable[..., list[Any]]) -> None:
        self.clock = cast(SettableClock, context.clock)
        self.kept = Kept()
        self.context = context._replace(spool=cast(Spool, self.kept))
        self.reader = Reader(self.context)
        self._read_events = read_events
        self._processes: list[subprocess.Popen[bytes]] = []

    def writer(self, file: Path, mode: str = "wb", rank: int = 0, **more: Any) -> Holder:
        """A process whose stdout is the file."""
        with file.open(mode) as out:
            process = subprocess.Popen(["sleep", "600"], stdout=out, stderr=subprocess.DEVNULL)
        self._processes.append(process)
        held = {
            "pid": process.pid, "start": start_ticks(process.pid), "process": f"process/h/{process.pid}/1",
            "entity": f"rank/{SESSION}/{rank}" if rank >= 0 else "", "session": SESSION, "rank": rank, "local": rank,
            "user": os.geteuid(), "hooked": True, "debug_file": "", "error_file": "",
        }  # fmt: skip
        return Holder(**{**held, **more})

    def round(self, seconds: float = 1.0) -> tuple[list[Any], list[Any]]:
        """(events, lines) of one reading."""
        self.kept.taken.clear()
        self.clock.advance(seconds)
        self.reader.read()
        events = [one for out in self.kept.taken for one in self._read_events(out.events)]
        lines = [one for out in self.kept.taken for one in self._read_events(out.lines)]
        return events, lines

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


@pytest.fixture
def bench(make_context: Callable[..., Context], read_events: Callable[..., list[Any]]) -> Iterator[Bench]:
    made = Bench(make_context(clock=SettableClock()), read_events)
    yield made
    made.end()


def append(file: Path, text: bytes) -> None:
    with file.open("ab") as out:
        out.write(text)


def test_a_file_of_one_rank_is_that_ranks(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "stdout.log"
    holder = bench.writer(file, rank=1)
    bench.reader.holders = [holder]
    append(file, b"step 1\rstep 2\rstep 3\nW1120 09:55:33.8 12311 api.py:1028] slow\n" + TIMEOUT)
    events, lines = bench.round()
    assert [(one.body, one.severity) for one in lines] == [
        ("step 3", 0), ("W1120 09:55:33.8 12311 api.py:1028] slow", 13), (TIMEOUT.decode().rstrip(), 17),
    ]  # fmt: skip
    assert lines[0].attributes == {
        names.FILE_PATH: str(file), names.SESSION: SESSION, names.SOURCE: "training_logs", names.RANK: 1,
        names.ENTITY: f"rank/{SESSION}/1", names.PID: holder.pid, names.FILE_OFFSET: 0,
    }  # fmt: skip
    (event,) = events
    assert (event.name, event.attributes[names.STATE], event.attributes[names.ENTITY]) == ("torch.log", "watchdog_timeout", f"rank/{SESSION}/1")  # fmt: skip
    assert (event.attributes[names.SEQUENCE], event.attributes[names.OPERATION]) == (808, "ALLREDUCE")
    assert bench.round() == ([], [])


def test_of_a_file_that_all_write_each_line_is_whose_it_says(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "all.log"
    launcher = bench.writer(file, rank=-1)
    ranks = [bench.writer(file, "ab", rank=number) for number in range(2)]
    bench.reader.holders = [launcher, *ranks]
    bench.round()
    failed = f"E1120 09:55:34 12311 torch/x/api.py:1002] failed (exitcode: -9) local_rank: 1 (pid: {ranks[1].pid}) of binary: /usr/bin/python3\n"
    append(file, b"who knows\n[default1]:epoch 1\n[rank0]: Traceback\n" + TIMEOUT + failed.encode())
    events, lines = bench.round()
    assert [one.attributes.get(names.RANK) for one in lines] == [None, 1, 0, 1, 1]
    assert [(one.attributes[names.STATE], one.attributes[names.RANK]) for one in events] == [("watchdog_timeout", 1), ("rank_failed", 1)]  # fmt: skip
    assert events[1].attributes[names.EXIT_SIGNAL] == "SIGKILL"


def test_what_stood_there_before_is_not_of_this_job(bench: Bench, tmp_path: Path) -> None:
    appended, fresh = tmp_path / "nohup.out", tmp_path / "fresh.log"
    appended.write_bytes(TIMEOUT)
    bench.reader.holders = [bench.writer(appended, "ab"), bench.writer(fresh, "wb", rank=1)]
    append(fresh, b"line\n" * 200_000 + b"last\n")
    _, lines = bench.round()
    assert {one.attributes[names.FILE_PATH] for one in lines} == {str(fresh)}
    gaps = {kind: count for out in bench.kept.taken for (kind, _), count in out.gaps.items()}
    assert gaps["log_byte"] == 1_000_005 - 512 * 1024
    assert len(lines) <= 2200 and gaps["line"] > 50_000  # no more than the rate allows, the rest counted
    append(appended, b"new\n")
    assert [one.body for one in bench.round()[1]] == ["new"]


def test_it_goes_on_where_it_stood(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "out.log"
    bench.reader.holders = [bench.writer(file)]
    append(file, b"one\nhalf")
    assert [one.body for one in bench.round()[1]] == ["one"]
    again = Reader(bench.context)
    again.holders, bench.reader = bench.reader.holders, again
    append(file, b" done\n")
    assert [one.body for one in bench.round()[1]] == ["half done"]


def test_the_last_words_are_read_after_the_end_and_then_the_file_is_let_go(
    bench: Bench, tmp_path: Path
) -> None:
    file = tmp_path / "out.log"
    bench.reader.holders = [bench.writer(file)]
    append(file, b"one\n")
    bench.round()
    bench.end()
    append(file, b"killed in the mid")
    bench.reader.holders = []
    assert bench.round() == ([], [])
    assert [one.body for one in bench.round(20)[1]] == ["killed in the mid"]
    assert bench.reader.files == {}
    assert bench.kept.cursors("torch_logs:") == {}


def test_nothing_is_read_for_another_user_and_no_pipe_is_waited_for(bench: Bench, tmp_path: Path) -> None:
    """Root's agent would otherwise read for a user what that user may not."""
    file, pipe = tmp_path / "out.log", tmp_path / "error.json"
    os.mkfifo(pipe)
    bench.reader.holders = [bench.writer(file, error_file=str(pipe), debug_file=str(pipe))]
    append(file, b"one\n")
    assert len(bench.round()[1]) == 1
    (followed,) = bench.reader.files.values()
    followed.tail.owner = os.geteuid() + 1
    append(file, b"two\n")
    assert bench.round() == ([], [])
    followed.tail.owner = os.geteuid()
    file.unlink()
    os.mkfifo(file)
    assert bench.round() == ([], [])


def test_an_initialisation_without_an_end_is_told_once(bench: Bench, tmp_path: Path) -> None:
    log = tmp_path / "nccl.n1.log"
    log.touch()
    holder = bench.writer(tmp_path / "out.log", debug_file=str(log))
    other = bench.writer(tmp_path / "out2.log", rank=1)
    bench.reader.holders = [holder, other]
    log.write_bytes(INIT % (holder.pid, b"START"))
    append(tmp_path / "out2.log", INIT % (other.pid, b"START") + INIT % (other.pid, b"COMPLETE"))
    events, _ = bench.round()
    assert [one.attributes[names.STATE] for one in events] == ["init_start", "init_start", "init_complete"]
    assert bench.round(10)[0] == []
    (event,) = bench.round(30)[0]
    assert (event.attributes[names.STATE], event.attributes[names.RANK]) == ("init_open", 0)
    assert bench.round(60)[0] == []


@pytest.mark.parametrize("hooked", [True, False])
def test_torchruns_error_file(bench: Bench, tmp_path: Path, hooked: bool) -> None:
    """As ErrorHandler.record_exception of torch 2.13 writes it."""
    path = tmp_path / "error.json"
    bench.reader.holders = [bench.writer(tmp_path / "out.log", rank=3, error_file=str(path), hooked=hooked)]
    assert bench.round()[0] == []
    stack = (
        'Traceback (most recent call last):\n  File "train.py", line 3, in <module>\nValueError: bad: batch\n'
    )
    text = json.dumps(
        {
            "message": {
                "message": "ValueError: bad: batch",
                "extraInfo": {"py_callstack": stack, "timestamp": "1"},
            }
        }
    )
    path.write_text(text[:40])
    bench.reader.holders = []  # it is gone already
    assert bench.round()[0] == []
    path.write_text(text)
    os.utime(path, ns=(1, 1))
    events, _ = bench.round()
    assert [one.name for one in events] == (["torch.log"] if hooked else ["torch.log", "process.exception"])
    for one in events:
        assert (one.attributes[names.EXCEPTION_TYPE], one.attributes[names.EXCEPTION_MESSAGE]) == (
            "ValueError",
            "bad: batch",
        )
        assert one.body == stack
    assert bench.round()[0] == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"message": 7}', '{"message": {}}', '{"message": {"message": 7, "extraInfo": []}}', "\0"])  # fmt: skip
def test_an_error_file_of_another_make_harms_nothing(bench: Bench, tmp_path: Path, text: str) -> None:
    path = tmp_path / "error.json"
    path.write_text(text)
    bench.reader.holders = [bench.writer(tmp_path / "out.log", error_file=str(path))]
    for one in bench.round()[0]:
        assert one.name == "torch.log"


def test_the_probe_says_what_is_read_and_what_goes_to_a_terminal(bench: Bench, tmp_path: Path) -> None:
    probe = TrainingLogs(bench.context)
    out = Records(1)
    state = probe.check(1, out)
    assert state is not None and state.name == "off"
    holder = bench.writer(tmp_path / "out.log")
    process = Process(holder.pid, holder.start)
    process.role, process.session, process.environment = "rank", SESSION, {"RANK": "0", "LOCAL_RANK": "0"}
    bench.context.workload.add(process)
    deadline = time.monotonic() + 60
    told = None
    while (told is None or told.name != "ok") and time.monotonic() < deadline:
        probe.check(1, out)
        told = bench.context.coverage.state("training_logs", SESSION)
        bench.clock.advance(2)
        time.sleep(0.01)  # its thread reads in real time
    assert told is not None and told.name == "ok"
    probe.close()
