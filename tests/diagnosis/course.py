"""Synthetic sessions: events as a cluster of two nodes would send them, built step by step."""

from __future__ import annotations

import json
from typing import Any

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
