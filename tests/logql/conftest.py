"""A store with lines of every kind, and the short way of asking it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from misstep.core.settings import StoreSettings
from misstep.store import loki
from misstep.store.request import Batch
from misstep.store.store import Store
from misstep.store.view import View

SECOND = 1_000_000_000
END = 10_000 * SECOND
RESOURCE = {"host.name": "n1", "service.name": "web", "os.type": "linux"}


class Lines:
    """Builds requests and asks for lines."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def send(self, *records: Mapping[str, Any], resource: Mapping[str, str] = RESOURCE) -> None:
        """Store records of ts (seconds), body, severity, event and attributes."""
        request = ExportLogsServiceRequest()
        group = request.resource_logs.add()
        for key, value in resource.items():
            group.resource.attributes.add(key=key).value.string_value = value
        scope = group.scope_logs.add()
        for record in records:
            log = scope.log_records.add(
                time_unix_nano=round(record["ts"] * SECOND),
                severity_number=record.get("severity", 9),
                event_name=record.get("event", ""),
            )
            log.body.string_value = record.get("body", "")
            for key, value in record.get("attributes", {}).items():
                log.attributes.add(key=key).value.string_value = value
        body = request.SerializeToString()
        self.store.append(Batch("logs", body, "", "", "b", -1), body).result(timeout=60)

    def view(self) -> View:
        return self.store.view()

    def ask(self, query: str, *, limit: int = 1000, newest: bool = False) -> list[loki.Entry]:
        parsed = loki.parse(query)
        assert isinstance(parsed, loki.LogQuery)
        return loki.lines(self.view(), parsed, start=0, end=END, limit=limit, newest=newest)

    def texts(self, query: str) -> list[str]:
        return [entry.line for entry in self.ask(query)]

    def numbers(
        self, query: str, start: float = 1000, end: float = 1000, step: float = 1
    ) -> dict[tuple[tuple[str, str], ...], list[float]]:
        """Values by labels."""
        parsed = loki.parse(query)
        assert not isinstance(parsed, loki.LogQuery)
        steps = loki.steps_of(*(round(t * SECOND) for t in (start, end, step)))
        found = loki.evaluate(self.view(), parsed, steps)
        assert isinstance(found, loki.Matrix)
        return {
            tuple(sorted(labels.items())): values
            for labels, values in zip(found.series, found.values.tolist(), strict=True)
        }


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lines]:
    """An empty store for the tests of a module."""
    folder = tmp_path_factory.mktemp("logql") / "data"
    store = Store.open(folder, StoreSettings(), background=False)
    yield Lines(store)
    store.close()
