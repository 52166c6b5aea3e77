"""Training jobs: which ranks belong together, what their session is called, when it begins and ends."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable

from misstep.agent import pids, procfs
from misstep.agent.context import Context
from misstep.agent.otlp import Value
from misstep.agent.probe import OK, SourceState, off, unsupported
from misstep.agent.records import INFO, WARNING, Records
from misstep.agent.roles import shown
from misstep.agent.torch.rank import Rank
from misstep.core import names
from misstep.core.clock import SECOND
from misstep.core.identity import Session, process_id

_LAUNCHERS = ("torchrun", "torch.distributed", "accelerate", "deepspeed", "lightning")
_KEEP = 30 * SECOND
_UNFIT = re.compile(r"[^\w.-]+")
_LOOKS = (5, 7, 9, 12, 15, 20, 30, 60)
"""Seconds after the start of its youngest rank at which a job is looked at whose ranks have not met; then each minute."""
_NO_HOOK = "misstep run -- torchrun …"


class Job:
    """One life of a training job on this machine.

    Attributes:
        launcher: pid of the process that started its ranks, or 0.
        ranks: by number, those that live and those that ended.
        looks: how often its ranks were looked at before they met.
        ended: monotonic nanoseconds, 0 while it lives.
    """

    def __init__(self, session: str, launcher: int, started: int) -> None:
        self.session, self.launcher, self.started = session, launcher, started
        self.launcher_start = pids.start_ticks(launcher) if launcher else 0
        self.ranks: dict[int, Rank] = {}
        self.alive: set[int] = set()
        self.looks = 0
        self.ended = 0


class Jobs:
    """Puts ranks into jobs. Belongs to the agent's main thread."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._boot = procfs.boot_time()
        self._jobs: dict[tuple[str, ...], Job] = {}
        self._lives: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._jobs)

    def sessions(self) -> list[str]:
        """Those that live."""
        return [job.session for job in self._jobs.values() if not job.ended]

    def admit(self, rank: Rank, out: Records) -> None:
        """A rank with its number: give it a session, and say what is new of it."""
        key = self._key(rank)
        job = self._jobs.get(key)
        if job is None or (job.ended and rank.pid not in job.alive):
            job = self._jobs[key] = self._begin(rank, key, out)
        known = job.ranks.get(rank.number)
        if (
            known is not None
            and known is not rank
            and not known.hello
            and rank.hello
            and known.pid == rank.pid
        ):
            known = None  # seen from outside first, and now through its hook
        if (
            known is not None
            and known is not rank
            and known.pid in job.alive
            and pids.is_running(known.pid, known.start)
        ):
            return  # a child that inherited its parent's number
        job.ranks[rank.number] = rank
        job.alive.add(rank.pid)
        rank.session = job.session
        self._own(rank.pid, job.session, "rank")
        self._tell(rank, job, out)

    def blind(self) -> list[list[Rank]]:
        """Jobs whose ranks have not met for so long that it is time to look at them once more."""
        found, now = [], self._context.clock.now()
        for job in self._jobs.values():
            ranks = [rank for rank in job.ranks.values() if rank.pid in job.alive]
            if job.ended or len(ranks) < 2 or any(rank.hello for rank in job.ranks.values()):
                continue
            if not all(self._has_hook(rank) for rank in ranks):
                continue  # nobody will say when they meet
            youngest = max(self._boot + rank.start * SECOND // procfs.TICKS for rank in ranks)
            due = _LOOKS[job.looks] if job.looks < len(_LOOKS) else _LOOKS[-1] * (job.looks - len(_LOOKS) + 2)
            if now - youngest >= due * SECOND:
                job.looks += 1
                found.append(sorted(ranks, key=lambda rank: rank.number))
        return found

    def watch(self, out: Records) -> None:
        """Close the jobs whose processes are gone; say of the others what can be read."""
        now = self._context.clock.monotonic()
        if not self._jobs:
            return
        for key, job in list(self._jobs.items()):
            if job.ended:
                if now - job.ended > _KEEP:
                    del self._jobs[key]
                continue
            starts = {rank.pid: rank.start for rank in job.ranks.values()}
            job.alive = {pid for pid in job.alive if self._is_there(pid, starts.get(pid, 0))}
            if job.alive or self._is_there(job.launcher, job.launcher_start):
                self._context.coverage.report("torch_collectives", self._state(job), job.session)
            elif job.session.split("/")[1:2] != ["ray"]:
                self._end(job, now, out)
            else:
                job.ended = now

    def _is_there(self, pid: int, start: int) -> bool:
        # The probe of processes reads those that it watches each second.
        return bool(pid) and (self._context.workload.is_live(pid, start) or pids.is_running(pid, start))

    # -- naming ------------------------------------------------------------------------------------
    def _own(self, pid: int, session: str, role: str) -> None:
        """A process is the job's from now on, also for what it reports before the next look at the process table."""
        process = self._context.workload.find(pid)
        if process is not None:
            process.session = process.session or session
        self._context.workload.register(pid, session=session, role=role)

    def _environ(self, rank: Rank) -> dict[str, str]:
        held = self._context.workload.find(rank.pid)
        return {**(held.environment if held is not None else {}), **rank.hello.get("environ", {})}

    def _started(self, rank: Rank, key: tuple[str, ...], began: int) -> str:
        """The last part of the session's name.

        The agents of other machines have to call a job alike that runs on several. All that they surely share is its
        key and the day; what else begins under the same key on that day is counted.
        """
        environ = self._environ(rank)
        here, address = environ.get("LOCAL_WORLD_SIZE", ""), environ.get("MASTER_ADDR", "")
        shared = here.isdecimal() and 0 < int(here) < rank.world and key[0] != "parent"
        if not shared or address == "localhost" or address.startswith("127."):
            when = time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(began // SECOND))
            return f"{when}_{key[-1][:8].replace('/', '_')}"
        name = time.strftime("%Y-%m-%d_", time.gmtime(began // SECOND)) + _UNFIT.sub("_", "_".join(key))[-40:]
        self._lives[name] = self._lives.get(name, 0) + 1
        return f"{name}_{self._lives[name]}"

    def _key(self, rank: Rank) -> tuple[str, ...]:
        environ = self._environ(rank)
        run, port = str(environ.get("TORCHELASTIC_RUN_ID", "")), str(environ.get("MASTER_PORT", ""))
        if run and run != "none":
            return (run,)
        if port:
            return (str(environ.get("MASTER_ADDR", "")), port)
        return ("parent", str(pids.parent(rank.pid)))

    def _begin(self, rank: Rank, key: tuple[str, ...], out: Records) -> Job:
        workload = self._context.workload
        process = workload.find(rank.pid)
        began = self._boot + rank.start * SECOND // procfs.TICKS
        if process is not None and process.session and "/ray/" in process.session:
            return Job(process.session, 0, began)  # Ray started these ranks: its session is theirs
        words = rank.hello.get("argv") or _arguments(rank.pid)
        launcher = _launcher(rank.pid)
        if "--multiprocessing-fork" in words and launcher:
            words = _arguments(launcher)
        started = self._started(rank, key, began)
        session = str(Session(self._context.settings.site, "torch", _name(words), started))
        job = Job(session, launcher, began)
        for pid in _above(rank.pid):
            known = workload.find(pid)
            if pid == launcher or (known is not None and known.role == "command"):
                self._own(pid, session, "launcher" if pid == launcher else "command")
        started_by = process.environment.get("MISSTEP_STARTED_BY", "") if process is not None else ""
        out.event(
            "session.start", entity=f"session/{session}", session=session, time=began, body=shown(words),
            attributes={
                names.COMMAND: shown(words), names.WORLD_SIZE: rank.world, names.PID: launcher,
                "torch.version": str(rank.hello.get("torch", "")), "misstep.started_by": started_by or "found",
            },
        )  # fmt: skip
        return job

    def _state(self, job: Job) -> SourceState:
        """Whether the collectives of a job can be read."""
        held = [rank for rank in job.ranks.values() if rank.pid in job.alive]
        if any(rank.hello and not rank.recording for rank in held):
            return off("torch's Flight Recorder is switched off", "unset TORCH_FR_BUFFER_SIZE")
        unknown = next((rank.traced for rank in held if rank.traced), "")
        if unknown:
            return unsupported(f"Flight Recorder of version {unknown} is not known")
        blind = sorted(rank.number for rank in held if not rank.hello)
        if not blind:
            return OK
        who = f"ranks {', '.join(map(str, blind))}" if len(blind) > 1 else f"rank {blind[0]}"
        if all(self._has_hook(rank) for rank in held if not rank.hello):
            return OK._replace(reason=f"{who}: no process group yet")
        return off(f"{who}: started without the hook", _NO_HOOK)

    def _has_hook(self, rank: Rank) -> bool:
        """Whether it was started with the hook, which speaks with its first process group."""
        process = self._context.workload.find(rank.pid)
        return process is not None and "MISSTEP_TORCH_FOLDER" in process.environment

    # -- telling -----------------------------------------------------------------------------------
    def _tell(self, rank: Rank, job: Job, out: Records) -> None:
        host = self._context.host
        attributes: dict[str, Value] = {
            names.RANK: rank.number, names.WORLD_SIZE: rank.world, names.PID: rank.pid, names.PROCESS_START: rank.start,
            names.PROCESS_ENTITY: "process/" + process_id(host.id, rank.pid, rank.start), names.HOST_NAME: host.name,
            "torch.version": str(rank.hello.get("torch", "")), "torch.hook": "yes" if rank.hello else "no",
        }  # fmt: skip
        body = rank.groups()
        if {"body": body, **attributes} == rank.told:
            return
        rank.told = {"body": body, **attributes}
        out.event("torch.rank", entity=rank.entity, session=job.session, body=body, attributes=attributes)

    def _end(self, job: Job, now: int, out: Records) -> None:
        job.ended = now
        exit_of = self._context.workload.exit_of
        ending = exit_of(job.launcher) if job.launcher else None
        endings = [exit_of(rank.pid) for rank in job.ranks.values()]
        if ending is not None:
            how = f"signal {ending.signal}" if ending.signal else f"status {ending.code}"
            state, body = "ended", f"its launcher, pid {job.launcher}, ended with {how}"
        else:
            well = [one for one in endings if one is not None and not one.signal and not one.code]
            state, body = "ended", f"{len(well)} of its {len(endings)} ranks here ended with status 0"
        out.event(
            "session.end", entity=f"session/{job.session}", session=job.session, state=state, body=body,
            severity=INFO if ending is None or not (ending.signal or ending.code) else WARNING,
        )  # fmt: skip
        self._context.coverage.end(job.session)


def _name(words: Iterable[str]) -> str:
    """The script, else the module, of a command line."""
    held = list(words)
    for place, word in enumerate(held):
        if word.endswith(".py"):
            return os.path.basename(word)
        if word == "-m" and place + 1 < len(held):
            return held[place + 1].replace("/", ".")
    return os.path.basename(held[0]) if held else "training"


def _arguments(pid: int) -> list[str]:
    try:
        return procfs.arguments("/proc", pid)
    except OSError:
        return []


def _above(pid: int) -> list[int]:
    found: list[int] = []
    while (pid := pids.parent(pid)) > 1 and len(found) < 8:
        found.append(pid)
    return found


def _launcher(pid: int) -> int:
    """The parent that started a rank, if it is one that starts ranks."""
    parent = pids.parent(pid)
    words = _arguments(parent)
    if any("misstep" in os.path.basename(word) for word in words[:3]):
        return 0
    python = bool(words) and "python" in os.path.basename(words[0])
    return parent if python or any(name in word for word in words[:4] for name in _LAUNCHERS) else 0
