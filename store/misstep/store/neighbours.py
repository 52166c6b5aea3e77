"""What other collectors of a shared lake have received and not yet sealed: asked of them, and kept beside our own rows.

Each is asked for what came after what we have, so that a question costs what is new. Who cannot be asked is named: an answer
that was made without it is partial.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import duckdb
import pyarrow as pa

from misstep.core.errors import MisstepError, UnavailableError
from misstep.store.hot import Hot
from misstep.store.origin import BITS
from misstep.store.registry import Member, Registry

FRESH_SECONDS = 0.25
"""What was asked so recently is not asked again."""

SILENT_SECONDS = 2.0
"""Who did not answer is not asked again for so long; until then every answer is partial."""

_AT_ONCE = 16

Unsealed = dict[str, Any]
"""Arrow tables by name."""

Ask = Callable[[str, int], Unsealed]
"""Rows with a greater position that a collector has in memory, by its URL; raises UnavailableError."""

_log = logging.getLogger(__name__)


class Neighbours:
    """Safe for any thread; who comes while another asks waits for that answer."""

    def __init__(self, registry: Registry, hot: Hot, ask: Ask) -> None:
        self._registry, self._hot, self._ask = registry, hot, ask
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(_AT_ONCE, "neighbours")
        self._asked = -1e9
        self._silent: dict[int, float] = {}
        self._known: dict[int, int] = {}
        self._missing: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """Collectors whose unsealed rows the last answer was made without."""
        return self._missing

    def refresh(self) -> tuple[str, ...]:
        """Ask everyone who may have something; returns `missing`."""
        with self._lock:
            if time.monotonic() - self._asked < FRESH_SECONDS:
                return self._missing
            try:
                members = self._registry.members()
                sealed = self._sealed()
            except (MisstepError, duckdb.Error) as error:
                _log.warning("the other collectors are not known: %s", error)
                self._missing = ("all other collectors",)
                return self._missing
            heard = list(self._pool.map(lambda member: self._hear(member, sealed), members))
            arrived: dict[str, list[Any]] = {}
            missing = []
            for member, tables in zip(members, heard, strict=True):
                if tables is None:
                    missing.append(
                        f"collector {member.origin.number}" + (f" at {member.url}" if member.url else "")
                    )
                for name, rows in (tables or {}).items():
                    arrived.setdefault(name, []).append(rows)
            drop = {origin << BITS: seq for origin, seq in sealed.items()}
            drop |= {
                member.origin.base: sealed.get(member.origin.number, member.origin.base) for member in members
            }
            self._hot.take_foreign({name: pa.concat_tables(rows) for name, rows in arrived.items()}, drop)
            for member, tables in zip(members, heard, strict=True):
                if tables and "requests" in tables:
                    self._known[member.origin.number] = int(tables["requests"].column("seq").to_numpy().max())
            self._missing = tuple(missing)
            self._asked = time.monotonic()
            return self._missing

    def close(self) -> None:
        """Ask nobody any more."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _sealed(self) -> dict[int, int]:
        """How far each other collector has sealed."""
        cursor = self._hot.cursor()
        try:
            rows = cursor.execute(
                f"SELECT seq >> {BITS}, max(seq) FROM lake.main.positions GROUP BY 1"
            ).fetchall()
        finally:
            cursor.close()
        own = self._hot.origin.number
        return {int(origin): int(seq) for origin, seq in rows if origin != own}

    def _hear(self, member: Member, sealed: dict[int, int]) -> Unsealed | None:
        number = member.origin.number
        if time.monotonic() - self._silent.get(number, -1e9) < SILENT_SECONDS:
            return None
        after = max(sealed.get(number, member.origin.base), self._known.get(number, 0))
        try:
            return self._ask(member.url, after)
        except UnavailableError as error:
            _log.warning("collector %d does not tell what it has not sealed: %s", number, error)
            self._silent[number] = time.monotonic()
            return None
