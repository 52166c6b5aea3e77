"""What is true of each script in `scripts`: the cause and entity that a right verdict names, or silence.

Where two names for one thing are equally right (an actor, or the method that it was in), both are listed.
Exit statuses are those of the script alone; `misstep run` must not change them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(__file__).parent / "scripts"

Name = tuple[str, str]
"""Kind and name of an entity; an empty name stands for any."""


@dataclass(frozen=True)
class Case:
    """One script."""

    name: str
    cause: str = ""
    """Id in the catalogue of causes; empty means that no incident may stand at the end."""
    entities: tuple[Name, ...] = ()
    """Whom the verdict may blame."""
    exit: int = 1
    """Exit status of the script, negative for a signal."""
    hangs: bool = False
    """It never ends by itself; it is ended by Ctrl-C when the verdict stands, or after `limit`."""
    interrupt: str = ""
    """What it prints before its owner presses Ctrl-C; empty is never."""
    limit: float = 120.0
    """Seconds."""
    ranks: int = 0
    """How many ranks torchrun starts of it; 0 for a script that is run by itself."""
    restarts: int = 0
    """How often torchrun begins anew."""
    passes: bool = False
    """The verdict stands for a time, and is over while the job still runs."""

    @property
    def script(self) -> Path:
        """The file."""
        return SCRIPTS / f"{self.name}.py"


def task(name: str) -> tuple[Name, ...]:
    """A task function."""
    return (("task", name),)


def actor(name: str) -> tuple[Name, ...]:
    """An actor, by its class."""
    return (("actor", name),)


def method(actor_class: str, name: str) -> tuple[Name, ...]:
    """A method of an actor, or the actor."""
    return ("task", f"{actor_class}.{name}"), ("actor", actor_class)


def rank(number: int) -> tuple[Name, ...]:
    """A rank of a training job."""
    return (("rank", str(number)),)


DRIVER: tuple[Name, ...] = (("job", ""), ("process", ""))


def _user_exceptions() -> Iterable[Case]:
    cause = "user-exception"
    yield Case("nested_exception", cause, task("parse"))
    yield Case("actor_method_exception", cause, method("Trainer", "fit"))
    yield Case("actor_init_exception", cause, method("Model", "__init__"))
    yield Case("async_actor_exception", cause, method("Server", "handle"))
    yield Case("generator_exception", cause, task("stream"))
    yield Case("chained_exception", cause, task("train"))
    yield Case("unpicklable_exception", cause, task("fetch"))
    yield Case("unpicklable_argument", cause, task("read"))
    yield Case("recursion", cause, task("depth"))
    yield Case("failed_input", cause, task("produce"))
    yield Case("many_failures", cause, task("score"))
    yield Case("failure_amid_noise", cause, task("merge"))
    yield Case("command_failed", cause, task("convert"))
    yield Case("missing_module", cause, task("tokenize"))
    yield Case("broken_argument", cause, task("read"))
    yield Case("async_driver", cause, task("embed"))
    yield Case("actor_pool", cause, method("Parser", "parse"))
    yield Case("translated_exception", cause, task("gradient"))
    yield Case("translated_by_driver", cause, task("clean"))
    yield Case("caught_then_exit", cause, task("validate"), exit=2)
    yield Case("named_task", cause, task("load") + task("load shard 3"))
    yield Case("exception_group", cause, task("check"))
    yield Case("retries_used_up", cause, task("fetch"))


def _drivers() -> Iterable[Case]:
    yield Case("driver_before_init", "driver-exception", DRIVER)
    yield Case("driver_after_init", "driver-exception", DRIVER)
    yield Case("driver_thread_exception", "driver-exception", DRIVER)
    yield Case("get_timeout", "driver-exception", DRIVER)
    yield Case("driver_process_pool", "driver-exception", DRIVER)
    yield Case("driver_system_exit", "driver-exit", DRIVER, exit=3)
    yield Case("driver_os_exit", "driver-exit", DRIVER, exit=4)
    yield Case("driver_sigkill", "driver-exit", DRIVER, exit=-9)
    yield Case("driver_sigsegv", "native-crash", DRIVER, exit=-11)
    # Ray's handler in the driver turns SIGTERM into an exit with its number.
    yield Case("driver_sigterm", "driver-exit", DRIVER, exit=15)


def _deaths() -> Iterable[Case]:
    yield Case("actor_sigsegv", "native-crash", actor("Decoder"))
    yield Case("actor_abort", "native-crash", actor("Encoder"))
    yield Case("task_sigsegv", "native-crash", task("resize"))
    yield Case("actor_os_exit", "process-exit", actor("Simulator"))
    yield Case("actor_sys_exit", "process-exit", actor("Checker"))
    yield Case("actor_crash_loop", "process-exit", actor("Worker"))
    yield Case("endless_crash_loop", "process-exit", actor("Poller"), hangs=True)
    yield Case("task_os_exit", "process-exit", task("convert"))
    yield Case("task_sys_exit", "process-exit", task("tool"))
    yield Case("actor_killed", "process-killed", actor("Cache"))
    yield Case("actor_terminated", "process-killed", actor("Store"))
    yield Case("task_killed", "process-killed", task("long"))
    yield Case("task_terminated", "process-killed", task("simulate"))
    yield Case("nested_actor_killed", "process-killed", actor("Index"))
    yield Case("threaded_actor_exit", "process-exit", actor("Gateway"))
    yield Case("worker_memory", "ray-oom-kill", task("accumulate"))
    yield Case("memory_bystander", "ray-oom-kill", task("hoard"))
    yield Case("node_lost", "ray-node-lost", (("ray_node", "far-1"),))
    yield Case(
        "owner_killed", "object-lost", (("object", ""), ("actor", "Builder"), ("task", "Builder.build"))
    )
    yield Case(
        "environment_pip", "runtime-env-failed", task("tokenize"), limit=300.0
    )  # Ray tries three times
    yield Case("environment_conda", "runtime-env-failed", actor("Renderer"))


def _waits() -> Iterable[Case]:
    cause = "infeasible-resources"
    yield Case("infeasible_custom", cause, task("scan"), hangs=True)
    yield Case("infeasible_gpu", cause, task("step"), hangs=True)
    yield Case("infeasible_cpu", cause, task("build"), hangs=True)
    yield Case("infeasible_memory", cause, task("join"), hangs=True)
    yield Case("infeasible_actor", cause, actor("Engine"), hangs=True)
    yield Case("infeasible_group", cause, (("group", ""), ("job", "")), hangs=True)
    cause = "resources-held"
    yield Case("held_by_parent", cause, task("parent"), hangs=True)
    yield Case("held_by_actor", cause, actor("Session"), hangs=True)
    yield Case("held_by_actors", cause, actor("Replica"), hangs=True)
    yield Case("held_by_group", cause, (("group", ""),), hangs=True)
    yield Case("held_group_by_group", cause, (("group", "placement group training"),), hangs=True)


def _quiet() -> Iterable[Case]:
    for name in (
        "retry_exceptions", "retry_crash", "actor_restart", "exit_actor", "actor_sys_exit", "ray_kill", "cancel",
        "handled", "handled_actor", "burst", "spill", "slow_start", "system_exit", "detached", "sleep", "wait",
        "nested", "queue", "late_node", "node_removed", "noise", "second_life", "memory", "without_ray",
        "process_pool", "terminated", "timeout", "cancel_call", "group", "unread", "thread",
    ):  # fmt: skip
        yield Case(f"quiet_{name}", exit=0)
    # Ray's own handling of SIGINT makes it 1, where Python alone would end by the signal.
    yield Case("quiet_interrupt", exit=1, interrupt="working")


def _ranks() -> Iterable[Case]:
    """Training jobs of PyTorch. A job that is merely slow runs on, and is ended as one that hangs."""
    cause = "rank-stuck"
    for name, guilty in (
        ("hang_loader", 2), ("hang_loader_worker", 1), ("hang_start", 3), ("hang_lock", 0), ("hang_loop", 1),
        ("hang_async", 3), ("hang_first", 1), ("hang_barrier", 0), ("ddp_hang", 2), ("fsdp_hang", 1), ("fsdp1_hang", 0),
        ("pipeline_hang", 1), ("pipeline_only", 0), ("hang_regex", 3), ("hang_input", 0), ("hang_checkpoint", 0),
        ("request_pipeline", 1), ("request_hang", 2), ("request_ring", 3),
    ):  # fmt: skip
        yield Case(f"torch_{name}", cause, rank(guilty), hangs=True, ranks=4)
    yield Case("torch_hang_tp", cause, rank(5), hangs=True, ranks=8)
    yield Case("torch_spawn_hang", cause, rank(2), hangs=True)
    yield Case("torch_by_hand", cause, rank(1), hangs=True)
    yield Case("torch_two_nodes", cause, rank(3), hangs=True)
    yield Case("torch_monitored_barrier", cause, rank(2), ranks=4)
    yield Case("torch_timeout", cause, rank(1), ranks=4)
    cause = "collective-skipped"
    for name, guilty in (("skipped", 1), ("skipped_alike", 2), ("fsdp_skipped", 2), ("left_barrier", 2), ("subgroup_skipped", 2)):  # fmt: skip
        yield Case(f"torch_{name}", cause, rank(guilty), hangs=True, ranks=4)
    yield Case(
        "torch_shorter_data", cause, rank(2), ranks=4
    )  # the end of its process takes the others' connections
    cause = "collective-mismatch"
    for name, guilty in (("swapped", 3), ("objects_alone", 0), ("ddp_uneven_end", 3)):
        yield Case(f"torch_{name}", cause, rank(guilty), hangs=True, ranks=4)
    yield Case("torch_ring_deadlock", cause, (("rank", ""),), hangs=True, ranks=4)
    yield Case("torch_wrong_root", cause, (("rank", ""),), hangs=True, ranks=4)
    yield Case("torch_shape_silent", cause, rank(1), exit=0, ranks=4)
    yield Case("torch_shape_once", cause, rank(0), exit=0, ranks=4)
    yield Case("torch_shape_abort", cause, rank(1), ranks=4)
    cause = "straggler"
    for name, guilty in (("straggler_sleep", 2), ("straggler_cpu", 0), ("straggler_pulses", 1), ("straggler_long_steps", 1), ("straggler_throttled", 1), ("ddp_straggler", 1), ("fsdp_straggler", 3)):  # fmt: skip
        yield Case(f"torch_{name}", cause, rank(guilty), hangs=True, ranks=4)
    yield Case("torch_straggler_from_start", cause, rank(6), hangs=True, ranks=8)
    yield Case("torch_straggler_passes", cause, rank(3), exit=0, ranks=4, passes=True)
    yield Case("torch_stopped", "rank-stopped", rank(2), hangs=True, ranks=4)
    yield Case("torch_killed", "process-killed", rank(3), ranks=4)
    # Gloo aborts the rank with the smaller tensor in that call, before anybody can read what it was.
    yield Case("torch_dtype", "native-crash", rank(3), ranks=4)
    yield Case("torch_segfault", "native-crash", rank(3), ranks=4)
    yield Case("torch_os_exit", "process-exit", rank(3), ranks=4)
    yield Case("torch_sys_exit", "process-exit", rank(2), ranks=4)
    yield Case("torch_exception", "user-exception", rank(0), ranks=4)
    yield Case("torch_out_of_memory", "user-exception", rank(1), ranks=4)
    yield Case("torch_disk_full", "user-exception", rank(0), ranks=4)
    yield Case("torch_memory_limit", "kernel-oom-kill", rank(2), ranks=4)
    yield Case("torch_terminated", "process-killed", rank(1), ranks=4)
    yield Case("torch_spawn_exception", "user-exception", rank(2))
    yield Case("torch_interface", "user-exception", (("rank", ""),), ranks=4)
    yield Case("torch_save_fails", "user-exception", rank(0), ranks=4)
    yield Case("torch_long_step_killed", "process-killed", rank(3), ranks=4)
    yield Case("torch_loader_killed", "user-exception", rank(1), ranks=4)
    yield Case("torch_nan_everywhere", "user-exception", (("rank", ""),), ranks=4)
    yield Case("torch_import_error", "user-exception", (("rank", ""),), ranks=4)
    yield Case("torch_fsdp1_exception", "user-exception", rank(2), ranks=4)
    yield Case("torch_restarts_used_up", "user-exception", rank(2), ranks=4, restarts=1)
    for name in (
        "slow_start", "prepare", "checkpoint", "evaluation", "uneven", "long_steps", "ddp_accumulation", "fsdp", "async",
        "last_write", "rank0_logs", "periodic_work", "ddp_unequal_batches", "upload", "pipeline", "server", "subprocess", "requests",
    ):  # fmt: skip
        yield Case(f"torch_quiet_{name}", exit=0, ranks=4)
    yield Case("torch_quiet_healthy", exit=0, ranks=8)
    yield Case("torch_quiet_restart", exit=0, ranks=4, restarts=1)
    yield Case("torch_quiet_interrupt", exit=1, ranks=4, interrupt="working")


CASES: dict[str, Case] = {
    case.name: case
    for group in (_user_exceptions(), _drivers(), _deaths(), _waits(), _quiet(), _ranks())
    for case in group
}
