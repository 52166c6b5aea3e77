"""The causes that Misstep knows."""

from __future__ import annotations

from misstep.diagnosis import xids
from misstep.diagnosis.catalogue import Cause
from misstep.diagnosis.causes import cluster, code, death, gpu, memory, scheduling, straggler, training

_DEATH = frozenset(
    {
        "worker.died", "actor.died", "actor.restarts", "task.lost_worker", "task.lost_actor", "process.ended", "crash.report", "task.lost_object",
        "actor.lost_node",
    }
)  # fmt: skip
_MEMORY = _DEATH | {"worker.out_of_memory", "task.out_of_memory", "memory.growth"}
_RAISED = frozenset({"task.raised", "actor.init_failed", "worker.init_failed", "driver.failed"})
_RANK = frozenset({"rank.ended", "rank.follows", "ranks.log"})
_STILL = frozenset({"ranks.wait", "ranks.stand", "ranks.log", "ranks.ras"})
_DRIVER = frozenset({"driver.failed", "task.failed"})

CAUSES = (
    Cause(
        "gpu-lost", "A GPU was lost", "hardware", "critical",
        frozenset({xids.LOST}), frozenset(), ("gpu",), gpu.lost,
        "every GPU answers", ("gpu-memory-error", "gpu-stopped"),
    ),
    Cause(
        "gpu-memory-error", "Uncorrectable error of GPU memory", "hardware", "critical",
        frozenset({xids.MEMORY}), frozenset(), ("gpu",), gpu.memory_error,
        "no uncorrectable error was counted", ("gpu-lost", "gpu-stopped"),
    ),
    Cause(
        "nvlink-error", "An NVLink failed", "hardware", "critical",
        frozenset({xids.LINK}), frozenset(), ("gpu",), gpu.link_error,
        "every NVLink is up", ("gpu-lost", "gpu-memory-error"),
    ),
    Cause(
        "gpu-stopped", "A GPU or its driver stopped", "hardware", "critical",
        frozenset({xids.STOPPED}), frozenset(), ("gpu",), gpu.stopped,
        "the driver answers", ("gpu-lost", "gpu-memory-error"),
    ),
    Cause(
        "gpu-throttled", "Heat or power slows a GPU", "hardware", "warning",
        frozenset({"gpu.throttled"}), frozenset(), ("gpu",), gpu.throttled,
        "no GPU lowers its clocks", ("gpu-lost",),
    ),
    Cause(
        "kernel-oom-kill", "Killed by the kernel for want of memory", "kernel", "critical",
        _MEMORY | _RANK | {"kernel.oom_kill"}, frozenset(), ("kernel_log",), training.either(training.out_of_memory, memory.kernel_oom_kill),
        "silent on {node}", ("ray-oom-kill", "native-crash", "process-killed"),
    ),
    Cause(
        "ray-node-lost", "A Ray node was lost", "node", "critical",
        _DEATH | {"raylet.ended", "node.died", "node.preempted", "task.lost_node", "placement.infeasible"}, frozenset(), ("ray_events",), cluster.ray_node_lost,
        "{node} is alive", ("kernel-oom-kill",),
    ),
    Cause(
        "ray-oom-kill", "Killed by Ray's memory monitor", "process", "error",
        _MEMORY, frozenset({"kernel.oom_kill"}), ("ray_events",), memory.ray_oom_kill,
        "killed nothing on {node}", ("kernel-oom-kill", "native-crash", "ray-node-lost"),
    ),
    Cause(
        "native-crash", "A process crashed in native code", "process", "error",
        _DEATH | _RANK | {"kernel.segfault", "driver.failed"}, frozenset({"worker.out_of_memory", "kernel.oom_kill", "node.died"}), ("process_exits",), training.either(training.crashed, death.native_crash),
        "no fatal signal", ("ray-oom-kill", "kernel-oom-kill", "process-exit"),
    ),
    Cause(
        "process-exit", "A process left by itself", "process", "error",
        _DEATH | _RANK, frozenset({"worker.out_of_memory", "kernel.oom_kill", "kernel.segfault", "node.died", "raylet.ended"}), ("process_exits",), training.either(training.left, death.process_exit),
        "it did not leave by itself", ("native-crash", "ray-oom-kill", "kernel-oom-kill", "process-killed"),
    ),
    Cause(
        "process-killed", "A process was killed from outside", "process", "error",
        _DEATH | _RANK, frozenset({"worker.out_of_memory", "kernel.oom_kill", "node.died", "raylet.ended"}), ("process_exits",), training.either(training.killed, death.process_killed),
        "no signal from outside", ("kernel-oom-kill", "ray-oom-kill", "native-crash"),
    ),
    Cause(
        "infeasible-resources", "Asks for what no node has", "scheduling", "error",
        frozenset({"placement.infeasible", "task.unschedulable"}), frozenset({"node.died"}), ("ray_events",), scheduling.infeasible_resources,
        "every request fits some node", ("ray-node-lost", "resources-held"),
    ),
    Cause(
        "resources-held", "Waits for what others hold", "scheduling", "warning",
        frozenset({"placement.held"}), frozenset(), ("ray_events",), scheduling.resources_held,
        "nothing waits", ("infeasible-resources", "ray-node-lost"),
    ),
    Cause(
        "runtime-env-failed", "The runtime environment could not be made", "environment", "error",
        frozenset({"task.no_environment"}), frozenset(), ("ray_events",), cluster.runtime_env_failed,
        "every environment was made", ("ray-node-lost",),
    ),
    Cause(
        "object-lost", "An object was lost", "process", "error",
        frozenset({"task.lost_object"}), frozenset(), ("ray_events",), cluster.object_lost,
        "no object was lost", ("ray-node-lost", "process-exit"),
    ),
    Cause(
        "user-exception", "A task, actor or rank raised an exception", "code", "error",
        _RAISED | {"rank.raised", "ranks.log"}, frozenset({"worker.out_of_memory"}), ("ray_events",), training.either(training.raised, code.user_exception),
        "nobody raised an exception", ("ray-oom-kill", "native-crash", "ray-node-lost"),
    ),
    Cause(
        "rank-stopped", "A rank is stopped by a signal", "process", "error",
        _STILL | {"rank.frozen"}, frozenset(), ("torch_collectives",), training.frozen,
        "no rank is stopped", ("process-killed", "rank-stuck"),
    ),
    Cause(
        "rank-stuck", "A rank does not come to a collective", "code", "error",
        _STILL | {"rank.missing"}, frozenset({"rank.frozen"}), ("torch_collectives",), training.stuck,
        "every rank came to every collective", ("rank-stopped", "collective-skipped", "collective-mismatch", "process-killed"),
    ),
    Cause(
        "collective-skipped", "A rank left out a collective", "code", "error",
        _STILL | {"rank.skipped", "rank.left"}, frozenset({"rank.frozen"}), ("torch_collectives",), training.skipped,
        "no rank went past a collective that others wait in", ("rank-stuck", "rank-stopped", "collective-mismatch"),
    ),
    Cause(
        "collective-mismatch", "Ranks called different collectives", "code", "error",
        _STILL | {"rank.mismatch"}, frozenset({"rank.frozen"}), ("torch_collectives",), training.mismatch,
        "all ranks made the same calls", ("rank-stuck", "rank-stopped", "collective-skipped"),
    ),
    Cause(
        "straggler", "A rank slows the others down", "process", "warning",
        frozenset({"rank.late"}), frozenset(), ("torch_collectives",), straggler.straggler,
        "no rank comes late by itself in each step", ("rank-stuck", "rank-stopped", "gpu-throttled"),
    ),
    Cause(
        "driver-exception", "The driver raised an exception", "driver", "error",
        _DRIVER, frozenset(), ("driver_exceptions",), code.driver_exception,
        "the driver raised nothing", ("user-exception", "native-crash", "ray-node-lost"),
    ),
    Cause(
        "driver-exit", "The driver left or was killed", "driver", "warning",
        _DRIVER, frozenset(), ("process_exits",), code.driver_exit,
        "the driver did not leave by itself", ("driver-exception", "user-exception", "kernel-oom-kill"),
    ),
    Cause(
        "job-failed", "The job failed", "driver", "error",
        _DRIVER, frozenset(), (), code.job_failed,
        "", ("user-exception", "driver-exception", "ray-node-lost"),
    ),
)  # fmt: skip

BY_ID = {cause.id: cause for cause in CAUSES}

RIVALS_OF_RANKS = {
    "user-exception": ("native-crash", "process-killed", "rank-stuck", "collective-mismatch"),
    "native-crash": ("process-killed", "process-exit", "kernel-oom-kill", "collective-mismatch"),
    "process-killed": ("kernel-oom-kill", "native-crash", "process-exit", "rank-stuck"),
    "process-exit": ("native-crash", "process-killed", "user-exception", "rank-stuck"),
    "kernel-oom-kill": ("native-crash", "process-killed", "rank-stuck"),
}
"""What else it could have been that befell a rank, where a cause befalls Ray's tasks too."""

STANDSTILLS = frozenset({"rank-stopped", "rank-stuck", "collective-skipped", "collective-mismatch"})
"""Causes for which a training job stands still; they are over when its ranks move again."""
