"""Runs a user's command so that Misstep can see it: an environment, two reports, and nothing else changed.

`child_environment` turns on Ray's event stream and puts `hook/` on PYTHONPATH; `run` adds reports of start and end.
Ray reads these variables when a cluster or node starts, so they do nothing to one that runs already. Ranks of torch
inherit them from whoever starts them.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from misstep.agent.pids import start_ticks
from misstep.agent.torch import folders
from misstep.core import names

EVENT_TYPES = (
    "TASK_DEFINITION_EVENT", "TASK_LIFECYCLE_EVENT", "ACTOR_TASK_DEFINITION_EVENT",
    "DRIVER_JOB_DEFINITION_EVENT", "DRIVER_JOB_LIFECYCLE_EVENT", "NODE_DEFINITION_EVENT", "NODE_LIFECYCLE_EVENT",
    "ACTOR_DEFINITION_EVENT", "ACTOR_LIFECYCLE_EVENT", "PLACEMENT_GROUP_DEFINITION_EVENT",
    "PLACEMENT_GROUP_LIFECYCLE_EVENT", "SUBMISSION_JOB_DEFINITION_EVENT", "SUBMISSION_JOB_LIFECYCLE_EVENT",
    "WORKER_LIFECYCLE_EVENT", "WORKER_DEFINITION_EVENT",
)  # fmt: skip
"""What Ray is asked for: all but profiles, which are a fifth of the volume, and platform events. Named one by one,
because Ray before 2.54 takes ``ALL`` for a name and then sends nothing."""

REPORT_EVERY = 200
"""Milliseconds between reports of Ray's processes, 1,000 by default. A driver that fails takes its cluster down with
it, half a second after; what was not reported by then is lost."""

TORCH_FOLDER = "MISSTEP_TORCH_FOLDER"
"""Where ranks put the sockets on which they tell of their collectives; the agent's setting is `agent.torch_folder`."""

_HOOK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "hook")
_TIMEOUT = 0.5
_PASSED_ON = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGCONT", "SIGWINCH", "SIGALRM")
_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)


def child_environment(
    agent: str,
    *,
    events: bool = True,
    cluster: str = "ray",
    environ: Mapping[str, str] | None = None,
    started_by: str = "env",
) -> dict[str, str]:
    """What to set for a process that starts Ray or is its driver.

    Args:
        agent: base address of the agent's receiver, for example ``http://127.0.0.1:7664``.
        events: whether Ray shall send its events; they cost the driver about a tenth of a millisecond a task.
        cluster: name under which the session is kept.
        environ: the environment to which these are added, by default this process's; what the user set there stays.
        started_by: ``run`` or ``env``.

    Returns:
        Only what is to be set, not the whole environment.
    """
    environ = os.environ if environ is None else environ
    agent = agent.rstrip("/")
    held = environ.get("PYTHONPATH", "")
    paths = [path for path in held.split(os.pathsep) if path and path != _HOOK] if held else []
    found = {
        "MISSTEP_REPORT": f"{agent}/v1/report",
        "MISSTEP_STARTED_BY": started_by,
        TORCH_FOLDER: environ.get(TORCH_FOLDER) or folders.own(environ),
        "PYTHONPATH": os.pathsep.join([_HOOK, *paths]),
    }
    if events:
        found |= {
            "RAY_enable_ray_event": "1",
            "RAY_enable_core_worker_ray_event_to_aggregator": "1",
            "RAY_DASHBOARD_AGGREGATOR_AGENT_EVENTS_EXPORT_ADDR": f"{agent}/v1/ray/{cluster}/events",
            "RAY_DASHBOARD_AGGREGATOR_AGENT_EXPOSABLE_EVENT_TYPES": ",".join(EVENT_TYPES),
            "RAY_task_events_report_interval_ms": str(REPORT_EVERY),
            "RAY_ray_events_report_interval_ms": str(REPORT_EVERY),
            "RAY_enable_export_api_write_config": "EXPORT_SUBMISSION_JOB",
        }
    found |= _authentication(environ)
    return {key: value for key, value in found.items() if not key.startswith("RAY_") or key not in environ}


def _authentication(environ: Mapping[str, str]) -> dict[str, str]:
    """Say aloud the mode that Ray would find by itself.

    With it unset, Ray 2.60 decides anew in each process: `ray start` turns tokens on where a token file lies
    about, `ray.init(address=…)` in a script then may not, and dies of AuthenticationError.
    """
    if "RAY_AUTH_MODE" in environ:
        return {}
    home = environ.get("HOME") or os.path.expanduser("~")
    path = environ.get("RAY_AUTH_TOKEN_PATH") or os.path.join(home, ".ray", "auth_token")
    token = "RAY_AUTH_TOKEN" in environ or os.path.exists(path)
    return {"RAY_AUTH_MODE": "token"} if token else {}


def env_lines(agent: str, *, events: bool = True, cluster: str = "ray") -> list[str]:
    """Lines for ``eval "$(misstep env ray)"``; they name PYTHONPATH as it is when they are evaluated."""
    lines = []
    for key, value in child_environment(
        agent, events=events, cluster=cluster, environ=_without_path()
    ).items():
        if key == "PYTHONPATH":
            lines.append(f'export PYTHONPATH={shlex.quote(value)}"${{PYTHONPATH:+:$PYTHONPATH}}"')
        else:
            lines.append(f"export {key}={shlex.quote(value)}")
    return lines


def _without_path() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def run(
    argv: Sequence[str],
    agent: str,
    *,
    events: bool = True,
    cluster: str = "ray",
    environ: Mapping[str, str] | None = None,
) -> int:
    """Run a command to its end, with its terminal, signals and exit status as they would be without us.

    Signals that are sent to us are passed on; those that the terminal sends reach the command by themselves.
    Where a signal ended the command, the same one ends this process.

    Args:
        argv: the command, looked up on PATH.
        agent: base address of the agent's receiver; when nobody answers there, stderr says so once.

    Returns:
        The command's exit status; 127 when there is no such command, 126 when it cannot be run.
    """
    environ = dict(os.environ if environ is None else environ)
    environ |= child_environment(agent, events=events, cluster=cluster, environ=environ, started_by="run")
    watched = {signal.SIGCHLD, *_FROM_TERMINAL, *(getattr(signal, name) for name in _PASSED_ON)}
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    started = time.time_ns()
    try:
        pid = os.posix_spawnp(
            argv[0], list(argv), environ, setsigmask=mask, setsigdef=[signal.SIGPIPE, signal.SIGXFSZ]
        )
    except OSError as error:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        print(f"misstep: cannot run {argv[0]}: {error.strerror}", file=sys.stderr)
        return 127 if isinstance(error, FileNotFoundError) else 126
    about = {names.PID: pid, names.PROCESS_START: start_ticks(pid), names.COMMAND: shlex.join(argv)[:4096]}
    heard = _tell(agent, "command.start", started, about, "")
    if not heard:
        print(
            f"misstep: no agent answers at {agent}, so nobody will see how this goes. Start one with: misstep up",
            file=sys.stderr,
        )
    status = _wait(pid, watched)
    ended = time.time_ns()
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        about |= {names.EXIT_SIGNAL: signal.Signals(-code).name if -code in _SIGNALS else f"signal {-code}"}
        how = f"ended by {about[names.EXIT_SIGNAL]}"
    else:
        about |= {names.EXIT_CODE: code}
        how = f"ended with status {code}"
    if heard:
        _tell(agent, "command.exit", ended, about, f"{how} after {(ended - started) / 1e9:.1f} s")
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return code if code >= 0 else _die(-code)


_SIGNALS = frozenset(one.value for one in signal.Signals)


def _wait(pid: int, watched: set[signal.Signals]) -> int:
    while True:
        came = signal.sigwaitinfo(watched)
        if came.si_signo == signal.SIGCHLD:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                return status
        elif came.si_signo not in _FROM_TERMINAL or came.si_code <= 0:
            # What a terminal sends (si_code > 0) goes to the whole foreground group, the command included.
            try:
                os.kill(pid, came.si_signo)
            except ProcessLookupError:
                pass


def _die(number: int) -> int:
    """End this process by a signal as the command was ended, without a core of our own."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os.kill(os.getpid(), number)
    return 128 + number


def _tell(agent: str, event: str, ts: int, attributes: Mapping[str, Any], body: str) -> bool:
    """Send one report; False when nobody took it."""
    text = json.dumps({"event": event, "ts": ts, "body": body, "attributes": attributes}).encode()
    parts = urlsplit(agent)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    head = (
        f"POST {parts.path.rstrip('/')}/v1/report HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n"
    )
    try:
        with socket.create_connection((host, port), timeout=_TIMEOUT) as link:
            link.sendall(head.encode() + text)
            return b" 200 " in link.recv(256).split(b"\r\n", 1)[0]
    except OSError:
        return False
