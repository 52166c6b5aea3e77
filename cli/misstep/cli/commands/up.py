"""Watch this machine: a collector and an agent on loopback, until Ctrl-C.

Both are child processes and are started again when they die. What they store stays in the data
folder, so a later `misstep up` still answers for clusters that are long gone.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from misstep.cli import background, endpoint
from misstep.cli.options import add_json, add_settings, settings
from misstep.cli.supervisor import Child, Supervisor
from misstep.cli.terminal import say
from misstep.core.errors import MissingExtraError, StorageError, UnavailableError
from misstep.core.exits import Exit
from misstep.core.settings import Settings

READY = 30.0
"""Seconds in which a child must serve: a journal may have to be read back first."""


def prepare(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--data", metavar="DIR", type=Path, help="folder for everything that is stored")
    parser.add_argument("--port", metavar="N", type=int, help="port of the collector (default 7663)")
    parser.add_argument("--detach", action="store_true", help="go on in the background")
    add_settings(parser)
    add_json(parser, "print the addresses as one line of JSON")


def run(arguments: argparse.Namespace) -> int:
    """Supervise until a signal comes."""
    chosen = settings(arguments, data=arguments.data, **{"collector.port": arguments.port})
    chosen_data = chosen.data.absolute()
    _require_collector()
    lock = _lock(chosen_data)
    if lock is None:
        running = endpoint.find(chosen_data)
        say(f"Misstep already runs on {chosen_data}" + (f", pid {running['pid']}." if running else "; it is still starting."))  # fmt: skip
        if running:
            _announce(running, arguments.json)
        return Exit.OK
    if arguments.detach:
        os.close(lock)
        _announce(background.start(chosen_data, _flags(arguments)), arguments.json)
        return Exit.OK
    try:
        return _supervise(chosen, chosen_data, arguments)
    finally:
        os.close(lock)


def _supervise(chosen: Settings, data: Path, arguments: argparse.Namespace) -> int:
    addresses: dict[str, Any] = {"pid": os.getpid(), "data": str(data), "started_ns": time.time_ns()}
    files = endpoint.paths(data)
    with Supervisor(say) as supervisor:
        try:
            for child in _children(chosen, data, arguments, addresses):
                status = _start(supervisor, child, addresses)
                if status is not None:
                    return status
                if supervisor.stopping:
                    return Exit.OK
            _publish(files, addresses)
            _announce(addresses, arguments.json, hint=True)
            for child in supervisor.watch():
                _take(addresses, child.name, child.ready() or {})
                _publish(files, addresses)
                say(f"the {child.name} serves again")
        finally:
            for file in files:
                endpoint.remove(file, os.getpid())
    return Exit.OK


def _children(
    chosen: Settings, data: Path, arguments: argparse.Namespace, addresses: Mapping[str, Any]
) -> list[Child]:
    def environ() -> dict[str, str]:
        found = {**os.environ, "MISSTEP_DATA": str(data)}
        if arguments.port is not None:
            found["MISSTEP_COLLECTOR_PORT"] = str(arguments.port)
        if "collector" in addresses:
            found["MISSTEP_COLLECTOR_URL"] = addresses["collector"]
        return found

    def argv(name: str) -> list[str]:
        found = [sys.executable, "-m", f"misstep.{name}", "--ready-file", str(data / f"{name}.ready.json")]
        if arguments.settings is not None:
            found += ["--settings", str(arguments.settings)]
        return found

    names = ["collector", "agent"] if sys.platform == "linux" else ["collector"]
    if "agent" not in names:
        say("The agent needs Linux: this machine can collect and answer, but not watch itself.")
    return [Child(n, lambda n=n: argv(n), environ, data / f"{n}.ready.json") for n in names]  # type: ignore[misc]


def _start(supervisor: Supervisor, child: Child, addresses: dict[str, Any]) -> int | None:
    """Start one child; its exit status if it ended instead of serving."""
    try:
        answer = supervisor.start(child, READY)
    except TimeoutError:
        raise UnavailableError(f"the {child.name} did not serve within {READY:g} s") from None
    if isinstance(answer, int):
        if not supervisor.stopping:
            say(f"misstep up: the {child.name} could not start (exit status {answer})")
        return answer if answer > 0 else Exit.FAILURE if answer else None
    _take(addresses, child.name, answer)
    return None


def _take(addresses: dict[str, Any], name: str, answer: Mapping[str, Any]) -> None:
    if name == "collector":
        addresses["collector"] = answer["url"]
        addresses["otlp"] = answer.get("otlp", answer["url"])
    else:
        addresses["agent"] = answer["url"]


def _publish(files: list[Path], addresses: dict[str, Any]) -> None:
    own, *common = files
    endpoint.write(own, addresses)
    for file in common:
        # Another user of the default folder keeps it; commands then need to be told the data folder.
        if (holder := endpoint.holder(file)) in (None, os.getpid()):
            endpoint.write(file, addresses)
        else:
            say(
                f"commands talk to the Misstep of pid {holder} unless MISSTEP_DATA={addresses['data']} is set"
            )


def _announce(addresses: Mapping[str, Any], as_json: bool, *, hint: bool = False) -> None:
    if as_json:
        print(json.dumps(addresses), flush=True)
        return
    print("Misstep watches this machine.")
    print(f"  collector  {addresses['collector']}   keeps all in {addresses['data']}")
    print(f"  OTLP       {addresses['otlp']}")
    if "agent" in addresses:
        print(f"  agent      {addresses['agent']}")
    if hint:
        print(
            "\nIn another terminal:\n"
            "  misstep run -- python my_script.py    your script, unchanged\n"
            '  eval "$(misstep env ray)"             or this, before `ray start`\n'
            "  misstep diagnose                      why it is slow, stuck or dead\n"
            "\nCtrl-C ends it; what was stored stays."
        )
    else:
        print(f"  stop it    kill {addresses['pid']}")
    sys.stdout.flush()


def _lock(data: Path) -> int | None:
    """The descriptor that holds the data folder for this process, or None if another `up` has it."""
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(data / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(f"cannot write to {data}: {error.strerror}; choose another folder with --data") from error  # fmt: skip
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def _require_collector() -> None:
    from importlib.util import find_spec

    for module in ("duckdb", "uvicorn", "starlette", "ptars", "pyarrow"):
        if find_spec(module) is None:
            raise MissingExtraError("misstep up", "all", module)


def _flags(arguments: argparse.Namespace) -> list[str]:
    found = [] if arguments.port is None else ["--port", str(arguments.port)]
    if arguments.settings is not None:
        found += ["--settings", str(arguments.settings.absolute())]
    return found
