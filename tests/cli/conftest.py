"""A collector that answers from a table, and a clean environment around every command."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

Query = dict[str, list[str]]


class Collector(HTTPServer):
    """Answers ``GET /api/misstep/v1/<path>`` with what `answers[path]` makes of the query."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, Callable[[Query], Any]] = {}
        self.asked: list[tuple[str, Query]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def queries(self, path: str) -> list[Query]:
        return [query for asked, query in self.asked if asked == path]


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer(urlsplit(self.path).query)

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])).decode())

    def _answer(self, form: str) -> None:
        server: Any = self.server
        path, query = urlsplit(self.path).path.removeprefix("/api/misstep/v1/"), parse_qs(form)
        server.asked.append((path, query))
        body = json.dumps(server.answers[path](query)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No command of a test finds the Misstep of the person who runs it, or her settings."""
    for name in ("MISSTEP_ENDPOINT_FILE", "MISSTEP_TOKEN", "MISSTEP_DATA", "XDG_RUNTIME_DIR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.chdir(tmp_path)
    return tmp_path
