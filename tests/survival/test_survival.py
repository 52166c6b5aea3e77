"""kill -9 at random instants: nothing acknowledged is lost or doubled, and the verdict stays."""

from __future__ import annotations

import random
import shutil
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from misstep.collector.telemetry import Telemetry
from misstep.collector.ticker import Ticker
from misstep.core.clock import SystemClock
from misstep.core.settings import StoreSettings
from misstep.diagnosis import diagnose
from misstep.store.store import Store

LOST_NODE = "84e41f84dcb89ee5c4f23359a3ab4daa55712e34c6e5a07f12a47b53"


def disturbed(household: Any, tape: Any, victim: str, chance: random.Random) -> None:
    """Play a tape, and kill the victim somewhere in it, at any instant of whatever it does then."""
    chosen, delay = chance.randrange(len(tape.chunks) - 1), chance.uniform(0, 0.05)

    def kill() -> None:
        time.sleep(delay)
        household.kill(victim)
        household.start(victim)

    killer = threading.Thread(target=kill)
    household.play(tape, lambda index: killer.start() if index == chosen else None)
    killer.join()


def versions(folder: Path) -> list[tuple[str, int, str, str]]:
    """Every version of every incident, as stored."""
    with sqlite3.connect(folder / "incidents.sqlite") as database:
        rows = database.execute("SELECT id, tick, session, body FROM incidents ORDER BY id, tick").fetchall()
    database.close()
    return rows


def diagnosed_again(data: Path, copy: Path) -> list[tuple[str, int, str, str]]:
    """What the same journal and lake give in one go, up to the last tick of before."""
    shutil.copytree(data, copy, ignore=shutil.ignore_patterns("incidents.sqlite*", "agent"))
    with sqlite3.connect(data / "incidents.sqlite") as database:
        (last,) = database.execute("SELECT tick FROM ticks").fetchone()
    database.close()
    store = Store.open(copy, StoreSettings(), background=False)
    ticker = Ticker(store, diagnose, SystemClock(), Telemetry())
    ticker.start()
    deadline = time.monotonic() + 1200
    while ticker.tick() < last:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    ticker.stop()
    store.close()
    return [row for row in versions(copy) if row[1] <= last]


def check_ledger(household: Any, ledger: Any) -> None:
    """Everything acknowledged is there, once, and nothing else is."""
    ledger.end()

    def all_there() -> list[int]:
        found: list[int] = []
        cursor: dict[str, str] = {}
        while True:
            answer = household.ask("logs", session=ledger.SESSION, limit=10000, **cursor)
            if answer is None:
                return []
            found += [int(row["body"]) for row in answer["logs"]]
            if answer["cursor"] is None:
                return found if set(ledger.acknowledged) <= set(found) else []
            cursor = {"cursor": answer["cursor"]}

    stored = Counter(household.until(all_there))
    assert stored == Counter(ledger.acknowledged)


def survive_collector(
    household: Any, ledger: Any, tapes: Callable[[], Any], rounds: int, chance: random.Random, copy: Path
) -> None:
    calm = tapes()
    household.play(calm)
    expected = household.until(lambda: len(found := household.stored(calm)) == calm.size and found)
    first = household.verdict(calm)
    assert (first["cause"], first["blamed"][0]["id"]) == ("ray-node-lost", LOST_NODE)
    played = []
    for _ in range(rounds):
        tape = tapes()
        disturbed(household, tape, "collector", chance)
        played.append(tape)
    for tape in played:
        household.until(lambda tape=tape: len(household.stored(tape)) >= tape.size)
        assert household.stored(tape) == expected
        incident = household.verdict(tape)
        assert (incident["cause"], incident["blamed"][0]["id"]) == ("ray-node-lost", LOST_NODE)
    check_ledger(household, ledger)
    assert ledger.doubts > 0
    household.stop()
    before = versions(household.data)
    assert {session for _, _, session, _ in before} >= {tape.session for tape in played}
    assert diagnosed_again(household.data, copy) == before


def survive_agent(household: Any, tapes: Callable[[], Any], rounds: int, chance: random.Random) -> None:
    calm = tapes()
    household.play(calm)
    expected = household.until(lambda: len(found := household.stored(calm)) == calm.size and found)
    verdict = household.verdict(calm)
    for _ in range(rounds):
        tape = tapes()
        disturbed(household, tape, "agent", chance)
        household.until(lambda tape=tape: len(household.stored(tape)) >= tape.size)
        assert household.stored(tape) == expected
        incident = household.verdict(tape)
        assert incident["cause"] == verdict["cause"]
        assert incident["blamed"][0]["id"] == verdict["blamed"][0]["id"]
        assert any("agent was killed" in gap["reason"] for gap in incident["unseen"]), incident["unseen"]


@pytest.mark.timeout(300)
def test_kills_of_the_collector(
    household: Any, ledger: Any, tapes: Callable[[], Any], tmp_path: Path
) -> None:
    survive_collector(household, ledger, tapes, 3, random.Random(1), tmp_path / "again")


@pytest.mark.timeout(300)
def test_kills_of_the_agent(household: Any, tapes: Callable[[], Any]) -> None:
    survive_agent(household, tapes, 3, random.Random(2))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_many_kills_of_the_collector(
    household: Any, ledger: Any, tapes: Callable[[], Any], tmp_path: Path
) -> None:
    survive_collector(household, ledger, tapes, 60, random.Random(), tmp_path / "again")


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_many_kills_of_the_agent(household: Any, tapes: Callable[[], Any]) -> None:
    survive_agent(household, tapes, 60, random.Random())
