"""Reads the texts in which Python and Ray say what was raised, where and in which task or actor.

One text can hold a whole chain: a driver's traceback ends in ``RayTaskError``, whose text is the traceback
of the task, which may end in the error of a task that it waited for, and so on. `parse` gives the sections
of that chain, outermost first; the last is where it began. Ray cuts long texts in its events at the front,
so that a section may lack its heading.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+)(?:,)? in (?P<function>.+?)\s*$')
_RAY_HEAD = re.compile(
    r"ray::(?P<name>.+?)\(\) \(pid=(?P<pid>\d+), ip=(?P<ip>[^,)\s]+)(?:, actor_id=(?P<actor>[0-9a-f]+))?"
)
_RAY_HEAD_BARE = re.compile(r"ray::(?P<name>[\w.<>]+)\(\)\s*$")
_RAISED = re.compile(r"^(?P<type>[A-Za-z_][\w.]*?)(?:\((?P<inner>[\w.]+)\))?(?::(?: (?P<message>.*))?)?$")
_SAID = re.compile(r"^[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit)(?:\([\w.]+\))?(?::|$)")
_MARKS = re.compile(r"^[\s^~]*$")
_CHAINED = re.compile(
    r"^(?:The above exception was the direct cause of the following exception:"
    r"|During handling of the above exception, another exception occurred:)\s*$"
)
_INTERNAL = (
    "site-packages/", "dist-packages/", "/ray/_private/", "python/ray/", "<frozen", "<string>", "/lib/python3",
)  # fmt: skip
_PACKAGE = re.compile(r"^.*/_ray_pkg_[0-9a-f]+/")


class Frame(NamedTuple):
    """One line of a traceback."""

    file: str
    line: int
    function: str

    @property
    def place(self) -> str:
        """``file.py:41``: the file's name alone, as a person would say it."""
        return f"{self.file.rsplit('/', 1)[-1]}:{self.line}"

    @property
    def path(self) -> str:
        """``folder/file.py:41`` with the folder of an uploaded working directory left out."""
        return f"{_PACKAGE.sub('', self.file)}:{self.line}"


class Raised(NamedTuple):
    """One section of a chain of errors.

    Attributes:
        type: name of the exception without its module.
        message: first line of what it says.
        function: the Ray task or ``Class.method`` whose process raised it; empty in a driver, or if cut off.
        pid, ip, actor: of that process, where the text tells; 0 or empty otherwise.
        frames: outermost first.
        detail: lines below the first that belong to the message.
        behind: the exception from which this one was raised in the same process, if it was.
    """

    type: str
    message: str
    function: str = ""
    pid: int = 0
    ip: str = ""
    actor: str = ""
    frames: tuple[Frame, ...] = ()
    detail: str = ""
    behind: str = ""

    @property
    def user_frame(self) -> Frame | None:
        """The innermost frame in the user's own files; the innermost of all if there is none such."""
        for frame in reversed(self.frames):
            if is_user_file(frame.file):
                return frame
        return self.frames[-1] if self.frames else None

    @property
    def signature(self) -> str:
        """What two texts about one fault have in common: where it was raised and what."""
        frame = self.user_frame
        return f"{frame.place}/{self.type}" if frame else ""


def plain(text: str) -> str:
    """The text without terminal colours."""
    return _ANSI.sub("", text)


def is_user_file(path: str) -> bool:
    """Whether a file belongs to the user rather than to Python, a package or Ray."""
    return not any(part in path for part in _INTERNAL)


def parse(text: str) -> list[Raised]:
    """The chain of errors in a text, outermost first; empty if the text holds no error.

    Where one exception was raised while another was handled, the chain follows the first that came from a
    Ray task or actor, because the later one is its consequence, and the last one otherwise. Where both were
    raised in one process, it follows the later one, which is what its callers saw.
    """
    blocks: list[list[str]] = [[]]
    for line in plain(text).splitlines():
        if _CHAINED.match(line.strip()):
            blocks.append([])
        else:
            blocks[-1].append(re.sub(r"^(?:\s*[|+]\s)+", "  ", line))
    chains = [chain for chain in map(_sections, blocks) if chain]
    if not chains:
        return []
    from_ray = (any(raised.function or raised.type in RAY_ERRORS for raised in chain) for chain in chains)
    first = next((place for place, ours in enumerate(from_ray) if ours), len(chains) - 1)
    chain, behind = chains[first], chains[first - 1][-1] if first else None
    for later in chains[first + 1 :]:
        if later[0].function and (later[0].function, later[0].pid) == (chain[-1].function, chain[-1].pid):
            chain, behind = chain[:-1] + later, chain[-1]
    if behind is not None and behind.type and behind.type not in RAY_ERRORS:
        chain = [*chain[:-1], chain[-1]._replace(behind=_in_short(behind))]
    return chain


def _in_short(raised: Raised) -> str:
    frame = raised.user_frame
    return f"{raised.type}: {raised.message}".rstrip(": ") + (f" at {frame.place}" if frame else "")


def root(text: str) -> Raised | None:
    """Where the chain in a text began."""
    chain = parse(text)
    return chain[-1] if chain else None


RAY_ERRORS = frozenset(
    {
        "ActorDiedError", "RayActorError", "ActorUnavailableError", "ActorUnschedulableError", "WorkerCrashedError",
        "OutOfMemoryError", "NodeDiedError", "LocalRayletDiedError", "ObjectLostError", "OwnerDiedError",
        "ObjectReconstructionFailedError", "ObjectFetchTimedOutError", "ReferenceCountingAssertionError",
        "RuntimeEnvSetupError", "TaskCancelledError", "TaskUnschedulableError", "OutOfDiskError", "ObjectStoreFullError",
        "GetTimeoutError", "RaySystemError", "ObjectReconstructionFailedMaxAttemptsExceededError",
        "ObjectReconstructionFailedLineageEvictedError", "ObjectFreedError",
    }
)  # fmt: skip
"""Errors that Ray raises for what befell a process or an object; user code did not raise them."""


def _sections(lines: list[str]) -> list[Raised]:
    """Split one block at Ray's headings (``ray::load() (pid=…)``) and read each part."""
    parts: list[tuple[re.Match[str] | None, list[str]]] = [(None, [])]
    framed = said = False  # of the current part: frames were seen, and behind them what was raised
    for line in lines:
        frame = _FRAME.match(line)
        head = None if frame else _RAY_HEAD.search(line) or _RAY_HEAD_BARE.search(line)
        if head is not None:
            parts[-1][1].append(line[: head.start()].rstrip())
            parts.append((head, []))
            framed = said = False
            continue
        if frame and said:
            parts.append((None, []))
            said = False
        parts[-1][1].append(line)
        framed = framed or bool(frame)
        said = said or (framed and not line.startswith("Traceback") and bool(_SAID.match(line)))
    chain = []
    for position, (head, body) in enumerate(parts):
        raised = _section(head, body, last=position == len(parts) - 1)
        if raised is not None:
            chain.append(raised)
    return chain


def _section(head: re.Match[str] | None, lines: list[str], *, last: bool) -> Raised | None:
    frames: list[Frame] = []
    end = 0  # first line that is part of no frame
    for number, line in enumerate(lines):
        match = _FRAME.match(line)
        if match:
            frames.append(Frame(match["file"], int(match["line"]), match["function"]))
            end = number + 1
    raised: re.Match[str] | None = None
    detail: list[str] = []
    for line in lines[end:]:
        if raised is None:
            if line[:1] not in (" ", "\t", "") and not line.startswith("Traceback"):
                raised = _RAISED.match(line)
        elif not _MARKS.match(line):
            detail.append(line)
    if raised is None and head is None:
        return None
    if raised is None and last and not frames:
        return None
    groups = head.groupdict() if head is not None else {}
    kind = raised["type"].rsplit(".", 1)[-1] if raised else ""
    if kind == "RayTaskError" and raised is not None and raised["inner"]:
        kind = raised["inner"].rsplit(".", 1)[-1]
    return Raised(
        type=kind,
        message=(raised["message"] or "") if raised else "",
        function=groups.get("name") or "",
        pid=int(groups.get("pid") or 0),
        ip=groups.get("ip") or "",
        actor=groups.get("actor") or "",
        frames=tuple(frames),
        detail="\n".join(detail),
    )


def parse_frames(text: str) -> list[Frame]:
    """The frames of a stack without an error, in the order in which the text has them."""
    found = []
    for line in plain(text).splitlines():
        match = _FRAME.match(line)
        if match:
            found.append(Frame(match["file"], int(match["line"]), match["function"]))
    return found
