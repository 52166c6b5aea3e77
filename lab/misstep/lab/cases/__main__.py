"""``python -m misstep.lab.cases [NAME…]``: run the corpus and print the score."""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import json
import os
import sys
from pathlib import Path

from misstep.core.client import Client
from misstep.core.errors import UnavailableError
from misstep.core.exits import Exit
from misstep.lab.cases.ledger import CASES, Case
from misstep.lab.cases.runner import Outcome, Runner
from misstep.lab.cases.score import HEADER, Score, row, score, summary
from misstep.lab.household import Household
from misstep.lab.service import Service


def main() -> int:
    """Run what the command line names; 0 only if all is right."""
    parser = argparse.ArgumentParser(prog="python -m misstep.lab.cases", description=__doc__)
    parser.add_argument("names", nargs="*", help="cases or patterns, for example 'actor_*'; default: all")
    parser.add_argument(
        "--running", action="store_true", help="ask the Misstep that runs here, not an own one"
    )
    parser.add_argument("--out", type=Path, help="folder for what Misstep said, one JSON file per case")
    parser.add_argument("--list", action="store_true", help="only print the names")
    arguments = parser.parse_args()
    cases = _select(arguments.names)
    if arguments.list:
        print("\n".join(case.name for case in cases))
        return Exit.OK
    with Household() as home:
        if arguments.running:
            client, environment = Client(), dict(os.environ)
        else:
            service = Service(home)
            service.start()
            service.wait()
            client, environment = service.client(), service.environment
        try:
            scores = _run(Runner(client, environment, home.folder), cases, client, arguments.out)
        except UnavailableError as error:
            print(f"{error}\n{home.last_words('collector')}", file=sys.stderr)
            return Exit.UNAVAILABLE
    print(summary(scores))
    return Exit.OK if all(s.right for s in scores) else Exit.WRONG_VERDICT


def _select(patterns: list[str]) -> list[Case]:
    found = [c for c in CASES.values() if not patterns or any(fnmatch.fnmatch(c.name, p) for p in patterns)]
    if not found:
        sys.exit(f"no case is called {' or '.join(patterns)}; see --list")
    return found


def _run(runner: Runner, cases: list[Case], client: Client, out: Path | None) -> list[Score]:
    print(HEADER, flush=True)
    scores = []
    for case in cases:
        outcome = runner.run(case)
        scores.append(score(outcome))
        print(row(scores[-1]), flush=True)
        if out is not None:
            _dump(outcome, client, out)
    return scores


def _dump(outcome: Outcome, client: Client, out: Path) -> None:
    """Keep what Misstep said and stored of a case."""
    out.mkdir(parents=True, exist_ok=True)
    record = {k: v for k, v in vars(outcome).items() if k != "case"} | {
        "case": dataclasses.asdict(outcome.case)
    }
    record["logs"] = [
        entry
        for session in outcome.sessions
        for entry in client.get("logs", session=session["session"], limit=1000)["logs"]
    ]
    (out / f"{outcome.case.name}.json").write_text(json.dumps(record, indent=1, default=str))


if __name__ == "__main__":
    sys.exit(main())
