"""What a sandboxed process is told to do."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Job:
    """One statement with all that it takes.

    Attributes:
        sql: the statement.
        config: how DuckDB is started.
        setup: statements of ours that attach the lake.
        views: by name what people may read from, as SQL.
        hot: by table the descriptor of an open file with its unsealed rows, an Arrow stream.
        folders: what the process may read at all.
        readable: what DuckDB may read once it is shut in.
        rows: of the answer.
        seconds: wall time.
        memory: bytes.
        threads: of DuckDB.
        network: whether catalog or data are elsewhere, so that it needs sockets.
    """

    sql: str
    config: dict[str, Any]
    setup: list[str]
    views: dict[str, str]
    hot: dict[str, int]
    folders: list[str]
    readable: list[str]
    rows: int
    seconds: float
    memory: int
    threads: int = 2
    network: bool = field(default=False)

    def write(self) -> bytes:
        """As `read` reads it."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def read(cls, text: bytes) -> Job:
        """What `write` wrote."""
        return cls(**json.loads(text))
