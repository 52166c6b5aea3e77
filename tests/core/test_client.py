"""The client against a real server on loopback."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from misstep.core import client as module
from misstep.core.client import Client, endpoint_file, read_endpoint
from misstep.core.errors import MisstepError, UnavailableError


class Server(HTTPServer):
    """Answers every GET with `status` and `body`, and keeps what was asked."""

    status = 200
    body = b"{}"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, dict[str, str]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server: Any = self.server
        server.asked.append((self.path, dict(self.headers)))
        self.send_response(server.status)
        self.send_header("Content-Length", str(len(server.body)))
        self.end_headers()
        self.wfile.write(server.body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("MISSTEP_TOKEN", raising=False)
    with Server() as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def test_asks_with_what_is_given_and_leaves_the_rest_out(server: Server) -> None:
    server.body = b'{"logs": []}'
    answer = Client(server.url).get("logs", session="a/b", contains=["x y", "z"], until=None, limit=3)
    path, headers = server.asked[0]
    assert answer == {"logs": []}
    assert path == "/api/misstep/v1/logs?session=a%2Fb&contains=x+y&contains=z&limit=3"
    assert headers["Accept"] == "application/json"
    assert "Authorization" not in headers


def test_a_path_before_the_api_is_kept(server: Server) -> None:
    Client(server.url + "/misstep/").get("sessions")
    assert server.asked[0][0] == "/misstep/api/misstep/v1/sessions"


def test_the_token_comes_from_the_caller_or_the_environment(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISSTEP_TOKEN", "environment")
    Client(server.url).get("sessions")
    Client(server.url, token="caller").get("sessions")
    assert [h["Authorization"] for _, h in server.asked] == ["Bearer environment", "Bearer caller"]


def test_a_refusal_speaks_in_the_collectors_words(server: Server) -> None:
    server.status, server.body = 400, b'{"error": "unknown parameter \'sesion\'; did you mean session?"}'
    with pytest.raises(MisstepError, match="did you mean session"):
        Client(server.url).get("logs", sesion="x")


def test_a_refusal_without_words_names_address_and_status(server: Server) -> None:
    server.status, server.body = 502, b"[]"
    with pytest.raises(MisstepError, match=r"/api/misstep/v1/logs answered 502"):
        Client(server.url).get("logs")


def test_what_is_no_collector_is_said(server: Server) -> None:
    server.body = b"<html>hello</html>"
    with pytest.raises(MisstepError, match="is it a Misstep collector"):
        Client(server.url).get("logs")


def test_an_answer_without_end_is_cut(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESPONSE_LIMIT", 10)
    server.body = json.dumps("x" * 100).encode()
    with pytest.raises(MisstepError, match="answered more than"):
        Client(server.url).get("logs")


def test_nobody_there(server: Server) -> None:
    url = server.url
    server.server_close()
    with pytest.raises(UnavailableError, match=r"no collector answers at .* misstep up"):
        Client(url, timeout=1).get("sessions")


def test_the_endpoint_file_tells_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "endpoint.json"
    monkeypatch.setenv("MISSTEP_ENDPOINT_FILE", str(file))
    with pytest.raises(UnavailableError, match="Start it with: misstep up"):
        Client()
    file.write_text("{")
    with pytest.raises(UnavailableError, match="unreadable"):
        read_endpoint()
    file.write_text('{"collector": "http://127.0.0.1:1/"}')
    assert Client().url == "http://127.0.0.1:1"


def test_where_the_endpoint_file_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert endpoint_file(Path("/data")) == tmp_path / "misstep" / "endpoint.json"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert endpoint_file(Path("/data")) == Path("/data/endpoint.json")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert endpoint_file() == tmp_path / "misstep" / "endpoint.json"
