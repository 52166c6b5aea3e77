"""Break a real job on this machine, and say why it broke.

Starts a collector, an agent and a Ray cluster of two nodes (for `hang`: four ranks of torch under torchrun), submits a
job, injects a fault after some healthy seconds, and prints what Misstep sees and concludes. Everything that it started ends with it.
The exit code is 0 only if cause and entity are the injected ones.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from misstep.cli.options import add_json
from misstep.cli.parts import require_collector
from misstep.cli.terminal import terminal
from misstep.cli.verdict import render


def prepare(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    from misstep.lab.scenarios import SCENARIOS

    parser.add_argument(
        "scenario",
        nargs="?",
        default="oom",
        choices=tuple(SCENARIOS),
        metavar="SCENARIO",
        help="by default oom",
    )
    parser.add_argument("--keep", action="store_true", help="leave it up and say what to try next")
    parser.add_argument("--data", metavar="DIR", type=Path, help="keep what was recorded in this folder")
    add_json(parser, "print the incident as JSON")
    parser.epilog = "scenarios:\n" + "\n".join(f"  {s.name:<11} {s.summary}" for s in SCENARIOS.values())


def run(arguments: argparse.Namespace) -> int:
    """Hand over to the lab, with our way of drawing an incident."""
    from misstep.lab.demo import run_demo

    require_collector("misstep demo", "demo")
    screen = terminal()

    def draw(incident: dict[str, Any], *, color: bool, width: int) -> str:
        return render(incident, color=screen.color, width=width, ascii=not screen.unicode)

    return run_demo(
        arguments.scenario, render=draw, keep=arguments.keep, json=arguments.json, data=arguments.data
    )
