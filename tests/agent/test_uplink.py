"""The uplink against a real HTTP server that fails in every way."""

import gzip
import itertools
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)

from misstep.agent import uplink as module
from misstep.agent.coverage import Coverage
from misstep.agent.otlp import Envelope
from misstep.agent.records import Records
from misstep.agent.target import Finder
from misstep.agent.uplink import Uplink
from misstep.core.clock import SettableClock

Behaviour = Callable[["Handler"], None]


def ok(handler: "Handler", body: bytes = b"", **headers: str) -> None:
    reply(handler, 200, body, **headers)


def reply(handler: "Handler", status: int, body: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    for key, value in headers.items():
        handler.send_header(key.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server: Any = self.server
        body = gzip.decompress(self.rfile.read(int(self.headers["Content-Length"])))
        request = ExportLogsServiceRequest.FromString(body)
        bodies = [r.body.string_value for r in request.resource_logs[0].scope_logs[0].log_records]
        with server.lock:
            server.requests.append((self.path, dict(self.headers), bodies, time.monotonic()))
            server.connections.add(self.client_address)
            behaviour = server.behaviours.pop(0) if server.behaviours else ok
        behaviour(self)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.lock = threading.Lock()
        self.requests: list[tuple[str, dict[str, str], list[str], float]] = []
        self.connections: set[tuple[str, int]] = set()
        self.behaviours: list[Behaviour] = []
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def shutdown_request(self, request: Any) -> None:
        self.close_request(request)  # without the FIN before it, so that SO_LINGER 0 resets

    def handle_error(self, request: object, address: object) -> None:
        pass  # clients that go away in the middle are part of the tests

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self.thread.join()

    def until(self, count: int, seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while len(self.requests) < count:
            assert time.monotonic() < end, f"{len(self.requests)} of {count} requests came"
            time.sleep(0.005)

    @property
    def seqs(self) -> list[int]:
        return [int(headers["Misstep-Seq"]) for _, headers, _, _ in self.requests]

    @property
    def bodies(self) -> list[list[str]]:
        return [bodies for _, _, bodies, _ in self.requests]


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.stop()


class Rig:
    """A spool with an uplink."""

    def __init__(self, spool: Any, finder: Finder, **options: Any) -> None:
        self.spool = spool
        self.coverage, self.clock = Coverage("host/x"), SettableClock()
        self.uplink = Uplink(
            spool,
            Envelope({"host.name": "n1"}, "s", "1"),
            finder,
            self.coverage,
            self.clock,
            agent="n1",
            **options,
        )
        self.uplink.watch()

    def say(self, *bodies: str) -> None:
        out = Records(1)
        for body in bodies:
            out.event("kernel.message", body=body)
        self.spool.commit([out])

    def settled(self, seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while self.spool.wait(0):
            assert time.monotonic() < end
            time.sleep(0.005)

    def dropped(self) -> dict[str, int]:
        self.spool.commit([])
        return dict(self.spool.dropped())


@pytest.fixture
def rig(make_spool: Any, server: Server) -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(finder: Finder | None = None, **options: Any) -> Rig:
        made.append(Rig(make_spool(), finder or Finder(server.url, "/nowhere"), **options))
        return made[-1]

    yield make
    for one in made:
        one.uplink.close(0)


def test_in_order_over_one_connection_with_our_headers(rig: Any, server: Any) -> None:
    found = rig(token="s3cret")
    for number in range(5):
        found.say(f"event {number}")
        found.settled()
    assert server.bodies == [[f"event {n}"] for n in range(5)]
    assert server.seqs == [1, 2, 3, 4, 5]
    assert len(server.connections) == 1
    path, headers, _, _ = server.requests[0]
    assert path == "/v1/logs"
    assert headers["Content-Encoding"] == "gzip"
    assert headers["Content-Type"] == "application/x-protobuf"
    assert headers["Authorization"] == "Bearer s3cret"
    assert (headers["Misstep-Agent"], headers["Misstep-Boot"]) == ("n1", found.spool.boot)
    assert found.coverage.state("agent").name == "ok"


def cut(handler: Handler) -> None:
    """Say that 100 bytes come, send 10, reset."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    handler.wfile.write(b"x" * 10)
    handler.wfile.flush()
    reset(handler)


def reset(handler: Handler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True


def nonsense(handler: Handler) -> None:
    handler.wfile.write(b"HELO there\r\n\r\n")
    handler.close_connection = True


@pytest.mark.parametrize("failure", [cut, reset, nonsense])
def test_after_a_doubt_the_same_request_comes_again(rig: Any, server: Any, failure: Any) -> None:
    server.behaviours = [failure, failure]
    found = rig()
    found.say("x")
    server.until(3)
    found.settled()
    found.say("y")
    server.until(4)
    assert server.bodies == [["x"]] * 3 + [["y"]]
    assert server.seqs == [1, 1, 1, 2]
    assert found.dropped() == {}


def test_a_silent_collector_is_given_up_after_the_timeout(rig: Any, server: Any) -> None:
    release = threading.Event()
    server.behaviours = [lambda handler: release.wait(20) and None]
    found = rig(timeout=0.3)
    found.say("x")
    server.until(2)
    release.set()
    assert server.seqs == [1, 1]


def test_a_dribbling_collector_is_cut_off_at_the_deadline(rig: Any, server: Any) -> None:
    """A byte now and then keeps every single read within its timeout."""
    release = threading.Event()

    def dribble(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not release.wait(0.05):
            handler.wfile.write(b"y")

    server.behaviours = [dribble]
    found = rig(timeout=5.0, deadline=0.5)
    found.say("x")
    end = time.monotonic() + 60
    while len(server.requests) < 2:
        assert time.monotonic() < end
        found.uplink.watch()
        time.sleep(0.05)
    release.set()
    assert server.seqs == [1, 1]


def test_a_kept_connection_that_the_collector_closed_is_replaced_at_once(rig: Any, server: Any) -> None:
    def ok_then_close(handler: Handler) -> None:
        ok(handler)
        handler.close_connection = True

    server.behaviours = [ok_then_close]
    found = rig()
    found.say("x")
    found.settled()
    time.sleep(0.1)
    started = time.monotonic()
    found.say("y")
    server.until(2)
    assert time.monotonic() - started < 0.09
    assert server.seqs == [1, 2]


def test_an_answer_without_end_is_not_read_to_its_end(rig: Any, server: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "RESPONSE_LIMIT", 100_000)
    sent = []

    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        try:
            for _ in range(10_000):
                handler.wfile.write(b"10000\r\n" + b"z" * 65536 + b"\r\n")
                sent.append(65536)
        except OSError:
            handler.close_connection = True

    server.behaviours = [endless]
    found = rig()
    found.say("x")
    found.settled()
    found.say("y")
    server.until(2)
    assert server.seqs == [1, 2]
    assert sum(sent) < 64 << 20


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_busy_means_again_with_backoff(rig: Any, server: Any, status: Any) -> None:
    server.behaviours = [lambda handler: reply(handler, status)] * 3
    found = rig()
    found.say("x")
    server.until(4)
    found.settled()
    assert server.seqs == [1] * 4
    times = [when for _, _, _, when in server.requests]
    waits = [b - a for a, b in itertools.pairwise(times)]
    assert waits[0] >= 0.09
    assert waits[2] > waits[0]
    assert found.dropped() == {}


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_obeyed(rig: Any, server: Any, form: Any) -> None:
    value = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
    server.behaviours = [lambda handler: reply(handler, 503, Retry_After=value)]
    found = rig()
    found.say("x")
    server.until(2)
    waited = server.requests[1][3] - server.requests[0][3]
    assert 0.95 <= waited < 3


def test_a_date_that_is_past_or_nonsense_does_not_stop_us() -> None:
    assert module._seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert module._seconds("soon") is None
    assert module._seconds("") is None
    assert module._seconds("120") == 120


@pytest.mark.parametrize("status", [400, 413, 415])
def test_what_the_collector_refuses_for_good_is_dropped_counted_and_told(
    rig: Any, server: Any, status: Any
) -> None:
    server.behaviours = [lambda handler: reply(handler, status)]
    found = rig()
    found.say("x", "y")
    found.settled()
    assert found.dropped() == {"event": 2}
    server.until(2)
    assert server.bodies[1] == [f"the collector refused the request (HTTP {status})"]
    assert server.seqs == [1, 2]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_token_or_address_costs_nothing_but_time(rig: Any, server: Any, status: Any) -> None:
    server.behaviours = [lambda handler: reply(handler, status)] * 2
    found = rig()
    found.say("x")
    server.until(2)
    end = time.monotonic() + 60
    while found.coverage.state("agent") is None:
        assert time.monotonic() < end
    assert found.coverage.state("agent").name == "failing"
    assert f"HTTP {status}" in found.coverage.state("agent").reason
    assert found.coverage.state("agent").remedy
    found.settled()
    assert server.bodies == [["x"]] * 3
    assert found.dropped() == {}


def test_a_request_that_breaks_the_collector_is_given_up_in_the_end(rig: Any, server: Any) -> None:
    server.behaviours = [lambda handler: reply(handler, 500)] * module._SERVER_TRIES
    found = rig()
    found.say("x")
    found.settled(20)
    assert server.bodies == [["x"]] * module._SERVER_TRIES
    assert found.dropped() == {"event": 1}


def test_partial_success_counts_what_was_refused(rig: Any, server: Any) -> None:
    answer = ExportLogsServiceResponse(
        partial_success=ExportLogsPartialSuccess(rejected_log_records=2, error_message="too many labels")
    )
    server.behaviours = [lambda handler: ok(handler, answer.SerializeToString())]
    found = rig()
    found.say("a", "b", "c")
    found.settled()
    assert found.dropped() == {"event": 2}
    server.until(2)
    assert server.bodies[1] == ["the collector refused it: too many labels"]


def test_the_endpoint_file_is_read_again_when_it_changes(rig: Any, server: Any, tmp_path: Path) -> None:
    endpoint = tmp_path / "endpoint.json"
    found = rig(Finder("", str(endpoint)))
    found.say("x")
    time.sleep(0.1)
    assert found.coverage.state("agent").name == "failing"
    other = Server()
    try:
        write(endpoint, other.url)
        other.until(1)
        found.settled()
        write(endpoint, server.url)
        found.say("y")
        server.until(1)
    finally:
        other.stop()
    assert (other.bodies, server.bodies) == ([["x"]], [["y"]])


def write(path: Path, url: str) -> None:
    path.with_suffix(".new").write_text(f'{{"collector": "{url}"}}')
    path.with_suffix(".new").replace(path)


def test_a_collector_that_is_away_gets_everything_when_it_is_back(make_spool: Any) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    found = Rig(make_spool(), Finder(f"http://127.0.0.1:{port}", ""))
    found.say("while it was away")
    time.sleep(0.3)
    state = found.coverage.state("agent")
    assert state is not None
    assert "no answer" in state.reason
    server = Server(port)
    try:
        found.settled()
        assert server.bodies == [["while it was away"]]
    finally:
        found.uplink.close(0)
        server.stop()


def test_a_thread_that_dies_is_said_begun_again_and_sends_the_same_request(
    rig: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = rig()
    with monkeypatch.context() as broken:
        broken.setattr(module, "_gzip", lambda body: 1 / 0)
        found.say("x")
        end = time.monotonic() + 60
        while (state := found.coverage.state("agent")) is None:
            assert time.monotonic() < end
            found.uplink.watch()
            time.sleep(0.005)
        assert "uplink died (ZeroDivisionError" in state.reason
    found.clock.advance(2)
    found.uplink.watch()
    found.settled()
    assert (server.bodies, server.seqs) == ([["x"]], [1])
    end = time.monotonic() + 60
    while found.coverage.state("agent").name != "ok":
        assert time.monotonic() < end


def test_closing_sends_what_waits_but_does_not_wait_for_ever(rig: Any, server: Any) -> None:
    found = rig()
    found.say("last words")
    found.uplink.close(5)
    assert server.bodies == [["last words"]]
    release = threading.Event()
    server.behaviours = [lambda handler: release.wait(30) and None]
    again = Rig(found.spool, Finder(server.url, ""))
    again.say("never answered")
    server.until(2)
    started = time.monotonic()
    again.uplink.close(0.2)
    assert time.monotonic() - started < 3
    release.set()
    assert again.spool.wait(0)
