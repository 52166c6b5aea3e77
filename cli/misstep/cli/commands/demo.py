"""Show a real fault from its first misstep to the verdict.

Starts a collector, an agent and a Ray cluster of two nodes on this machine, submits a job, breaks it
after some healthy seconds, and prints what Misstep sees and concludes. Everything that it started ends
with it. The exit code is 0 only if cause and entity are the injected ones.
"""

from __future__ import annotations

import argparse

from misstep.cli.options import add_json
from misstep.core.errors import MissingExtraError

SCENARIOS = {
    "oom": "a task's memory grows until Ray's memory monitor kills its worker (default)",
    "crash": "an actor's process dies by SIGSEGV",
    "exit": "an actor leaves by os._exit(7)",
    "exception": "user code raises, deep in a task",
    "node": "a worker node's raylet gets SIGKILL",
    "infeasible": "a task asks for a resource that no node has",
    "healthy": "the same job with no fault: silence is the verdict",
}


def prepare(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("scenario", nargs="?", default="oom", choices=tuple(SCENARIOS), metavar="SCENARIO",
                        help=", ".join(SCENARIOS))  # fmt: skip
    parser.add_argument("--keep", action="store_true", help="leave it up and say what to try next")
    add_json(parser, "print the incident as JSON")
    parser.epilog = "scenarios:\n" + "\n".join(f"  {name:<11} {what}" for name, what in SCENARIOS.items())


def run(arguments: argparse.Namespace) -> int:
    """Hand over to the lab."""
    from importlib.util import find_spec

    for module, extra in (("ray", "demo"), ("duckdb", "all"), ("uvicorn", "all")):
        if find_spec(module) is None:
            raise MissingExtraError("misstep demo", extra, module)
    raise NotImplementedError
