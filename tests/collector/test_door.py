"""Where bodies are parsed: large ones never in the loop, which has others to serve."""

from __future__ import annotations

import asyncio
import gzip
import threading
from pathlib import Path

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from misstep.collector.door import Door, Parcel
from misstep.collector.telemetry import Telemetry
from misstep.core.settings import StoreSettings
from misstep.store import otlp
from misstep.store.store import Store


def logs(text: str) -> bytes:
    request = ExportLogsServiceRequest()
    record = request.resource_logs.add().scope_logs.add().log_records.add(time_unix_nano=1)
    record.body.string_value = text
    return bytes(request.SerializeToString())


@pytest.mark.parametrize(("size", "inside"), [(10, True), (3 << 20, False)])
def test_a_body_that_is_small_only_while_it_is_compressed_is_parsed_beside_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, inside: bool
) -> None:
    parsed: list[int] = []
    malformed = otlp.malformed

    def told(signal: str, payload: bytes) -> str:
        parsed.append(threading.get_ident())
        return malformed(signal, payload)

    monkeypatch.setattr(otlp, "malformed", told)
    store = Store.open(tmp_path, StoreSettings())
    body = gzip.compress(logs("x" * size))
    assert len(body) < 16 * 1024

    async def take() -> int:
        receipt = await Door(store, 64 << 20, Telemetry()).take(Parcel(otlp.LOGS, body, "gzip"))
        return receipt.rejected

    try:
        assert asyncio.run(take()) == 0
    finally:
        store.close()
    assert [thread == threading.get_ident() for thread in parsed] == [inside]
