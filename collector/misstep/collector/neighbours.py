"""What several collectors of one lake tell each other over HTTP: the rows that are not sealed yet, as Arrow."""

from __future__ import annotations

import http.client
import ssl
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pyarrow as pa

from misstep.core.errors import UnavailableError
from misstep.store.neighbours import Unsealed
from misstep.store.store import Store

PATH = "/api/misstep/v1/unsealed"
KIND = b"application/vnd.misstep.unsealed"
HEADER = b"misstep-partial"
"""Names, in an answer, the collectors without whose newest rows it was made."""

_PATIENCE = 3.0
_AT_MOST = 2 << 30


def told(store: Store, query: bytes) -> bytes:
    """The answer to a neighbour.

    Args:
        store: whose rows are told.
        query: of the URL; ``after`` is the last position that the neighbour has.

    Raises:
        ValueError: it asks for no position.
    """
    words = dict(part.partition("=")[::2] for part in query.decode("ascii", "replace").split("&"))
    tables = store.unsealed(int(words.get("after", "0")))
    return msgspec.msgpack.encode({name: _packed(rows) for name, rows in tables.items()})


class Asker:
    """Asks other collectors.

    Args:
        token: with the scope ``read`` at all of them; empty where none is needed.
    """

    def __init__(self, token: str) -> None:
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def __call__(self, url: str, after: int) -> Unsealed:
        """Rows with a greater position that a collector has in memory.

        Raises:
            UnavailableError: it does not answer, or not as a collector does.
        """
        if not url:
            raise UnavailableError("it has not said where it answers")
        try:
            return self._ask(url, after)
        except (
            OSError,
            http.client.HTTPException,
            msgspec.MsgspecError,
            pa.ArrowException,
            ValueError,
        ) as error:
            raise UnavailableError(f"{url}: {error}") from error

    def _ask(self, url: str, after: int) -> dict[str, Any]:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(host, port, timeout=_PATIENCE, context=context)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=_PATIENCE)
        try:
            connection.request("GET", f"{PATH}?after={after}", headers=self._headers)
            answer = connection.getresponse()
            body = answer.read(_AT_MOST)
        finally:
            connection.close()
        if answer.status != 200:
            raise UnavailableError(f"{url} answers {answer.status}")
        packed = msgspec.msgpack.decode(body, type=dict[str, bytes])
        return {name: pa.ipc.open_stream(data).read_all() for name, data in packed.items()}


def _packed(rows: Any) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_stream(sink, rows.schema, options=options) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())
