"""The probe of NCCL's communicators, by RAS: a job is asked each minute, and each ten seconds while it stands still."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from misstep.agent.context import Context
from misstep.agent.probe import OK, SourceState, failing, off, unsupported
from misstep.agent.records import INFO, WARNING, Records
from misstep.agent.watched_thread import WatchedThread
from misstep.core import names
from misstep.core.clock import SECOND
from misstep.core.errors import StorageError

if TYPE_CHECKING:
    from misstep.agent.torch.rank import Rank

_STOPPED_EVERY = 10 * SECOND
_LOOK_EVERY = 60 * SECOND
_ROUND = 1.0
_MAPS = 8 * 1024 * 1024
_LIBRARY = re.compile(rb"(/\S*/libnccl\.so[.\d]*)\n")
_NAMED = re.compile(r"libnccl\.so\.(\d+\.\d+\.\d+)$")
_TOLD = re.compile(rb'"comm_lib_version":\s*"([^"]+)"')
_PACKAGE = re.compile(r"nvidia_nccl_cu\d+-(\d+\.\d+\.\d+)")


class Question(NamedTuple):
    """Whom to ask for a job, and by which processes its communicators are known.

    Attributes:
        pids: as the job's own namespace counts, which RAS tells.
    """

    session: str
    address: str
    pids: frozenset[int]
    version: str
    stands: bool


class Communicators:
    """Asks on a thread of its own, which is begun with the first job that may be asked.

    Args:
        ranks: the ranks that are watched.
    """

    source = "nccl_ras"
    interval = 2.0
    follows_events = False

    def __init__(self, context: Context, ranks: Callable[[], Iterable[Rank]]) -> None:
        self._context, self._ranks = context, ranks
        self._every = round(context.settings.agent.nccl_ras_interval * SECOND)
        self._thread = WatchedThread("nccl_ras", self._run, context.clock)
        self._questions: list[Question] = []
        self._versions: dict[tuple[int, int], str] = {}
        self._looked: dict[tuple[int, int], int] = {}
        self._asked: dict[str, int] = {}

    def supported(self) -> SourceState:
        """A setting may say no."""
        return OK if self._every else off("switched off by agent.nccl_ras_interval")

    def check(self, now: int, out: Records) -> SourceState | None:
        """Say on which jobs there is to ask."""
        jobs: dict[str, list[Rank]] = {}
        for rank in self._ranks():
            if rank.session and rank.hello:
                jobs.setdefault(rank.session, []).append(rank)
        questions = []
        for session, ranks in jobs.items():
            question = self._question(session, ranks)
            if isinstance(question, SourceState):
                self._context.coverage.report(self.source, question, session)
            else:
                questions.append(question)
        self._questions = questions
        if not questions:
            return off("no rank uses NCCL 2.28.7 or newer")
        state = self._thread.watch()
        return None if state.name == "ok" else state

    def close(self) -> None:
        """End the thread."""
        self._thread.close(1.0)

    # -- whom to ask ---------------------------------------------------------------------------------
    def _question(self, session: str, ranks: list[Rank]) -> Question | SourceState:
        from misstep.agent.torch import ras  # here: most machines have no rank

        if not any(
            "nccl" in str(group.get("backend", ""))
            for rank in ranks
            for group in rank.hello.get("groups", {}).values()
        ):
            return OK._replace(reason="no process group of NCCL")
        text = next((found for rank in ranks if (found := self._version(rank))), "")
        if not text:
            return unsupported(
                "the version of NCCL is not known, and before 2.28.7 a question to RAS can crash the job"
            )
        if ras.version(text) < ras.OLDEST:
            return unsupported(f"NCCL {text}: before 2.28.7 a question to RAS can crash the job")
        process = self._context.workload.find(ranks[0].pid)
        environment = process.environment if process is not None else {}
        if environment.get("NCCL_RAS_ENABLE", "1") == "0":
            return off("NCCL_RAS_ENABLE=0", "unset NCCL_RAS_ENABLE")
        pids = frozenset(int(rank.hello.get("pid", rank.pid)) for rank in ranks)
        # The clock of a rank's own movements is time.monotonic().
        stands = any(rank.stands(self._context.clock.monotonic() / SECOND) for rank in ranks)
        return Question(session, environment.get("NCCL_RAS_ADDR") or ras.ADDRESS, pids, text, stands)

    def _version(self, rank: Rank) -> str:
        """By the Flight Recorder's word, else by the library that is loaded; looked for once a minute until it is found."""
        key, now = (rank.pid, rank.start), self._context.clock.monotonic()
        told = _TOLD.search(rank.status)
        if told is not None:
            return told[1].decode("utf-8", "replace")[:40]
        if not self._versions.get(key) and now >= self._looked.get(key, now):
            self._looked[key] = now + _LOOK_EVERY
            self._versions[key] = loaded(rank.pid)
            if len(self._looked) > 4096:
                self._looked.clear()
                self._versions.clear()
        return self._versions.get(key, "")

    # -- the thread ----------------------------------------------------------------------------------
    def _run(self) -> None:
        while not self._thread.stopping.is_set():
            self.round()
            self._thread.stopping.wait(_ROUND)

    def round(self) -> None:
        """Ask where it is time; on the thread, and without one in tests."""
        now = self._context.clock.monotonic()
        questions = self._questions
        self._asked = {
            one.session: when for one in questions if (when := self._asked.get(one.session)) is not None
        }
        for one in questions:
            last = self._asked.get(one.session)
            wait = min(_STOPPED_EVERY, self._every) if one.stands else self._every
            if last is not None and now - last < wait:
                continue
            self._asked[one.session] = now
            self._context.coverage.report(self.source, self._ask(one), one.session)

    def _ask(self, question: Question) -> SourceState:
        from misstep.agent.torch import ras

        try:
            found = ras.read(ras.ask(question.address))
        except ras.RasError as error:
            return failing(f"RAS: {error}"[:200])
        mine = [one for one in found if one.pids & question.pids]
        if found and not mine:
            # Jobs of one user share the port (SO_REUSEPORT), and the kernel picks one that answers.
            return failing(
                f"another job answers at {question.address}",
                "export NCCL_RAS_ADDR=localhost:PORT, one for each job",
            )
        out = Records(self._context.clock.now())
        for one in mine:
            out.event(
                "nccl.communicator", entity=f"session/{question.session}", session=question.session, state=one.state,
                severity=INFO if one.state in ("ok", "unequal") else WARNING, body=one.body(),
                attributes={
                    names.COMMUNICATOR: one.hash, names.WORLD_SIZE: one.size, names.NCCL_PRESENT: one.present,
                    names.NCCL_VERSION: question.version, names.READING: out.now,
                },
            )  # fmt: skip
        if out:
            try:
                self._context.spool.commit([out])
            except StorageError:
                pass  # the spool counts what it refuses
        return OK


def loaded(pid: int, root: str = "/proc") -> str:
    """The version of the NCCL that a process has loaded, by the file's name or by the package that it lies in; or empty."""
    try:
        with open(f"{root}/{pid}/maps", "rb") as file:
            match = _LIBRARY.search(file.read(_MAPS))
        if match is None:
            return ""
        path = match[1].decode()
        named = _NAMED.search(path)
        if named is not None:
            return named[1]
        packages = f"{root}/{pid}/root" + path.partition("/nvidia/nccl/")[0]
        found = [held[1] for name in os.listdir(packages) if (held := _PACKAGE.match(name)) is not None]
        return found[0] if len(found) == 1 else ""
    except (OSError, UnicodeDecodeError):
        return ""
