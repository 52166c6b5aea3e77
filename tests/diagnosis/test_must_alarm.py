"""The counterparts of what must stay silent: they differ in one event that decides, and are told, once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.diagnosis.course import BOOM, BROKEN, JOB, SECOND, SESSION, START, TERMINATED, W1, WORK, Course

from misstep.diagnosis import Incident


def crash_without_retries_left() -> Course:
    c = (
        Course()
        .cluster()
        .worker(1, W1, 200)
        .task(2, 1, "flaky")
        .step(2.1, 1, "SUBMITTED_TO_WORKER", worker=W1)
    )
    c.worker_dies(4, W1, "SYSTEM_ERROR", BROKEN).step(
        4, 1, "FAILED", worker=W1, error=("WORKER_DIED", "RpcError: Socket closed")
    )
    return c.event(
        4, "process.exit", "process/x/200/1", "killed", process__pid=200, process__exit__signal="SIGBUS"
    ).until(12)


def unhandled_exception() -> Course:
    return (
        Course()
        .cluster()
        .task(2, 1, "boom")
        .step(2.1, 1, "RUNNING")
        .step(3, 1, "FAILED", error=BOOM)
        .driver_ends(3.6, 1)
        .until(12)
    )


def killed_raylet() -> Course:
    """The raylet's process tells at once; Ray's own word comes 14 s later; the deaths on it are consequences."""
    c = (
        Course()
        .cluster()
        .worker(1, W1, 200)
        .task(2, 1, "far")
        .step(2.1, 1, "SUBMITTED_TO_WORKER", node=WORK, worker=W1)
    )
    c.event(
        0,
        "process.start",
        "process/x/50/1",
        process__pid=50,
        misstep__process__role="raylet",
        misstep__node=f"ray_node/{WORK}",
    )
    c.event(
        5,
        "process.exit",
        "process/x/50/1",
        "killed",
        process__pid=50,
        misstep__process__role="raylet",
        process__exit__signal="SIGKILL",
    )
    c.event(5.3, "process.exit", "process/x/200/1", "exited", process__pid=200, process__exit__code=1)
    c.worker_dies(5.4, W1, "SYSTEM_ERROR", BROKEN)
    c.step(
        6, 1, "FAILED", node=WORK, error=("NODE_DIED", f"Task failed due to the node dying. node id: {WORK}")
    )
    return c.node_dies(
        19, "UNEXPECTED_TERMINATION", "health check failed due to missing too many heartbeats"
    ).until(25)


def lost_heartbeats() -> Course:
    return (
        Course()
        .cluster()
        .node_dies(19, "UNEXPECTED_TERMINATION", "health check failed due to missing too many heartbeats")
        .until(25)
    )


def killed_by_the_kernel() -> Course:
    c = (
        Course()
        .cluster()
        .worker(1, W1, 200)
        .task(2, 1, "load")
        .step(2.1, 1, "SUBMITTED_TO_WORKER", worker=W1)
    )
    c.event(
        4,
        "kernel.oom_kill",
        "process/x/200/1",
        "",
        "Memory cgroup out of memory: Killed process 200 (ray::load)",
        process__pid=200,
    )
    c.event(
        4.01, "process.exit", "process/x/200/1", "killed", process__pid=200, process__exit__signal="SIGKILL"
    )
    return (
        c.worker_dies(4.1, W1, "SYSTEM_ERROR", BROKEN)
        .step(4.1, 1, "FAILED", worker=W1, error=("WORKER_DIED", "RpcError"))
        .until(12)
    )


def asks_for_a_resource_that_nobody_has() -> Course:
    return Course().cluster().task(2, 1, "train", {"GPU": 1.0}).until(30)


def terminated_task() -> Course:
    """Ray turns SIGTERM into exit code 1 and says so; then it kills what is left of the process."""
    c = Course().cluster().worker(1, W1, 200).task(2, 1, "load")
    c.step(2.1, 1, "SUBMITTED_TO_WORKER", worker=W1).worker_dies(4, W1, "SYSTEM_ERROR", TERMINATED)
    c.event(
        4.1, "process.exit", "process/x/200/1", "killed", process__pid=200, process__exit__signal="SIGKILL"
    )
    return c.step(4.1, 1, "FAILED", worker=W1, error=("WORKER_DIED", "RpcError")).until(12)


def failed_check_of_rays_own() -> Course:
    c = (
        Course()
        .cluster()
        .worker(1, W1, 200)
        .task(2, 1, "load")
        .step(2.1, 1, "SUBMITTED_TO_WORKER", worker=W1)
    )
    c.event(
        4,
        "",
        "",
        body="[2026-11-21 C 200 200] core.cc:7:  Check failed: ref.has_value() lost",
        ray__worker__id=W1,
    )
    c.worker_dies(4.1, W1, "SYSTEM_ERROR", BROKEN)
    c.event(4.1, "process.exit", "process/x/200/1", "exited", process__pid=200, process__exit__code=1)
    return c.step(4.2, 1, "FAILED", worker=W1, error=("WORKER_DIED", "RpcError")).until(12)


def aborted_driver_amid_failures() -> Course:
    """What the driver had caught a moment before is not what it crashed of."""
    c = Course().cluster().task(2, 1, "boom").step(2.1, 1, "RUNNING").step(3, 1, "FAILED", error=BOOM)
    return c.driver_ends(3.6, signal="SIGABRT").until(20)


def exception_long_after_one_that_was_caught() -> Course:
    """Ticks go on for a while after the end; what the driver had caught must not come back then."""
    other = (BOOM[0], BOOM[1].replace("boom", "merge").replace("line 9", "line 20"))
    c = Course().cluster().task(2, 1, "boom").step(2.1, 1, "RUNNING").step(3, 1, "FAILED", error=BOOM)
    c.task(5, 2, "merge").step(5.1, 2, "RUNNING").step(6, 2, "FAILED", error=other)
    text = 'Traceback (most recent call last):\n  File "/home/ray/train.py", line 30, in <module>\n'
    text += "ray.exceptions.RayTaskError(KeyError): " + other[1].partition("\n")[2]
    c.event(6.2, "process.exception", "process/x/100/1", body=text, process__pid=100)
    return c.driver_ends(6.5, 1).until(40)


def group_behind_a_group() -> Course:
    return Course().small().group(2, 1, 2.0).group(3, 2, 1.0, "PENDING").until(40)


def group_that_outlives_its_driver() -> Course:
    c = Course().small().group(2, 1, 2.0).event(4, "ray.job.lifecycle", f"job/{JOB}", "FINISHED")
    body = {"jobId": "02000000", "driverPid": "101", "entrypoint": "python report.py"}
    c.event(5, "ray.job.definition", "job/02000000", body=body)
    id = f"{7:016x}" + "f" * 24 + "02000000"
    task = {
        "taskId": id,
        "taskType": "NORMAL_TASK",
        "taskName": "report",
        "jobId": "02000000",
        "requiredResources": {"CPU": 1.0},
    }
    c.event(6, "ray.task.definition", f"task/{id}", body=task)
    return c.event(6, "ray.task.lifecycle", f"task/{id}", "PENDING_NODE_ASSIGNMENT", {"taskId": id}).until(40)


def asks_for_long_for_what_nobody_has() -> Course:
    """Ray's autoscaler tells the same demand again and again, without saying whose it is."""
    c = Course().small().task(2, 1, "train", {"CPU": 1.0, "GPU": 8.0})
    pending = {
        "resources": {"CPU": 1.0, "GPU": 8.0},
        "what": "tasks_or_actors",
        "fits": False,
        "lacking": {"GPU": {}},
        "waiting": 1,
    }
    for at in range(5, 1000, 30):
        c.event(at, "ray.demand", f"session/{SESSION}", body={"pending": [pending], "nodes": []})
    return c


LOUD = [
    (asks_for_long_for_what_nobody_has, "infeasible-resources", "train"),
    (group_that_outlives_its_driver, "resources-held", "placement group g1"),
    (terminated_task, "process-killed", "load"),
    (failed_check_of_rays_own, "process-exit", "load"),
    (aborted_driver_amid_failures, "native-crash", "train.py"),
    (exception_long_after_one_that_was_caught, "user-exception", "merge"),
    (group_behind_a_group, "resources-held", "placement group g1"),
    (crash_without_retries_left, "native-crash", "flaky"),
    (unhandled_exception, "user-exception", "boom"),
    (killed_raylet, "ray-node-lost", "node-2"),
    (lost_heartbeats, "ray-node-lost", "node-2"),
    (killed_by_the_kernel, "kernel-oom-kill", "load"),
    (asks_for_a_resource_that_nobody_has, "infeasible-resources", "train"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("course", "cause", "blamed"), LOUD, ids=lambda value: getattr(value, "__name__", None)
)
def test_its_counterpart_is_told_once(
    course: Callable[[], Course], cause: str, blamed: str, replayed: Callable[..., list[Incident]]
) -> None:
    found = [i for i in replayed(course().rows, SESSION) if i.status != "recovered"]
    assert [(i.cause, i.blamed[0]["name"]) for i in found] == [(cause, blamed)]


def test_a_killed_raylet_is_told_before_ray_notices(replayed: Callable[..., list[Incident]]) -> None:
    (incident,) = replayed(killed_raylet().rows, SESSION)
    assert incident.data["opened_ns"] - incident.data["onset_ns"] <= 2 * SECOND
    assert incident.blamed[0]["attributes"]["signal"] == "SIGKILL"


@pytest.mark.parametrize(("cores", "told"), [(0.9, False), (0.02, True)])
def test_a_driver_that_computes_after_a_failure_waits_for_nobody(
    cores: float, told: bool, replayed: Callable[..., list[Incident]]
) -> None:
    c = Course().small().task(2, 1, "boom").step(2.1, 1, "RUNNING").step(3, 1, "FAILED", error=BOOM)
    labels = {"process.pid": "100", "misstep.entity": "process/x/100/1"}
    samples = [("process.cpu.time", labels, START + at * SECOND, cores * at) for at in range(40)]
    shown: list[Incident] = []
    replayed(c.until(30).rows, SESSION, samples=samples, each=lambda _, found: shown.extend(found))
    assert bool(shown) == told


def test_a_failed_check_is_not_called_an_exit_of_the_users(replayed: Callable[..., list[Incident]]) -> None:
    (incident,) = replayed(failed_check_of_rays_own().rows, SESSION)
    assert "Ray's own code" in incident.data["sentence"]
    assert "os._exit" not in incident.data["sentence"]


@pytest.mark.parametrize(
    ("code", "cause"),
    [(-11, "native-crash"), (134, "native-crash"), (137, "driver-exit"), (3, "driver-exit")],
)
def test_a_submitted_drivers_exit_code_that_stands_for_a_signal_is_read_as_one(
    code: int, cause: str, replayed: Callable[..., list[Incident]]
) -> None:
    c = Course().small()
    body = {"entrypoint": "python train.py", "driverExitCode": code, "message": ""}
    c.event(4, "ray.submission", f"job/{JOB}", "FAILED", body, ray__job__id=JOB)
    (incident,) = replayed(c.event(4, "ray.job.lifecycle", f"job/{JOB}", "FINISHED").until(12).rows, SESSION)
    assert incident.cause == cause


def test_a_thousand_failures_of_one_line_are_one_incident(replayed: Callable[..., list[Incident]]) -> None:
    c = Course().cluster()
    for number in range(1, 1200):
        c.task(2, number, "boom").step(2.5, number, "FAILED", error=BOOM)
    (incident,) = replayed(c.driver_ends(4, 1).rows, SESSION, extra=3)
    assert incident.cause == "user-exception"
    assert incident.data["impact"]["attempts"] >= 400
