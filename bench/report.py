"""Runs benchmarks and writes what they print into docs/benchmarks.md, with the machine, the day and the command.

run: python -m bench.report [NAME …] [--options "…"]        all of them without names
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

_PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
_COMMANDS = {
    "agent": "bench.agent --seconds 60",
    "ray": "bench.ray --rounds 3",
    "ingest": "bench.ingest --runs 3",
    "query": "bench.query",
    "at_rest": "bench.at_rest",
}


def measured(command: str) -> str:
    """Run a benchmark, show its output as it comes, and return it.

    Raises:
        SystemExit: it failed; nothing of it is written.
    """
    lines: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-m", *command.split()], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        raise SystemExit(f"python -m {command} ended with {process.returncode}; docs/benchmarks.md keeps the old figures")  # fmt: skip
    return "".join(lines).strip()


def machine() -> str:
    """What a reader must know to compare."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} × {model.group(1) if model else platform.machine()}, {memory:.0f} GiB, Linux {platform.release()}, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f} at the start"


def section(page: str, name: str, text: str) -> str:
    """The page with the part ``<!-- measured: NAME -->`` … ``<!-- end -->`` replaced.

    Raises:
        SystemExit: the page has no such part.
    """
    part = re.compile(rf"(<!-- measured: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not part.search(page):
        raise SystemExit(f"docs/benchmarks.md has no part <!-- measured: {name} -->")
    return part.sub(lambda found: found.group(1) + text + found.group(2), page)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(_COMMANDS))
    parser.add_argument("--options", default="", help="what the named benchmark is asked besides")
    options = parser.parse_args()
    asked = options.names
    if options.options and len(asked) != 1:
        parser.error("--options needs the name of one benchmark")
    unknown = set(asked) - _COMMANDS.keys()
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(_COMMANDS)}")
    for name in asked or _COMMANDS:
        where = machine()
        command = f"{_COMMANDS[name]} {options.options}".strip()
        text = measured(command)
        told = f"`python -m {command}`, {time.strftime('%Y-%m-%d')}, {where}\n\n```text\n{text}\n```\n"
        _PAGE.write_text(section(_PAGE.read_text(), name, told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
