"""Run a command under watch: what it starts is seen, its output and exit status stay as they are.

Ray that the command starts sends its events, ranks of torch (torchrun and others) tell of their collectives, and an
uncaught exception of the script is kept with its traceback. If no Misstep runs on this machine, one is started in the background.
"""

from __future__ import annotations

import argparse
import os

from misstep.cli import background
from misstep.cli.options import add_config, settings
from misstep.cli.terminal import say
from misstep.core.errors import MisstepError, SettingsError


def prepare(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.usage = "misstep run [--no-events] [--cluster NAME] [--] COMMAND [ARGUMENT ...]"
    parser.add_argument("--no-events", action="store_true",
                        help="without Ray's event stream: on tasks of a few ms it costs the driver up to a fifth more CPU")  # fmt: skip
    parser.add_argument(
        "--cluster", metavar="NAME", default="ray", help="the name of the cluster in sessions"
    )
    add_config(parser)
    parser.add_argument(
        "argv", nargs=argparse.REMAINDER, metavar="COMMAND", help="the command and its arguments"
    )


def run(arguments: argparse.Namespace) -> int:
    """Start Misstep if need be, then the command."""
    from misstep.agent import launch

    argv = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
    if not argv:
        raise SettingsError("say which command: misstep run -- python my_script.py")
    try:
        chosen = settings(arguments)
        agent = background.agent(chosen.data.absolute(), arguments.config)
    except MisstepError as error:
        # The command matters more than its watcher.
        say(f"misstep: {error}\nmisstep: the command runs unwatched")
        return _unwatched(argv)
    if chosen.agent.torch_folder:
        os.environ.setdefault(launch.TORCH_FOLDER, chosen.agent.torch_folder)
    return launch.run(argv, agent=agent, events=not arguments.no_events, cluster=arguments.cluster)


def _unwatched(argv: list[str]) -> int:
    try:
        os.execvp(argv[0], argv)
    except FileNotFoundError:
        say(f"misstep: {argv[0]}: command not found")
        return 127
    except OSError as error:
        say(f"misstep: {argv[0]}: {error.strerror}")
        return 126
