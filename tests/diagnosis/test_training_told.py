"""What logs and NCCL's RAS say of a training job stands beside a fault, and is none by itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from misstep.agent.torch import ras
from misstep.core import names

SECOND = 1_000_000_000
Captured = Callable[[str], Any]


def logged(replay: Any, at: int) -> Any:
    """The same job, and lines of its ranks 0 and 1 at a time, as the agent tells of them."""
    last = replay.rows[-1]
    for rank in (0, 1):
        told = {names.RANK: str(rank), names.TIMEOUT: "60000", names.OPERATION: "recv"}
        replay.rows.append(
            last._replace(
                seq=last.seq + 1 + rank, ts=at, received=at + SECOND, event="torch.log", state="gloo_timeout",
                entity=f"rank/{last.session}/{rank}", attributes=told, body="… Timed out waiting 60000ms for recv operation",
            )
        )  # fmt: skip
    return replay


def test_what_the_logs_say_stands_beside_a_fault(captured: Captured) -> None:
    plain = captured("torch_hang")
    replay = logged(captured("torch_hang"), plain.rows[-1].ts)
    (incident,) = replay.run()
    assert (incident.cause, incident.blamed[0]["name"]) == ("rank-stuck", "2")
    (said,) = [step for step in incident.data["chain"] if step["source"] == "training_logs"]
    assert "log that Gloo waited 60 s in vain" in said["statement"]
    assert said["role"] != "cause"
    assert len(said["evidence"]) == 2


def test_what_the_logs_say_is_no_fault_by_itself(captured: Captured) -> None:
    plain = captured("torch_pause")
    assert logged(captured("torch_pause"), plain.rows[len(plain.rows) // 2].ts).run() == []


def with_ras(replay: Any, *answers: dict[str, Any]) -> Any:
    """The same job, and what NCCL's RAS answered each ten seconds from its standstill on, as the agent tells it."""
    last = max(row.seq for row in replay.rows)
    began = max(row.ts for row in replay.rows if row.event == "torch.collective")
    for place, answer in enumerate(answers, 1):
        (one,) = ras.read(json.dumps({"communicators": [answer]}))
        replay.rows.append(
            replay.rows[-1]._replace(
                seq=last + place, row=0, ts=began + 10 * place * SECOND, received=began + 10 * place * SECOND, event="nccl.communicator",
                entity=f"session/{replay.session}", state=one.state, body=one.body(),
                attributes={names.COMMUNICATOR: one.hash, names.WORLD_SIZE: str(one.size), names.NCCL_PRESENT: str(one.present)},
            )
        )  # fmt: skip
    return replay


def communicator(begun: dict[int, int], missing: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    ranks = [{"rank": rank, "host": "n1", "pid": 900 + rank, "status": {"init_state": 0}, "collective_counts": {"AllReduce": number}} for rank, number in begun.items()]  # fmt: skip
    return {"hash": "0x2f24", "size": 4, "ranks_count": len(ranks), "ranks": ranks, "missing_ranks": missing or []}  # fmt: skip


def said_by_nccl(replay: Any) -> list[str]:
    (incident,) = replay.run(extra=40)
    assert (incident.cause, incident.blamed[0]["name"]) == ("rank-stuck", "2")
    found = [step for step in incident.data["chain"] if step["source"] == "nccl_ras"]
    assert all(step["evidence"] and step["role"] != "cause" for step in found)
    return [step["statement"] for step in found]


def test_whom_nccl_does_not_hear_stands_beside_a_fault_with_its_rank_in_the_job(captured: Captured) -> None:
    replay = captured("torch_hang")
    pid = next(int(row.attributes[names.PID]) for row in replay.rows if row.event == "torch.rank" and row.attributes[names.RANK] == "2")  # fmt: skip
    lost = {"rank": 0, "host": "n1", "pid": pid, "status": {"unresponsive": True}}
    (said,) = said_by_nccl(with_ras(replay, communicator({1: 7, 2: 7, 3: 7}, [lost])))
    assert said.endswith("hears nothing from rank 2 (communicator 0x2f24 of 4 ranks)")


def test_launches_that_stay_unequal_stand_beside_a_fault_and_those_of_a_moment_do_not(
    captured: Captured,
) -> None:
    behind = communicator({0: 23, 1: 23, 2: 22, 3: 23})
    (said,) = said_by_nccl(with_ras(captured("torch_hang"), behind, behind))
    assert "counts AllReduce launched 22 times by rank 2, 23 times by ranks 0, 1, 3" in said
    assert said_by_nccl(with_ras(captured("torch_hang"), behind)) == []
    assert said_by_nccl(with_ras(captured("torch_hang"), behind, communicator({0: 24, 1: 23, 2: 23, 3: 23}))) == []  # fmt: skip


def test_what_nccl_says_is_no_fault_by_itself(captured: Captured) -> None:
    lost = {"rank": 0, "host": "n1", "pid": 1, "status": {"unresponsive": True}}
    assert with_ras(captured("torch_pause"), communicator({1: 7}, [lost])).run() == []
