"""Let go of this machine's GPUs, so that they can be reset, and take them back.

As long as anybody holds NVML, a GPU cannot be reset, its MIG mode not be changed and the driver not be unloaded.
`misstep gpu release` returns when the agents of this machine hold it no more; they take the GPUs back by themselves when
the time is over, or at `misstep gpu resume`.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import time
from typing import Any
from urllib.parse import urlsplit

from misstep.cli import endpoint
from misstep.cli.options import add_config, add_json, settings
from misstep.cli.terminal import clean, say
from misstep.cli.times import clock
from misstep.core.errors import InputError, MisstepError, UnavailableError
from misstep.core.exits import Exit
from misstep.core.settings import Settings

PATIENCE = 8.0
"""Seconds until an agent has let go; longer takes only a driver that hangs."""
_LONGEST = 24 * 60.0
_WORDS = {
    "released": "let go of its GPUs until {until}; then it takes them back, or earlier with: misstep gpu resume",
    "releasing": "still holds them: a call of the driver has not returned (see: misstep doctor)",
    "held": "reads its GPUs",
    "waiting": "will read its GPUs when the driver answers",
    "absent": "reads no GPU",
}


def prepare(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("action", choices=("release", "resume"), metavar="ACTION", help="release or resume")
    parser.add_argument("--minutes", metavar="N", type=float, default=10.0, help="for how long they are released; by default 10")  # fmt: skip
    add_config(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Tell every agent of this machine, wait until each has done it, and say how each stands."""
    if not 0 < arguments.minutes <= _LONGEST:
        raise InputError(f"--minutes is between 0 and {_LONGEST:g}")
    seconds = arguments.minutes * 60 if arguments.action == "release" else 0
    found = {
        url: answer for url in agents(settings(arguments)) if (answer := _ask(url, {"release_s": seconds}))
    }
    if not found:
        raise UnavailableError("no agent of Misstep answers on this machine, so none of ours holds a GPU")
    passing = {"releasing"} if seconds else {"waiting", "released", "releasing"}
    deadline = time.monotonic() + PATIENCE
    while any(one["state"] in passing for one in found.values()) and time.monotonic() < deadline:
        time.sleep(0.1)
        found = {url: _ask(url, {}) or one for url, one in found.items()}
    if arguments.json:
        print(json.dumps({"agents": [{"url": url, **one} for url, one in found.items()]}))
    for one in () if arguments.json else found.values():
        print(
            f"agent on {clean(str(one['host']))} (pid {one['pid']}) {_WORDS[one['state']].format(until=clock(one['until_ns']))}"
        )
    if any(one["state"] == "releasing" for one in found.values()):
        say("misstep: a GPU cannot be reset while its driver hangs in a call")
        return Exit.FAILURE
    return Exit.OK


def agents(chosen: Settings) -> list[str]:
    """Where agents of this machine may listen: that of `misstep up`, and the port of the settings."""
    running = endpoint.find(chosen.data) or {}
    usual = f"http://127.0.0.1:{chosen.agent.receiver_port}"
    return list(dict.fromkeys([str(running.get("agent", usual)), usual]))


def _ask(url: str, wish: dict[str, float]) -> dict[str, Any] | None:
    """How an agent stands after a wish; None where none answers.

    Raises:
        MisstepError: it refuses.
    """
    parts = urlsplit(url)
    link = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=3)
    try:
        link.request("POST", "/v1/gpu", json.dumps(wish), {"Content-Type": "application/json"})
        response = link.getresponse()
        answer = json.loads(response.read(65536))
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        link.close()
    if response.status == 403 and os.geteuid():
        raise MisstepError(f"the agent at {url} is another user's: sudo misstep gpu …")
    if response.status != 200 or not isinstance(answer, dict) or answer.get("state") not in _WORDS:
        return None
    return answer
