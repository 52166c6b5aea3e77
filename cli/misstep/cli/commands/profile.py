"""Record what a process or a rank does, as a flame graph for https://www.speedscope.app.

TARGET is a pid, or the number of a rank of the newest training job on this machine (`rank/3`). The process is sampled
by py-spy and not halted. The file's name is printed; nothing is uploaded.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from misstep.cli.options import add_collector, client
from misstep.cli.sessions import choose
from misstep.cli.terminal import say
from misstep.core import names
from misstep.core.errors import InputError, MisstepError, UnavailableError
from misstep.core.exits import Exit

_LONGEST = 600.0


def prepare(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("target", metavar="TARGET", help="a pid, or rank/NUMBER")
    parser.add_argument(
        "--seconds", metavar="N", type=float, default=10.0, help="for how long; by default 10"
    )
    parser.add_argument("--rate", metavar="N", type=int, default=100, help="samples a second; by default 100")
    parser.add_argument("--native", action="store_true", help="frames of C and C++ too; that halts the process for each sample")  # fmt: skip
    parser.add_argument("--out", metavar="FILE", type=Path, help="by default profile-PID-TIME.json here")
    parser.add_argument("--session", metavar="SESSION", help="the job of the rank, if not the newest")
    add_collector(parser)


def run(arguments: argparse.Namespace) -> int:
    """Find the process and sample it."""
    from misstep.agent.torch import pyspy

    if not 0 < arguments.seconds <= _LONGEST:
        raise InputError(f"--seconds is between 0 and {_LONGEST:g}")
    program = pyspy.program()
    if not program:
        raise UnavailableError("py-spy is not installed: pip install py-spy")
    pid = _pid(arguments)
    out = arguments.out or Path(f"profile-{pid}-{time.strftime('%H%M%S')}.json")
    # py-spy counts in whole seconds.
    argv = [
        program, "record", "--pid", str(pid), "--duration", str(max(1, round(arguments.seconds))), "--rate", str(arguments.rate),
        "--format", "speedscope", "--output", str(out), "--native" if arguments.native else "--nonblocking",
    ]  # fmt: skip
    say(f"misstep: sampling process {pid} for {max(1, round(arguments.seconds))} s")
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)  # fmt: skip
    if done.returncode or not out.exists():
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise MisstepError(f"py-spy could not read process {pid}: {said[0] if said else 'it said nothing'}. See: misstep doctor")  # fmt: skip
    say("misstep: open it at https://www.speedscope.app, or with: npx speedscope FILE")
    print(out)
    sys.stdout.flush()
    return Exit.OK


def _pid(arguments: argparse.Namespace) -> int:
    """The process that is meant."""
    target = str(arguments.target)
    if target.isdecimal():
        return int(target)
    kind, _, number = target.partition("/")
    if kind != "rank" or not number.isdecimal():
        raise InputError(f"{target!r} is neither a pid nor rank/NUMBER")
    asked = client(arguments)
    session = choose(asked, arguments.session)["session"]
    ranks = asked.get("logs", session=session, event="torch.rank", limit=10_000)["logs"]
    held = [row["attributes"] for row in ranks if row["attributes"].get(names.RANK) == number]
    if not held:
        raise UnavailableError(f"no rank {number} in {session}")
    host, here = held[-1].get(names.HOST_NAME, ""), os.uname().nodename
    if host and host != here:
        raise UnavailableError(
            f"rank {number} runs on {host}; ask there: misstep profile {held[-1].get(names.PID)}"
        )
    return int(held[-1].get(names.PID, 0))
