"""Which statements are run: one SELECT over our tables, whose functions read nothing but their arguments."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import duckdb

from misstep.core.errors import InputError

LENGTH_LIMIT = 100_000
"""Characters."""
TABLE_FUNCTIONS = frozenset(
    {"unnest", "range", "generate_series", "repeat", "repeat_row", "json_each", "json_tree", "summary"}
)
"""Functions that may stand where a table stands; all others, which may read files or the catalog, may not."""
_FORBIDDEN = re.compile(
    r"(read|scan|sniff|glob|write|copy|getenv|getvariable|current_setting|nextval|currval|query|query_table"
    r"|(ducklake|sqlite|postgres|duckdb|pragma|parquet|arrow|pandas|python|json_execute|http|load|install)_.*"
    r"|.*_(scan|query|attach|execute))"
)
_TABLE_REFERENCES = frozenset(
    {"BASE_TABLE", "SUBQUERY", "JOIN", "TABLE_FUNCTION", "EXPRESSION_LIST", "EMPTY", "EMPTY_FROM", "PIVOT", "SHOW_REF", "CTE"}
)  # fmt: skip
_NAME = re.compile(r"[^\W\d][\w ]{0,100}")
_NODES_LIMIT = 20_000


def check(connection: duckdb.DuckDBPyConnection, sql: str, tables: frozenset[str]) -> None:
    """Read a statement as DuckDB reads it, and refuse what is not for people who only ask.

    Args:
        connection: any.
        sql: the statement.
        tables: names that it may read from.

    Raises:
        InputError: it is no statement, more than one, or does what it may not.
    """
    if len(sql) > LENGTH_LIMIT:
        raise InputError(f"the statement is longer than {LENGTH_LIMIT} characters")
    row = connection.execute("SELECT json_serialize_sql($1::VARCHAR)", [sql]).fetchone()
    tree: dict[str, Any] = json.loads(str(row[0])) if row else {"error": True}
    if tree.get("error"):
        said = str(tree.get("error_message", "it cannot be read"))
        if tree.get("error_type") == "not implemented":
            raise InputError("only SELECT is run here: what is stored can be read, and nothing else be done")
        raise InputError(f"this is not SQL that DuckDB understands: {said}")
    statements: list[Any] = tree["statements"]
    if len(statements) != 1:
        raise InputError("one statement at a time, please")
    nodes = list(_nodes(statements))
    if len(nodes) > _NODES_LIMIT:
        raise InputError("the statement is too large")
    own = {str(entry["key"]) for node in nodes for entry in _entries(node)}
    for name in own:
        if not _NAME.fullmatch(name):
            raise InputError(f"{name[:50]!r} is no name for a WITH")
    for node in nodes:
        _check_node(node, tables, frozenset(name.lower() for name in own))


def _check_node(node: dict[str, Any], tables: frozenset[str], own: frozenset[str]) -> None:
    kind = node.get("type")
    if "function_name" in node:
        name = str(node["function_name"]).lower()
        if _FORBIDDEN.fullmatch(name):
            raise InputError(f"the function {name[:60]} is not run here")
    if kind == "TABLE_FUNCTION":
        name = str((node.get("function") or {}).get("function_name", "")).lower()
        if name not in TABLE_FUNCTIONS:
            raise InputError(
                f"{name[:60]}() is not read from here; the tables are {', '.join(sorted(tables))}"
            )
    elif kind == "BASE_TABLE":
        _check_table(node, tables | own)
    elif kind == "SHOW_REF":
        _check_shown(node, tables)
    elif "column_name_alias" in node and "sample" in node and kind not in _TABLE_REFERENCES:
        raise InputError(f"{kind} is not read from here")


def _check_table(node: dict[str, Any], known: frozenset[str]) -> None:
    name = str(node.get("table_name", ""))
    if node.get("schema_name") or node.get("catalog_name") or name.lower() not in known:
        whole = ".".join(str(node[k]) for k in ("catalog_name", "schema_name", "table_name") if node.get(k))
        raise InputError(f"there is no table {whole[:100]!r}; the tables are {', '.join(sorted(known))}")


def _check_shown(node: dict[str, Any], tables: frozenset[str]) -> None:
    """``DESCRIBE``, ``SUMMARIZE`` and ``SHOW TABLES``."""
    name = str(node.get("table_name", "")).strip('"').lower()
    if node.get("query") or not name or name in tables:
        return
    if name != "tables":
        raise InputError(f"there is no table {name[:100]!r}; the tables are {', '.join(sorted(tables))}")


def _entries(node: dict[str, Any]) -> list[dict[str, Any]]:
    common = node.get("cte_map")
    entries = common.get("map") if isinstance(common, dict) else None
    return [entry for entry in entries or [] if isinstance(entry, dict) and "key" in entry]


def _nodes(whole: Any) -> Iterator[dict[str, Any]]:
    waiting = [whole]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
