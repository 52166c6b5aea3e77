"""Requests to store, built with the published protobuf classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from misstep.core import names
from misstep.core.clock import SettableClock
from misstep.core.settings import StoreSettings
from misstep.store.limits import Limits
from misstep.store.request import Batch, Receipt
from misstep.store.store import Store

SESSION = "local/ray/ray/2026-11-20_09-49-30"


class Requests:
    """Bodies of requests, and the short way of sending them."""

    session = SESSION

    @staticmethod
    def log(
        *records: tuple[str, int, Mapping[str, str | int], str], resource: Mapping[str, str] | None = None
    ) -> bytes:
        """A logs request of records (event name, ts, attributes, body)."""
        request = ExportLogsServiceRequest()
        part = request.resource_logs.add()
        for key, value in (resource or {"host.name": "h1"}).items():
            part.resource.attributes.add(key=key).value.string_value = value
        scope = part.scope_logs.add()
        for event, ts, attributes, body in records:
            record = scope.log_records.add(event_name=event, time_unix_nano=ts)
            record.body.string_value = body
            for name, content in attributes.items():
                attribute = record.attributes.add(key=name)
                if isinstance(content, int):
                    attribute.value.int_value = content
                else:
                    attribute.value.string_value = content
        return bytes(request.SerializeToString())

    @classmethod
    def event(
        cls, name: str, ts: int, entity: str = "", state: str = "", body: str = "{}", **more: str
    ) -> tuple[str, int, Mapping[str, str | int], str]:
        """One record about an entity of the session; keywords are attributes, ``__`` for a dot."""
        attributes: dict[str, str | int] = {names.SESSION: SESSION}
        attributes |= {names.ENTITY: entity} if entity else {}
        attributes |= {names.STATE: state} if state else {}
        return name, ts, attributes | {key.replace("__", "."): value for key, value in more.items()}, body

    @staticmethod
    def gauge(name: str, *points: tuple[int, float, Mapping[str, str]]) -> bytes:
        """A metrics request of one gauge with points (ts, value, labels)."""
        request = ExportMetricsServiceRequest()
        metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name=name)
        for ts, value, labels in points:
            point = metric.gauge.data_points.add(time_unix_nano=ts, as_double=value)
            for key, text in labels.items():
                attribute = point.attributes.add(key=key)
                attribute.value.string_value = text
        return bytes(request.SerializeToString())

    @staticmethod
    def send(
        store: Store, signal: str, body: bytes, *, agent: str = "", boot: str = "b", seq: int = -1
    ) -> Receipt:
        """Append and wait for the receipt."""
        return store.append(Batch(signal, body, "", agent, boot, seq), body).result(timeout=60)


@pytest.fixture(scope="session")
def otlp() -> type[Requests]:
    return Requests


Opener = Callable[..., Store]


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
def open_store(tmp_path: Path, clock: SettableClock) -> Iterator[Opener]:
    """Opens stores without threads, closed at the end of the test."""
    opened: list[Store] = []

    def opener(
        folder: Path | None = None, *, limits: Limits | None = None, hot_bytes: int = 1 << 30
    ) -> Store:
        settings = StoreSettings(hot_bytes=hot_bytes)
        store = Store.open(
            folder or tmp_path / "data", settings, clock=clock, background=False, limits=limits
        )
        opened.append(store)
        return store

    yield opener
    for store in opened:
        store.close()
