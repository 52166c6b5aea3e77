"""What a sandboxed process gets to read: the sealed rows in the lake itself, the unsealed ones as Arrow.

Only what no seal has yet taken is handed over, at most some seconds' worth, and only of tables that the statement names.
Both sides meet at the sealed position, so that a seal between handing over and reading changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from misstep.store import graph
from misstep.store.schema import TABLES

_BITS = 48
"""A position's upper bits say which collector gave it."""
_COLUMNS = {table.name: table.columns for table in TABLES}
_DERIVED = {"entities": graph.ENTITIES, "relations": graph.RELATIONS}
"""Views over table ``logs``."""
_WORD = re.compile(r"\w+")


class Source(Protocol):
    """A `View`."""

    def ask(self, query: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run a query in which ``{logs}``, … stand for tables."""
        ...

    def arrow(self, query: str) -> Any:
        """The same, as an Arrow table."""
        ...


class Other(NamedTuple):
    """A small table that lies elsewhere: its columns, and how its rows are had if the statement names it."""

    schema: Any
    rows: Callable[[], list[dict[str, Any]]]


class Handover:
    """Views over what a `View` sees, and the rows that go with them.

    Args:
        source: what is seen.
        sql: the statement, of which only the words matter.
        others: tables that lie elsewhere, by name.
    """

    def __init__(self, source: Source, sql: str, others: Mapping[str, Other]) -> None:
        words = {word.lower() for word in _WORD.findall(sql)}
        named = {name for name in _COLUMNS if name in words}
        if words & _DERIVED.keys():
            named.add("logs")
        self._sealed = _sealed(source)
        self.tables = {name: self._unsealed(source, name) for name in sorted(named)}
        self.tables |= {
            name: pa.Table.from_pylist(other.rows(), schema=other.schema)
            for name, other in others.items()
            if name in words
        }
        self.views = {name: self._view(name) for name in _COLUMNS}
        tables = {name: f"main.{name}" for name in _COLUMNS}
        self.views |= {name: query.format_map(tables) for name, query in _DERIVED.items()}
        # A table that the statement does not name is there all the same, empty, for SHOW TABLES.
        self.views |= {name: _whole(name, other.schema, name in words) for name, other in others.items()}

    def _view(self, name: str) -> str:
        columns = ", ".join(_quoted(column) for column, _ in _COLUMNS[name])
        lake = f"SELECT {columns} FROM lake.main.{name} WHERE {self._condition()}"
        return f"{lake} UNION ALL SELECT {columns} FROM hot.{name}" if name in self.tables else lake

    def _unsealed(self, source: Source, name: str) -> Any:
        columns = ", ".join(_quoted(column) for column, _ in _COLUMNS[name])
        return source.arrow(f"SELECT {columns} FROM {{{name}}} WHERE NOT {self._condition()}")

    def _condition(self) -> str:
        if list(self._sealed) == [0]:
            return f"(seq <= {self._sealed[0]})"
        parts = [f"(seq > {o << _BITS} AND seq <= {end})" for o, end in self._sealed.items()]
        return f"({' OR '.join(parts) or 'false'})"


def _sealed(source: Source) -> dict[int, int]:
    """For each collector the last position that is both sealed and seen.

    Asked in this order: what is sealed after the snapshot of the hot rows is behind its end.
    """
    seen = dict(source.ask(f"SELECT seq >> {_BITS}, max(seq) FROM {{requests}} GROUP BY 1"))
    sealed = dict(source.ask(f"SELECT seq >> {_BITS}, max(seq) FROM lake.main.positions GROUP BY 1"))
    return {int(o): min(int(sealed[o]), int(end)) for o, end in seen.items() if o in sealed}


def _whole(name: str, schema: Any, named: bool) -> str:
    if named:
        return f"SELECT * FROM hot.{name}"
    columns = ", ".join(f"NULL::{_KINDS[field.type]} AS {_quoted(field.name)}" for field in schema)
    return f"SELECT {columns} WHERE false"


_KINDS = {pa.string(): "VARCHAR", pa.int64(): "BIGINT", pa.float64(): "DOUBLE"}


@contextlib.contextmanager
def files(tables: Mapping[str, Any]) -> Iterator[dict[str, int]]:
    """Arrow tables as open files without a name, whose descriptors a child may inherit."""
    with contextlib.ExitStack() as stack:
        handles = {}
        for name, table in tables.items():
            file = stack.enter_context(_file())
            with pa.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table)
            file.flush()
            handles[name] = file.fileno()
        yield handles


def _file() -> Any:
    """In memory where the system has such files."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("misstep-rows"), "wb")
    return tempfile.TemporaryFile()


def _quoted(name: str) -> str:
    return '"' + name + '"'
