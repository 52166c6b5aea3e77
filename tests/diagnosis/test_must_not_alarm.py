"""What must stay silent, as synthetic sessions: each is a list of events that a healthy or wanted course sends.

The counterpart stands beside it where one event decides, so that silence is not bought with blindness.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from misstep.diagnosis import Incident
from misstep.store.rows import LogRow

SECOND = 1_000_000_000
START = 1_795_234_000 * SECOND
SESSION = "local/ray/ray/synthetic"
HEAD, WORK = "aa" * 28, "bb" * 28
JOB = "01000000"


class Course:
    """Builds rows; times are seconds from the start, and arrival follows 0.3 s later."""

    def __init__(self) -> None:
        self.rows: list[LogRow] = []

    def event(
        self, at: float, event: str, entity: str, state: str = "", body: Any = None, **attributes: Any
    ) -> Course:
        ts = START + int(at * SECOND)
        named = {key.replace("__", "."): str(value) for key, value in attributes.items()}
        text = body if isinstance(body, str) else json.dumps(body or {})
        self.rows.append(
            LogRow(
                len(self.rows) + 1,
                0,
                ts + 3 * SECOND // 10,
                ts,
                event,
                9,
                SESSION,
                entity,
                state,
                text,
                named,
                {"host.name": "vm"},
            )
        )
        return self

    def cluster(self) -> Course:
        for id, name, cpus in ((HEAD, "head", 2.0), (WORK, "node-2", 4.0)):
            resources = {"CPU": cpus} | ({"node:__internal_head__": 1.0} if id == HEAD else {})
            self.event(
                0,
                "ray.node.definition",
                f"ray_node/{id}",
                body={"nodeId": id, "nodeIpAddress": "192.0.2.2", "nodeName": name},
            )
            alive = {"stateTransitions": [{"state": "ALIVE", "resources": resources}]}
            self.event(0, "ray.node.lifecycle", f"ray_node/{id}", "ALIVE", alive)
        body = {"jobId": JOB, "driverPid": "100", "entrypoint": "python train.py"}
        return self.event(1, "ray.job.definition", f"job/{JOB}", body=body).event(
            1, "ray.job.lifecycle", f"job/{JOB}", "CREATED"
        )

    def small(self) -> Course:
        """One node with two CPUs."""
        self.event(0, "ray.node.definition", f"ray_node/{HEAD}", body={"nodeId": HEAD, "nodeName": "head"})
        resources = {"CPU": 2.0, "node:__internal_head__": 1.0}
        alive = {"stateTransitions": [{"state": "ALIVE", "resources": resources}]}
        self.event(0, "ray.node.lifecycle", f"ray_node/{HEAD}", "ALIVE", alive)
        body = {"jobId": JOB, "driverPid": "100", "entrypoint": "python train.py"}
        return self.event(1, "ray.job.definition", f"job/{JOB}", body=body)

    def actor(self, at: float, number: int, class_name: str, resources: dict[str, float]) -> Course:
        """One that was created and lives."""
        id = f"{number:024x}" + JOB
        task = "f" * 16 + id
        body = {
            "taskId": task, "taskType": "ACTOR_CREATION_TASK", "taskName": f"{class_name}.__init__", "jobId": JOB, "actorId": id,
            "taskFunc": {"pythonFunctionDescriptor": {"className": class_name, "functionName": "__init__"}}, "requiredResources": resources,
        }  # fmt: skip
        self.event(at, "ray.task.definition", f"task/{task}", body=body)
        self.event(at, "ray.actor.definition", f"actor/{id}", body={"className": class_name, "jobId": JOB})
        alive = {"stateTransitions": [{"state": "ALIVE", "workerId": W1, "nodeId": HEAD, "pid": 200}]}
        return self.event(at, "ray.actor.lifecycle", f"actor/{id}", "ALIVE", alive)

    def group(self, at: float, number: int, cpus: float, state: str = "CREATED") -> Course:
        id = f"{number:028x}" + JOB
        bundles = [{"bundleIndex": 0, "unitResources": {"CPU": cpus}}]
        body = {"placementGroupId": id, "name": f"g{number}", "creatorJobId": JOB, "bundles": bundles}
        self.event(at, "ray.placement_group.definition", f"group/{id}", body=body)
        return self.event(at, "ray.placement_group", f"group/{id}", state, {"creatorJobId": JOB})

    def task(
        self,
        at: float,
        number: int,
        name: str,
        resources: dict[str, float] | None = None,
        *,
        parent: str = "",
    ) -> Course:
        id = f"{number:016x}" + "f" * 24 + JOB
        body = {
            "taskId": id, "taskType": "NORMAL_TASK", "taskName": name, "jobId": JOB, "parentTaskId": parent,
            "taskFunc": {"pythonFunctionDescriptor": {"functionName": name}}, "requiredResources": resources or {"CPU": 1.0},
        }  # fmt: skip
        self.event(at, "ray.task.definition", f"task/{id}", body=body)
        return self.step(at, number, "PENDING_NODE_ASSIGNMENT")

    def step(
        self,
        at: float,
        number: int,
        state: str,
        *,
        attempt: int = 0,
        worker: str = "",
        error: tuple[str, str] | None = None,
        node: str = "",
    ) -> Course:
        id = f"{number:016x}" + "f" * 24 + JOB
        body: dict[str, Any] = {
            "taskId": id,
            "taskAttempt": attempt,
            "stateTransitions": [{"state": state}],
            "jobId": JOB,
        }
        named: dict[str, Any] = {"ray__task__id": id, "ray__task__attempt": attempt, "ray__job__id": JOB}
        if error:
            body["rayErrorInfo"] = {"errorType": error[0], "errorMessage": error[1]}
            named["ray__error__type"] = error[0]
        named |= {"ray__worker__id": worker} if worker else {}
        named |= {"ray__node__id": node} if node else {}
        return self.event(at, "ray.task.lifecycle", f"task/{id}", state, body, **named)

    def worker(self, at: float, id: str, pid: int, node: str = WORK) -> Course:
        body = {"workerId": id, "nodeId": node, "pid": pid, "workerType": "WORKER"}
        return self.event(at, "ray.worker.definition", f"ray_worker/{id}", body=body, process__pid=pid)

    def worker_dies(self, at: float, id: str, kind: str, detail: str) -> Course:
        body = {
            "workerId": id,
            "jobId": JOB,
            "stateTransitions": [{"state": "DEAD", "deathInfo": {"exitType": kind, "exitDetail": detail}}],
        }
        return self.event(
            at,
            "ray.worker.lifecycle",
            f"ray_worker/{id}",
            "DEAD",
            body,
            ray__job__id=JOB,
            ray__worker__exit_type=kind,
        )

    def node_dies(self, at: float, reason: str, message: str) -> Course:
        body = {
            "nodeId": WORK,
            "stateTransitions": [
                {"state": "DEAD", "deathInfo": {"reason": reason, "reasonMessage": message}}
            ],
        }
        return self.event(at, "ray.node.lifecycle", f"ray_node/{WORK}", "DEAD", body)

    def driver_ends(self, at: float, code: int | None = 0, signal: str = "") -> Course:
        self.event(at - 0.2, "ray.job.lifecycle", f"job/{JOB}", "FINISHED")
        named: dict[str, Any] = {"process__pid": 100, "misstep__process__role": "ray_driver"}
        named |= {"process__exit__signal": signal} if signal else {"process__exit__code": code}
        return self.event(at, "process.exit", "process/x/100/1", "killed" if signal else "exited", **named)

    def until(self, at: float) -> Course:
        """A record that says nothing, so that the ticks go on to then."""
        return self.event(at, "ray.demand", f"session/{SESSION}", body={"pending": []})


BROKEN = "Worker unexpectedly exits with a connection error code 2. End of file."
TERMINATED = "Worker exits unexpectedly. Worker exits with an exit code 1. The process receives a SIGTERM."
W1, W2 = "c1" * 28, "c2" * 28
BOOM = (
    "TASK_EXECUTION_EXCEPTION",
    "User exception:\nray::boom() (pid=200, ip=192.0.2.2)\n  File \"/home/ray/train.py\", line 9, in boom\nKeyError: 'k'",
)


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
