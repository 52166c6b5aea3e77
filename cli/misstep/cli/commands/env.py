"""Print the environment that makes a Ray of your own send its events.

Evaluate it in the shell that will run `ray start` or the script:  eval "$(misstep env ray)"
Ray reads it when it starts; a cluster that runs already is watched from outside.
"""

from __future__ import annotations

import argparse
import json

from misstep.cli import background
from misstep.cli.options import add_config, add_json, settings
from misstep.core.exits import Exit


def prepare(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("kind", nargs="?", default="ray", choices=("ray",), help="what will be started")
    parser.add_argument(
        "--cluster", metavar="NAME", default="ray", help="the name of the cluster in sessions"
    )
    parser.add_argument("--no-events", action="store_true",
                        help="without Ray's event stream: on tasks of a few ms it costs the driver up to a fifth more CPU")  # fmt: skip
    add_config(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print it; a Misstep is started in the background if none runs, since Ray sends from its first second."""
    from misstep.agent.launch import child_environment, env_lines

    agent = background.agent(settings(arguments).data.absolute(), arguments.config)
    if arguments.json:
        found = child_environment(agent, events=not arguments.no_events, cluster=arguments.cluster)
        print(json.dumps(found, sort_keys=True))
    else:
        print("\n".join(env_lines(agent, events=not arguments.no_events, cluster=arguments.cluster)))
    return Exit.OK
