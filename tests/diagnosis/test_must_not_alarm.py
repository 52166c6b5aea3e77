"""What must stay silent, as synthetic sessions: each is a list of events that a healthy or wanted course sends.

What differs from it in the one event that decides stands in `test_must_alarm`, so that silence is not bought with blindness.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.diagnosis.course import BOOM, BROKEN, JOB, SESSION, TERMINATED, W1, W2, WORK, Course

from misstep.diagnosis import Incident


def retried_crash() -> Course:
    c = (
        Course()
        .cluster()
        .worker(1, W1, 200)
        .worker(1, W2, 201)
        .task(2, 1, "flaky")
        .step(2.1, 1, "SUBMITTED_TO_WORKER", worker=W1)
    )
    c.worker_dies(4, W1, "SYSTEM_ERROR", BROKEN).step(
        4, 1, "FAILED", worker=W1, error=("WORKER_DIED", "RpcError: Socket closed")
    )
    c.step(4.5, 1, "SUBMITTED_TO_WORKER", attempt=1, worker=W2)
    return c.step(12, 1, "FINISHED", attempt=1, worker=W2).driver_ends(14)


def handled_exception() -> Course:
    c = Course().cluster().task(2, 1, "boom").step(2.1, 1, "RUNNING").step(3, 1, "FAILED", error=BOOM)
    return c.task(3.2, 2, "other").step(3.3, 2, "RUNNING").step(6, 2, "FINISHED").driver_ends(7)


def handled_exception_and_a_long_task() -> Course:
    c = Course().cluster().task(2, 1, "boom").step(2.1, 1, "RUNNING").step(3, 1, "FAILED", error=BOOM)
    return c.task(3.2, 2, "train").step(3.3, 2, "RUNNING").until(60)


def drained_node() -> Course:
    c = Course().cluster().task(2, 1, "far").step(2.1, 1, "SUBMITTED_TO_WORKER", node=WORK, worker=W1)
    c.step(
        5, 1, "FAILED", node=WORK, error=("NODE_DIED", f"Task failed due to the node dying. node id: {WORK}")
    )
    c.node_dies(5.2, "AUTOSCALER_DRAIN_IDLE", "idle for long")
    return c.step(6, 1, "SUBMITTED_TO_WORKER", attempt=1).step(8, 1, "FINISHED", attempt=1).until(15)


def stopped_ray() -> Course:
    """`ray stop` under a driver that `ray start` does not own: the raylet ends at SIGTERM, then the driver."""
    c = Course().cluster()
    c.event(
        0,
        "process.start",
        "process/x/50/1",
        process__pid=50,
        misstep__process__role="raylet",
        misstep__parent="process/x/1/1",
    )
    c.event(
        9,
        "process.exit",
        "process/x/50/1",
        "exited",
        process__pid=50,
        misstep__process__role="raylet",
        process__exit__code=0,
    )
    return c.event(
        9.5, "process.exit", "process/x/100/1", "exited", process__pid=100, process__exit__code=1
    ).until(20)


def interrupted() -> Course:
    return (
        Course()
        .cluster()
        .task(2, 1, "slow")
        .step(2.1, 1, "RUNNING")
        .driver_ends(5, signal="SIGINT")
        .until(15)
    )


def stopped_job() -> Course:
    c = Course().cluster()
    c.event(6, "ray.submission", f"job/{JOB}", "STOPPED", {"status": "STOPPED"}, ray__job__id=JOB)
    return c.driver_ends(6.5, signal="SIGTERM").until(15)


def queue_behind_work() -> Course:
    c = Course().cluster()
    for number in range(1, 7):
        c.task(2, number, "work").step(2.2, number, "RUNNING")
    for number in range(7, 20):
        c.task(2, number, "work")
    return c.until(60)


def a_while_of_waiting() -> Course:
    """Asked for before the node that offers it had joined."""
    c = Course().cluster().task(2, 1, "train", {"GPU": 1.0})
    c.event(
        5,
        "ray.node.lifecycle",
        f"ray_node/{'cc' * 28}",
        "ALIVE",
        {"stateTransitions": [{"state": "ALIVE", "resources": {"GPU": 8.0}}]},
    )
    return c.step(6, 1, "SUBMITTED_TO_WORKER").step(6.5, 1, "RUNNING").until(30)


def cancelled() -> Course:
    c = (
        Course()
        .cluster()
        .worker(1, W1, 200)
        .task(2, 1, "slow")
        .step(2.1, 1, "SUBMITTED_TO_WORKER", worker=W1)
    )
    c.worker_dies(
        4,
        W1,
        "INTENDED_USER_EXIT",
        "The worker exits because the task slow has received a force ray.cancel request.",
    )
    return c.step(4, 1, "FAILED", worker=W1, error=("TASK_CANCELLED", "")).until(20)


def idle_workers() -> Course:
    c = Course().cluster().worker(1, W1, 200)
    c.worker_dies(8, W1, "INTENDED_SYSTEM_EXIT", "Worker exited because it was idle for a long time")
    return c.event(
        8.1, "process.exit", "process/x/200/1", "killed", process__pid=200, process__exit__signal="SIGKILL"
    ).until(20)


def workers_after_the_driver() -> Course:
    c = (
        Course()
        .cluster()
        .worker(1, W1, 200)
        .task(2, 1, "work")
        .step(2.1, 1, "SUBMITTED_TO_WORKER", worker=W1)
    )
    c.step(3, 1, "FINISHED", worker=W1).driver_ends(4)
    return c.worker_dies(4.5, W1, "SYSTEM_ERROR", BROKEN).until(12)


def slow_environment_beside_an_idle_actor() -> Course:
    """A task waits for its environment for a minute; the actor that idles leaves it room enough."""
    c = Course().small().actor(1.5, 1, "Cache", {"CPU": 1.0}).task(2, 1, "tokenize")
    return c.until(60).step(61, 1, "RUNNING").step(62, 1, "FINISHED").until(70)


def child_of_a_parent_that_gave_its_cpu_back() -> Course:
    c = Course().small().task(2, 1, "parent", {"CPU": 2.0}).step(2.2, 1, "RUNNING")
    c.task(3, 2, "child", parent=f"{1:016x}" + "f" * 24 + JOB)
    return c.until(40).step(41, 2, "RUNNING").step(42, 2, "FINISHED").until(45)


def group_whose_work_goes_on() -> Course:
    c = (
        Course()
        .small()
        .group(2, 1, 1.0)
        .task(3, 1, "inside", {"CPU_group_0_aa": 1.0})
        .step(3.1, 1, "RUNNING")
    )
    return c.task(4, 2, "outside", {"CPU": 2.0}).until(40)


def removed_group() -> Course:
    c = Course().small().group(2, 1, 2.0).group(4, 1, 2.0, "REMOVED").task(5, 1, "after")
    return c.until(40)


def sigterm_while_ray_takes_an_actor_down() -> Course:
    c = Course().small().actor(1.5, 1, "Cache", {"CPU": 1.0}).worker(1, W1, 200).driver_ends(4)
    return c.worker_dies(4.4, W1, "SYSTEM_ERROR", TERMINATED).until(12)


def driver_that_takes_its_time_to_end() -> Course:
    c = Course().small().event(1, "process.start", "process/x/100/1", process__pid=100)
    c.task(2, 1, "flaky").step(2.1, 1, "RUNNING").step(3, 1, "FAILED", error=BOOM)
    c.step(4, 1, "RUNNING", attempt=1).step(4.5, 1, "FINISHED", attempt=1)
    c.event(5, "ray.job.lifecycle", f"job/{JOB}", "FINISHED")
    return c.driver_ends(11).until(20)


QUIET = [
    driver_that_takes_its_time_to_end,
    slow_environment_beside_an_idle_actor, child_of_a_parent_that_gave_its_cpu_back, group_whose_work_goes_on, removed_group,
    sigterm_while_ray_takes_an_actor_down,
    retried_crash, handled_exception, handled_exception_and_a_long_task, drained_node, stopped_ray, interrupted, stopped_job,
    queue_behind_work, a_while_of_waiting, cancelled, idle_workers, workers_after_the_driver,
]  # fmt: skip


@pytest.mark.parametrize("course", QUIET, ids=lambda course: course.__name__)
def test_stays_silent_at_every_tick(
    course: Callable[[], Course], replayed: Callable[..., list[Incident]]
) -> None:
    shown: list[str] = []
    replayed(
        course().rows,
        SESSION,
        each=lambda _, found: shown.extend(i.data["title"] for i in found if i.status != "recovered"),
    )
    assert shown == []
