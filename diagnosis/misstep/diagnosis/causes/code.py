"""Exceptions: in a task or an actor, or in the driver itself; and drivers that left with a bad code."""

from __future__ import annotations

from misstep.diagnosis.case import Case
from misstep.diagnosis.catalogue import Blamed, Claim
from misstep.diagnosis.causes.subject import blame_driver, times
from misstep.diagnosis.context import Context

_LAST_WORDS = 1.5
"""Seconds in which what a driver said last may still be on its way."""

_RAISED = ("task.raised", "actor.init_failed", "worker.init_failed")


def user_exception(case: Case, ctx: Context) -> Claim | None:
    """User code in a task or an actor raised, and the driver did not live with it."""
    raised = case.all("task.raised")
    if not raised:
        return None
    told = max(
        raised,
        key=lambda one: (bool(one.facts.get("line")), bool(one.facts.get("sure")), not one.facts.get("told")),
    )
    facts = told.facts
    function = str(facts.get("function") or case.fact("function", "task.raised") or "")
    actor = next(iter(case.linked("actor")), "") or str(case.fact("actor", "task.raised") or "")
    class_name = (ctx.roster.actor(actor).class_name if actor else "") or (
        function.split(".")[0] if "." in function else ""
    )
    what = f"{facts['type']}: {facts['message']}".strip(": ").rstrip(".") or "an exception"
    place, path = str(facts.get("place") or ""), str(facts.get("path") or "")
    creation = any(one.facts.get("creation") for one in raised)
    called = (
        f"actor {function}"
        if class_name and "." in function
        else f"task {function}"
        if function
        else "a task"
    )
    if class_name and not function:
        called = f"actor {class_name}"
    attributes = {
        "file": facts.get("file"),
        "line": facts.get("line"),
        "place": path,
        "exception": facts.get("type"),
        "function": function,
        "in": facts.get("in"),
        "message": facts.get("message"),
    }
    kind = "actor" if class_name else "task"
    count = sum(one.count for one in raised if not one.facts.get("told"))
    own = sum(int(one.facts.get("own") or 0) for one in raised if not one.facts.get("told"))
    id = (
        actor
        if kind == "actor"
        else next((one.entity.partition("/")[2] for one in raised if one.entity.startswith("task/")), "")
    )
    blamed = [
        Blamed(
            kind,
            id,
            class_name if kind == "actor" else function,
            {key: value for key, value in attributes.items() if value},
        )
    ]
    pid = case.fact("pid", *_RAISED)
    if pid:
        blamed.append(Blamed("process", str(pid), f"worker {pid}", {"pid": pid}))
    inside = (
        f", in {facts['in']}"
        if facts.get("in") and facts["in"] not in (function, function.rsplit(".", 1)[-1])
        else ""
    )
    ends = f", {times(own, 'time', 'times')}" if own > 1 else ""
    while_creating = " while the actor was being created" if creation else ""
    outcome = ctx.failed
    effect = (
        f" The driver did not catch it and {outcome.how}."
        if outcome is not None and outcome.state == "failed"
        else ""
    )
    if outcome is not None and outcome.state == "unknown":
        effect = " The driver ended at that moment; whether it caught it cannot be known."
    if outcome is None:
        effect = " Since then nothing has moved, though the driver lives: it waits for what will not come."
    return Claim(
        blamed=blamed,
        title=f"{called} raised {facts['type'] or 'an exception'}" + (f" at {place}" if place else ""),
        sentence=f"{called[:1].upper()}{called[1:]} raised {what}"
        + (f" at {path}{inside}" if path else "")
        + (f", from {facts['behind']}" if facts.get("behind") else "")
        + f"{while_creating}{ends}.{effect}",
        action=[
            f"{path}: {_advice(str(facts['type']), str(facts['message']))}"
            if path
            else "look at the traceback: misstep logs"
        ],
        score=0.9 if outcome is not None and outcome.state == "failed" else 0.7,
        decisive=(told,),
        key=f"{called}/{place}/{facts['type']}",
        ripe=outcome is not None or (ctx.stalled and ctx.since(case) >= 10),
        impact=f"{times(max(count, 1), 'task', 'tasks')} failed" if count else "",
    )


def _advice(kind: str, message: str) -> str:
    if kind in ("ModuleNotFoundError", "ImportError"):
        return "install the module on every node, or name it in runtime_env={'pip': [...]}"
    if kind in ("FileNotFoundError", "PermissionError", "NotADirectoryError", "IsADirectoryError"):
        return "the path must be there on every node that runs it, not only on the driver's"
    if kind == "OutOfMemoryError" or "CUDA out of memory" in message:
        return "the GPU's memory is full: smaller batches, or fewer processes on that GPU"
    return "handle this input or fix the line; ray.get re-raises what a task raises, so the driver can also catch it there"


def driver_exception(case: Case, ctx: Context) -> Claim | None:
    """The driver's own code raised."""
    ended = case.first("driver.failed")
    outcome = ctx.failed
    if ended is None or outcome is None or outcome.own is None or outcome.state != "failed":
        return None
    own = outcome.own
    frame = own.user_frame
    path = frame.path if frame else ""
    what = f"{own.type}: {own.message}".strip(": ").rstrip(".")
    attributes = {
        "file": frame.file if frame else "",
        "line": frame.line if frame else 0,
        "place": path,
        "exception": own.type,
        "exit_code": outcome.code,
        "pid": outcome.pid,
    }
    return Claim(
        blamed=blame_driver(outcome, **attributes),
        title=f"the driver raised {own.type}" + (f" at {frame.place}" if frame else ""),
        sentence=f"The driver ({outcome.name}) raised {what}"
        + (f" at {path}, in {frame.function}" if frame else "")
        + (f", from {own.behind}" if own.behind else "")
        + "; no task or actor had failed it.",
        action=[f"{path or outcome.name}: fix the line; the cluster did what it was asked"],
        score=0.9,
        decisive=(ended,),
        key=f"driver/{path}/{own.type}",
        impact="the job failed",
    )


def driver_exit(case: Case, ctx: Context) -> Claim | None:
    """The driver left with a bad code or was killed, and said nothing."""
    ended = case.first("driver.failed")
    outcome = ctx.failed
    if (
        ended is None
        or outcome is None
        or outcome.own is not None
        or outcome.state != "failed"
        or (not outcome.signal and outcome.code is None)
    ):
        return None
    attributes = {"exit_code": outcome.code, "signal": outcome.signal, "pid": outcome.pid}
    if outcome.signal or outcome.code == 15:
        signal = outcome.signal or "SIGTERM"
        sentence = f"The driver ({outcome.name}, pid {outcome.pid}) was killed by {signal}; no task or actor had failed it."
        action = [f"find who sent {signal}: a supervisor, a scheduler's time limit, the kernel, a person"]
        title = f"the driver was killed ({signal})"
    else:
        sentence = f"The driver ({outcome.name}, pid {outcome.pid}) left with exit code {outcome.code} and raised nothing; no task or actor had failed it."
        action = [f"look for sys.exit({outcome.code}) or os._exit({outcome.code}) in {outcome.name}"]
        title = f"the driver left with exit code {outcome.code}"
    return Claim(
        blamed=blame_driver(outcome, **attributes),
        title=title,
        sentence=sentence,
        action=action,
        score=0.7,
        decisive=(ended,),
        key=f"driver/{outcome.pid}",
        ripe=ctx.since(case) >= _LAST_WORDS,
        impact="the job failed",
    )


def job_failed(case: Case, ctx: Context) -> Claim | None:
    """The job failed, and nothing that was seen explains it."""
    ended = case.first("driver.failed")
    outcome = ctx.failed
    if ended is None or outcome is None or outcome.state != "failed":
        return None
    told = next((line.strip() for line in reversed(outcome.text.splitlines()) if line.strip()), "")[:300]
    reason = str(case.fact("reason") or told)
    return Claim(
        blamed=blame_driver(outcome, exit_code=outcome.code, pid=outcome.pid),
        title="the job failed",
        sentence=f"The job ({outcome.name}) failed, and nothing that could be seen explains it"
        + (f"; its last words: {reason}" if reason else "")
        + ".",
        action=["run it again under `misstep run -- …`, which keeps the driver's last words"],
        score=0.2,
        decisive=(ended,),
        ripe=ctx.since(case) >= _LAST_WORDS,
        key=f"job/{outcome.job or outcome.pid}",
        impact="the job failed",
    )
