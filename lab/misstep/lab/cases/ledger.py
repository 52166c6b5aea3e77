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


CASES: dict[str, Case] = {
    case.name: case
    for group in (_user_exceptions(), _drivers(), _deaths(), _waits(), _quiet())
    for case in group
}
