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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from misstep.cli import background, children, endpoint
from misstep.cli.options import add_config, add_json, settings
from misstep.cli.parts import require_collector
from misstep.cli.supervisor import Child, Supervisor
from misstep.cli.terminal import say
from misstep.core.errors import StorageError, UnavailableError
from misstep.core.exits import Exit
from misstep.core.settings import Settings

READY = 60.0
"""Seconds in which a child must serve: a journal may have to be read back first."""


def prepare(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--data", metavar="DIR", type=Path, help="folder for everything that is stored")
    parser.add_argument("--port", metavar="N", type=int, help="port of the collector (default 7663)")
    parser.add_argument("--detach", action="store_true", help="go on in the background")
    add_config(parser)
    add_json(parser, "print the addresses as one line of JSON")


def run(arguments: argparse.Namespace) -> int:
    """Supervise until a signal comes."""
    chosen = settings(arguments, data=arguments.data, **{"collector.port": arguments.port})
    data = chosen.data.absolute()
    require_collector("misstep up", "all")
    lock = _lock(data)
    if lock is None:
        return _already(data, arguments.json)
    if arguments.detach:
        os.close(lock)
        _announce(background.start(data, _flags(arguments)), arguments.json)
        return Exit.OK
    try:
        return _supervise(chosen, data, arguments)
    finally:
        os.close(lock)


def _supervise(chosen: Settings, data: Path, arguments: argparse.Namespace) -> int:
    addresses: dict[str, Any] = {"pid": os.getpid(), "data": str(data), "started_ns": time.time_ns()}
    files = endpoint.paths(data)
    config = None if arguments.config is None else arguments.config.absolute()
    with Supervisor(say) as supervisor:
        try:
            for child in _children(chosen, data, arguments.port, config, files[0]):
                status = _start(supervisor, child, addresses)
                if supervisor.stopping or status is not None:
                    return status or Exit.OK
                _publish(files[:1], addresses)
            _publish(files, addresses)
            _announce(addresses, arguments.json, hint=True)
            for child, answer in supervisor.watch():
                addresses.update(answer)
                _publish(files, addresses)
                say(f"the {child.name} serves again")
        finally:
            for file in files:
                endpoint.remove(file, os.getpid())
    return Exit.OK


def _children(
    chosen: Settings, data: Path, port: int | None, config: Path | None, file: Path
) -> Iterator[Child]:
    yield children.collector(data, port, config)
    if sys.platform == "linux":
        yield children.agent(data, chosen, config, file, say)
    else:
        say("The agent needs Linux: this machine can collect and answer, but not watch itself.")


def _start(supervisor: Supervisor, child: Child, addresses: dict[str, Any]) -> int | None:
    """Start one child; its exit status if it ended instead of serving."""
    try:
        answer = supervisor.start(child, READY)
    except TimeoutError:
        raise UnavailableError(f"the {child.name} did not serve within {READY:g} s") from None
    if isinstance(answer, int):
        if not supervisor.stopping:
            say(f"misstep up: the {child.name} could not start (exit status {answer})")
        return answer if answer > 0 else Exit.FAILURE
    addresses.update(answer)
    return None


def _publish(files: list[Path], addresses: dict[str, Any]) -> None:
    own, *common = files
    endpoint.write(own, addresses)
    for file in common:
        # Another `up` keeps the common file; commands then need to be told the data folder.
        if (holder := endpoint.holder(file)) in (None, os.getpid()):
            endpoint.write(file, addresses)
        else:
            say(
                f"commands ask the Misstep of pid {holder}, and this one with MISSTEP_DATA={addresses['data']}"
            )


def _already(data: Path, as_json: bool) -> int:
    running = endpoint.find(data)
    if running is None or running.get("data") != str(data):
        raise UnavailableError(
            f"another `misstep up` is just starting or ending on {data}; try again in a moment"
        )
    say(f"Misstep already runs on {data} (pid {running['pid']}):")
    _announce(running, as_json)
    return Exit.OK


def _announce(addresses: Mapping[str, Any], as_json: bool, *, hint: bool = False) -> None:
    if as_json:
        print(json.dumps(addresses, sort_keys=True), flush=True)
        return
    print("Misstep watches this machine.")
    print(f"  collector  {addresses['collector']}")
    print(f"  OTLP       {addresses['otlp']}")
    if "agent" in addresses:
        print(f"  agent      {addresses['agent']}")
    print(f"  data       {addresses['data']}")
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


def _flags(arguments: argparse.Namespace) -> list[str]:
    found = [] if arguments.port is None else ["--port", str(arguments.port)]
    return found if arguments.config is None else [*found, "--config", str(arguments.config.absolute())]
