"""Who may send over gRPC: the same rules as HTTP, with and without TLS."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from misstep.collector.access import Access
from misstep.collector.door import Door
from misstep.collector.grpc_server import GrpcServer
from misstep.collector.telemetry import Telemetry
from misstep.collector.tokens import Tokens
from misstep.core.settings import StoreSettings
from misstep.store.store import Store

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


class Served:
    """A server that trusts no local user, on a loop of its own."""

    def __init__(self, folder: Path, tls: dict[str, Any]) -> None:
        self.tokens = Tokens(folder / "tokens.json")
        self.telemetry = Telemetry()
        self.store = Store.open(folder / "data", StoreSettings())
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self._tls = tls
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()))
        self._thread.start()
        assert self._ready.wait(60)

    async def _serve(self) -> None:
        door = Door(self.store, 1 << 20, self.telemetry)
        access = Access(self.tokens, users=())
        server = GrpcServer(access, door, self.telemetry, "127.0.0.1", self.port, self._tls)
        await server.start()
        self._ready.set()
        await self._stop.wait()
        await server.stop(1)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        self._loop.close()
        self.store.close()

    def status(self, channel: Any, token: str = "") -> grpc.StatusCode:
        """What an Export is answered with."""
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        try:
            channel.unary_unary(EXPORT)(b"", timeout=60, metadata=metadata)
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK


@pytest.fixture
def certificate(tmp_path: Path) -> dict[str, Any]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    key, chain = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", chain],
        check=True, capture_output=True,
    )  # fmt: skip
    return {"ssl_keyfile": str(key), "ssl_certfile": str(chain)}


@pytest.fixture
def served(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Served]:
    tls = request.getfixturevalue("certificate") if request.param else {}
    found = Served(tmp_path, tls)
    yield found
    found.close()


@pytest.mark.parametrize("served", [False, True], indirect=True, ids=["plain", "tls"])
def test_tokens_and_scopes_hold_over_grpc(served: Served, tmp_path: Path, request: Any) -> None:
    target = f"127.0.0.1:{served.port}"
    chain = tmp_path / "certificate.pem"
    if chain.exists():
        channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(chain.read_bytes()))
    else:
        channel = grpc.insecure_channel(target)
    with channel:
        assert served.status(channel) is grpc.StatusCode.UNAUTHENTICATED
        assert served.status(channel, "misstep_made-up") is grpc.StatusCode.UNAUTHENTICATED
        reading = served.tokens.create("reader", ("read",))
        assert served.status(channel, reading) is grpc.StatusCode.PERMISSION_DENIED
        sending = served.tokens.create("sender", ("ingest",))
        assert served.status(channel, sending) is grpc.StatusCode.OK
    counted = served.telemetry.text().decode()
    assert 'misstep_collector_refused_total{reason="token"} 2.0' in counted
    assert 'misstep_collector_refused_total{reason="scope"} 1.0' in counted
