"""The process that runs one statement; `runner` starts it with a job as its standard input.

It opens DuckDB and the lake, shuts itself in, reads the statement, and writes one JSON object to standard output.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import signal
import sys
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from misstep.core.errors import InputError
from misstep.store.sandbox import confinement, statement
from misstep.store.sandbox.job import Job

_OVERHEAD = 3 * 1024 * 1024 * 1024
"""Address space of Python, Arrow, DuckDB and its threads' stacks, hardly any of which is ever touched."""
_INTEGERS = frozenset(
    {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"}
)  # fmt: skip


def main() -> None:
    """Do the job and end."""
    job = Job.read(sys.stdin.buffer.read())
    confinement.bind_to_parent()
    try:
        answer = _run(job)
    except InputError as error:
        answer = {"error": str(error), "kind": "query"}
    except duckdb.OutOfMemoryException:
        answer = {"error": f"the statement needs more than {job.memory >> 20} MiB", "kind": "limit"}
    except MemoryError:
        answer = {"error": f"the statement needs more than {job.memory >> 20} MiB", "kind": "limit"}
    except duckdb.Error as error:
        answer = {"error": _said(error), "kind": "query"}
    body = json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    view = memoryview(body)
    while view:
        view = view[os.write(1, view) :]
    # Nothing is left to be tidied up, and threads of DuckDB must not delay the end.
    os._exit(0)


def _run(job: Job) -> dict[str, Any]:
    connection = _open(job)
    confinement.forbid_calls(network=job.network)
    statement.check(connection, job.sql, frozenset(job.views))
    names, types, rows = _rows(connection, job)
    return {
        "columns": [{"name": name, "type": kind} for name, kind in zip(names, types, strict=True)],
        "rows": rows[: job.rows],
        "truncated": len(rows) > job.rows,
    }


def _open(job: Job) -> duckdb.DuckDBPyConnection:
    """DuckDB with our views, shut in."""
    # Threads take Landlock from the one that starts them, so it comes before DuckDB has any.
    confinement.read_only_below([Path(folder) for folder in job.folders], network=job.network)
    connection = duckdb.connect(
        ":memory:",
        config={
            **job.config,
            "threads": str(job.threads),
            "memory_limit": f"{job.memory}B",
            "temp_directory": "",
            "python_enable_replacements": "false",
        },
    )
    for command in job.setup:
        connection.execute(command)
    connection.execute("CREATE SCHEMA hot")
    for name, handle in job.hot.items():
        size = os.fstat(handle).st_size
        with mmap.mmap(handle, size, prot=mmap.PROT_READ) as mapped:
            # Copied, so that what DuckDB holds counts towards its limit.
            arriving = pa.ipc.open_stream(pa.py_buffer(mapped)).read_all()
            connection.register("arriving", arriving)
            connection.execute(f"CREATE TABLE hot.{name} AS SELECT * FROM arriving")
            connection.unregister("arriving")
            del arriving
        os.close(handle)
    for name, query in job.views.items():
        connection.execute(f"CREATE VIEW main.{name} AS {query}")
    folders = ", ".join("'" + folder.replace("'", "''") + "'" for folder in job.readable)
    connection.execute(f"SET allowed_directories = [{folders}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, job.seconds)
    confinement.limits(memory=job.memory + _OVERHEAD, cpu_seconds=math.ceil(job.seconds * job.threads) + 1)
    return connection


def _rows(connection: duckdb.DuckDBPyConnection, job: Job) -> tuple[list[str], list[str], list[list[Any]]]:
    asked = connection.sql(job.sql)
    names, types = [str(name) for name in asked.columns], [str(kind) for kind in asked.types]
    places = [f"c{i}" for i in range(len(names))]
    shown = ", ".join(_shown(place, kind) for place, kind in zip(places, types, strict=True))
    found = asked.query(
        "this_statement", f"SELECT {shown} FROM this_statement AS t({', '.join(places)}) LIMIT {job.rows + 1}"
    ).fetchall()
    nested = [i for i, kind in enumerate(types) if _is_nested(kind)]
    rows = [[_plain(value) for value in row] for row in found]
    for row in rows:
        for i in nested:
            row[i] = None if row[i] is None else json.loads(row[i])
    return names, types, rows


def _shown(place: str, kind: str) -> str:
    """A column as something that JSON can say."""
    if _is_nested(kind):
        return f"to_json({place})::VARCHAR"
    if kind == "BLOB":
        return f"lower(hex({place}))"
    if kind.startswith("DECIMAL"):
        return f"{place}::DOUBLE"
    if kind in _INTEGERS or kind in ("DOUBLE", "FLOAT", "BOOLEAN", "VARCHAR"):
        return place
    return f"{place}::VARCHAR"


def _is_nested(kind: str) -> bool:
    return kind.endswith("]") or kind.startswith(("MAP(", "STRUCT(", "UNION(")) or kind == "JSON"


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _said(error: duckdb.Error) -> str:
    """DuckDB's message without the statement, whose wrapping nobody wrote."""
    return str(error).partition("\n\nLINE")[0].partition("\nLINE")[0].strip()[:2000]


if __name__ == "__main__":
    main()
