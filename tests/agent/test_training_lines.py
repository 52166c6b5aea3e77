"""Lines that NCCL, Gloo, PyTorch's watchdog, torchrun and DeepSpeed wrote, and what only looks like them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from misstep.agent.torch.lines import recognise, who
from misstep.core import names

DATA = Path(__file__).parent.parent / "data" / "torch"

# From issues of pytorch, nccl and DeepSpeed (3232); the NCCL prefix of the two of initialisation is of the same source.
LINES: list[tuple[str, tuple[str, int, int, int], dict[str, Any]]] = [
    (
        "[2026-05-05 06:16:47] node-01:189884:189884 [3] plugin/net.cc:334 NCCL WARN Failed to initialize any NET plugin",
        ("nccl_warning", -1, -1, 189884), {},
    ),
    (
        "node-01:205631:205700 [0] NCCL INFO [Rank 0] ncclCommInitRankConfig comm 0x55d rank 0 nranks 2 cudaDev 0 nvmlDev 0 busId 1901000 commId 0x2f24707b1170cb7f - Init START",
        ("init_start", 0, -1, 205631), {names.COMMUNICATOR: "0x55d", names.WORLD_SIZE: 2},
    ),
    (
        "node-01:205631:205700 [0] NCCL INFO ncclCommSplit comm 0x5 rank 0 nranks 8 cudaDev 0 nvmlDev 0 busId 1b000 parent 0x7f childCount 1 color 123 key 0- Init COMPLETE",
        ("init_complete", -1, -1, 205631), {names.COMMUNICATOR: "0x5", names.WORLD_SIZE: 8},
    ),
    (
        "[rank1]:[E626 06:24:44.903881913 ProcessGroupNCCL.cpp:616] [Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=808, OpType=ALLREDUCE, NumelIn=9801523, NumelOut=9801523, Timeout(ms)=600000) ran for 600020 milliseconds before timing out.",
        ("watchdog_timeout", 1, -1, 0),
        {names.SEQUENCE: 808, names.OPERATION: "ALLREDUCE", names.SIZES: "9801523", names.TIMEOUT: 600000, names.WAITED: 600020},
    ),
    (
        "[E ProcessGroupNCCL.cpp:458] [Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=96120, OpType=ALLREDUCE, Timeout(ms)=1800000) ran for 25624887 milliseconds before timing out.",
        ("watchdog_timeout", 0, -1, 0),
        {names.SEQUENCE: 96120, names.OPERATION: "ALLREDUCE", names.TIMEOUT: 1800000, names.WAITED: 25624887},
    ),
    (
        "[PG ID 0 PG GUID 0(default_pg) Rank 1] Exception (either an error or timeout) detected by watchdog at work: 808, last enqueued NCCL work: 811, last completed NCCL work: 807.",
        ("work_status", 1, -1, 0),
        {names.GROUP: "0", names.GROUP_LABEL: "default_pg", names.SEQUENCE: 808, names.BEGUN: 811, names.ENDED: 807},
    ),
    (
        "[PG 1 Rank 0] Exception (either an error or timeout) detected by watchdog at work: 1580, last enqueued NCCL work: 1582, last completed NCCL work: 1579.",
        ("work_status", -1, -1, 0), {names.GROUP: "1", names.SEQUENCE: 1580, names.BEGUN: 1582, names.ENDED: 1579},
    ),
    (
        "[PG ID 0 PG GUID 0(default_pg) Rank 118]  failure detected by watchdog at work sequence id: 2398459 PG status: last enqueued work: 2398578, last completed work: 2398458",
        ("work_status", 118, -1, 0),
        {names.GROUP: "0", names.GROUP_LABEL: "default_pg", names.SEQUENCE: 2398459, names.BEGUN: 2398578, names.ENDED: 2398458},
    ),
    (
        "[PG ID 0 PG GUID 0(default_pg) Rank 3] Received a dump signal due to a collective timeout from  rank 0 and we will try our best to dump the debug info. Last enqueued NCCL work: -1, last completed NCCL work: -1.This is most likely",
        ("dump_signal", 3, -1, 0), {names.GROUP: "0", names.OTHER_RANK: 0, names.BEGUN: -1, names.ENDED: -1},
    ),
    (
        "what():  [enforce fail at /__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:456] op.preamble.length <= op.nbytes. 32768 vs 32640. Received data size",
        ("size_mismatch", -1, -1, 0), {names.SIZES: "32768 vs 32640"},
    ),
    (
        "[2023-04-14 13:11:27,879] [INFO] [launch.py:428:sigkill_handler] Killing subprocess 13266",
        ("rank_ended", -1, -1, 13266), {},
    ),
    (
        "[2023-04-14 13:11:27,885] [ERROR] [launch.py:434:sigkill_handler] ['/usr/bin/python3', '-u', 'main.py', '--local_rank=0', '--seed', '1234', '--deepspeed'] exits with return code = -9",
        ("rank_failed", -1, 0, 0), {names.EXIT_SIGNAL: "SIGKILL"},
    ),
    (
        "W1120 09:53:08.568000 30621 torch/distributed/elastic/agent/server/api.py:753] Received 15 death signal, shutting down workers",
        ("launcher_ended", -1, -1, 0), {names.EXIT_SIGNAL: "SIGTERM"},
    ),
]  # fmt: skip
PLAIN = (
    "node-01:986207:986207 NCCL CALL ncclGroupStart()",
    "2e5hmh4t0q1th5f:205631:205631 [0] NCCL INFO cudaDriverVersion 12080",
    "node-01:1:1 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] [send] via NET/Socket/0",
    "step 12 loss 0.5, the watchdog sleeps",
    "using gloo/transport for tests",
    "",
)


@pytest.mark.parametrize(("line", "about", "attributes"), LINES, ids=[one[1][0] for one in LINES])
def test_what_a_line_says(line: str, about: tuple[str, int, int, int], attributes: dict[str, Any]) -> None:
    found = recognise(line.encode())
    assert found is not None
    assert (found.kind, found.rank, found.local, found.pid) == about
    assert found.attributes == attributes
    assert found.kind in names.event("torch.log").states


@pytest.mark.parametrize("line", PLAIN)
def test_what_says_nothing(line: str) -> None:
    assert recognise(line.encode()) is None


def test_whose_a_line_is() -> None:
    assert who("[default3]:[rank7]: Traceback (most recent call last):") == (7, 3)
    assert who("[rank7]:[E626 06:24:44] [PG ID 2 PG GUID 5(tp_0) Rank 1] …") == (7, -1)
    assert who("[PG ID 2 PG GUID 5(tp_0) Rank 1] counts within its group") == (-1, -1)
    assert who("[trainer0]:epoch 1") == (-1, 0)
    assert who("epoch 1 [default0]") == (-1, -1)


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("kill", [("rank_ended", 12386), ("rank_ended", 12387), ("rank_ended", 12393), ("rank_failed", 12394)]),
        ("order", [("gloo_timeout", 0)] * 4 + [("rank_ended", 5658), ("rank_ended", 5659), ("rank_ended", 5660), ("rank_failed", 5657)]),
        ("shape", [("rank_ended", 11041), ("rank_ended", 11043), ("rank_ended", 11044), ("rank_failed", 11042), ("size_mismatch", 0)]),
    ],
)  # fmt: skip
def test_what_real_jobs_wrote(case: str, told: list[tuple[str, int]]) -> None:
    held = (DATA / case / "stderr.log").read_bytes().splitlines()
    found = [one for line in held if (one := recognise(line)) is not None]
    assert sorted((one.kind, one.pid) for one in found) == sorted(told)
    assert all(one.rank == one.local for one in found if one.kind == "gloo_timeout")


_WORDS = ["NCCL WARN ", "[Rank 1] ", "Watchdog caught collective operation timeout: WorkNCCL(SeqNum=", "gloo/transport/", "Timed out waiting ", "[PG ID 0 ", "PG GUID ", "Detected mismatch between collectives on ranks. Rank 1 is running collective: CollectiveFingerPrint(SequenceNumber=1, OpType=A", "but Rank 2 is running collective: CollectiveFingerPrint(", "[launch.py:1:sigkill_handler] ", "--local_rank=", "exitcode: ", "9" * 30, "0x", ":", " ", "]", "\x1b[31m", "\udcff"]  # fmt: skip


@given(st.lists(st.sampled_from(_WORDS) | st.text(max_size=5), max_size=40))
def test_whatever_is_written_is_read_in_bounds(parts: list[str]) -> None:
    found = recognise("".join(parts).encode("utf-8", "surrogateescape"))
    if found is not None:
        assert all(not isinstance(value, str) or len(value) <= 100 for value in found.attributes.values())


@pytest.mark.parametrize("word", _WORDS)
def test_no_line_takes_long(word: str) -> None:
    line = (word * 16384).encode("utf-8", "surrogateescape")[:16384]
    started = time.process_time()
    recognise(b"NCCL gloo/ exitcode: sigkill_handler " + line)
    assert time.process_time() - started < 0.1
