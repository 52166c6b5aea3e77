"""Print the completion script of a shell.

bash: misstep completion bash > ~/.local/share/bash-completion/completions/misstep
zsh:  misstep completion zsh > "${fpath[1]}/_misstep"
fish: misstep completion fish > ~/.config/fish/completions/misstep.fish
"""

from __future__ import annotations

import argparse

from misstep.core.errors import UnavailableError
from misstep.core.exits import Exit

SHELLS = ("bash", "zsh", "fish")


def prepare(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("shell", choices=SHELLS)


def run(arguments: argparse.Namespace) -> int:
    """Generate the script from the parser itself."""
    import shtab

    from misstep.cli.main import COMMANDS
    from misstep.cli.main import parser as whole

    if arguments.shell not in shtab.SUPPORTED_SHELLS:
        raise UnavailableError(
            f"the installed shtab {shtab.__version__} knows no {arguments.shell}; pip install -U shtab"
        )
    print(shtab.complete(whole(list(COMMANDS)), shell=arguments.shell))
    return Exit.OK
