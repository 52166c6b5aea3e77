"""The receiver keeps what it acknowledges, refuses what it should, and counts both."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from misstep.agent import peers
from misstep.agent.context import Context
from misstep.agent.receiver import Receiver
from misstep.core import names
from misstep.core.errors import StorageError, UnavailableError


@pytest.fixture
def heard() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def receiver(context: Context, heard: list[tuple[str, str]]) -> Iterator[Receiver]:
    held = Receiver(
        context, locate=lambda *where: "", heard=lambda name, cluster: heard.append((name, cluster)),
        owner=lambda pid: "local/ray/ray/mine" if pid == 4242 else "",
    )  # fmt: skip
    held.start()
    yield held
    held.close()


class Post:
    """One keep-alive client."""

    def __init__(self, receiver: Receiver) -> None:
        self.link = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=60)

    def __call__(
        self,
        path: str,
        body: bytes | str | Iterator[bytes] | None,
        headers: dict[str, str] | None = None,
        method: str = "POST",
    ) -> tuple[int, Any, Any]:
        self.link.request(method, path, body, headers or {})
        answer = self.link.getresponse()
        return answer.status, json.loads(answer.read()), answer.headers


@pytest.fixture
def post(receiver: Receiver) -> Iterator[Post]:
    held = Post(receiver)
    yield held
    held.link.close()


def task(number: int, text: str = "") -> dict[str, Any]:
    return {
        "eventId": "AAAA", "eventType": "TASK_LIFECYCLE_EVENT", "sessionName": "session_2026_1_7", "timestamp": "2026-11-20T09:50:30Z",
        "taskLifecycleEvent": {"taskId": f"{number:08d}", "stateTransitions": [], "rayErrorInfo": {"errorMessage": text}},
    }  # fmt: skip


def test_events_are_kept_before_the_answer(
    post: Post, spooled: Any, sample: Any, heard: list[tuple[str, str]]
) -> None:
    status, _, _ = post("/v1/ray/lab/events", json.dumps(sample("events.json")))
    assert status == 200
    kept = spooled()
    assert len(kept) == len(sample("events.json"))
    assert kept[0].attributes[names.SESSION].startswith("local/ray/lab/")
    assert heard == [("session_2026-11-20_09-49-30_276594_21621", "lab")]
    assert post("/v1/ray/lab/events", "[]")[0] == 200  # the connection lives on


def test_a_large_body_is_taken_in_pieces(
    context: Context, receiver: Receiver, post: Post, spooled: Any
) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"["
        for number in range(1000):
            yield (b"," if number else b"") + json.dumps(task(number, "x" * 20_000)).encode()
        yield b"]"

    before = _resident()
    began = time.monotonic()
    status, _, _ = post("/v1/ray/lab/events", chunks())
    assert (status, time.monotonic() - began < 10) == (200, True)  # Ray waits 3 s; this machine may be busy
    assert _resident() - before < 20 << 20
    assert len(spooled()) == 1000


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_malformed_bodies_are_refused_and_counted(post: Post, spooled: Any, context: Context) -> None:
    status, answer, _ = post("/v1/ray/lab/events", b'[{"eventType": ], ' + b'"padding": 1, ' * 9)
    assert status == 400
    assert "malformed JSON" in answer["error"]
    assert context.spool.dropped() == {"event": 1}


def test_what_came_before_the_damage_is_kept(post: Post, spooled: Any) -> None:
    many = ",".join(json.dumps(task(number, "y" * 30_000)) for number in range(80))
    assert post("/v1/ray/lab/events", f"[{many}, nonsense]")[0] == 400
    assert len([r for r in spooled() if r.name == "ray.task.lifecycle"]) >= 30


def test_an_event_that_is_too_long_does_not_stop_the_stream(
    post: Post, spooled: Any, context: Context
) -> None:
    body = json.dumps([task(1), task(2, "z" * 3_000_000), task(3)])
    assert post("/v1/ray/lab/events", body)[0] == 200
    assert len([r for r in spooled() if r.name == "ray.task.lifecycle"]) == 2
    assert context.spool.dropped() == {"event": 1}


def test_a_full_disk_is_said(post: Post, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(context.spool, "commit", refuse)
    status, answer, headers = post("/v1/ray/lab/events", json.dumps([task(1)]))
    assert (status, answer["error"], headers["Retry-After"]) == (503, "the disk is full", "2")


@pytest.mark.parametrize(
    ("path", "method", "headers", "status"),
    [
        ("/v1/ray/lab/events", "GET", {}, 405), ("/v1/ray/../events", "POST", {}, 404), ("/v1/ray//events", "POST", {}, 404),
        ("/elsewhere", "POST", {}, 404), ("/healthz", "POST", {}, 405), ("/v1/ray/lab/events", "POST", {"Host": "evil.example"}, 421),
        ("/v1/ray/lab/events", "POST", {"Host": "evil.example:7664"}, 421), ("/v1/ray/lab/events", "POST", {"Origin": "http://x"}, 421),
        ("/v1/ray/lab/events", "POST", {"Content-Encoding": "gzip"}, 415),
    ],
)  # fmt: skip
def test_refusals(post: Post, path: str, method: str, headers: dict[str, str], status: int) -> None:
    assert post(path, "[]", headers, method)[0] == status


def test_health(post: Post) -> None:
    assert post("/healthz", None, {"Host": "localhost"}, "GET")[:2] == (200, {"ok": True})


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", 400), (b"GET /healthz HTTP/1.1\r\nHost 127.0.0.1\r\n\r\n", 400),
        (b"POST /v1/report HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"POST /v1/report HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 411),
        (b"POST /v1/report HTTP/1.1\r\nHost: localhost\r\n\r\n", 411),
        (b"POST /v1/report HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST /v1/report HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST /v1/report HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000, 431),
    ],
)  # fmt: skip
def test_hostile_requests_get_an_answer(receiver: Receiver, raw: bytes, status: int) -> None:
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=5) as link:
        link.sendall(raw)
        assert link.recv(4096).startswith(f"HTTP/1.1 {status} ".encode())


def test_a_head_in_pieces(receiver: Receiver) -> None:
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=5) as link:
        for byte in b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n":
            link.sendall(bytes((byte,)))
        assert link.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_reports_are_stamped(post: Post, spooled: Any) -> None:
    stated = {"event": "command.exit", "ts": 5, "body": "b", "attributes": {
        names.PID: 4242, names.PROCESS_START: 77, names.EXIT_SIGNAL: "SIGKILL", names.COMMAND: "x --token abc",
    }}  # fmt: skip
    mine = {"event": "process.exception", "ts": time.time_ns(), "attributes": {names.PID: os.getpid()}}
    assert post("/v1/report", json.dumps([stated, mine]))[0] == 200
    exit_, exception = spooled()
    assert exit_.attributes[names.ENTITY] == "process/3d1219c7c4c5/4242/77"
    assert exit_.attributes[names.SESSION] == "local/ray/ray/mine"
    assert exit_.attributes[names.STATE] == "killed"
    assert exit_.attributes[names.COMMAND] == "x --token ***"
    assert abs(exit_.time - time.time_ns()) < 60e9  # a time out of all reason is not believed
    assert exception.attributes[names.ENTITY].startswith(f"process/3d1219c7c4c5/{os.getpid()}/")
    assert exception.severity == 17


@pytest.mark.parametrize(
    "report",
    [b"nonsense", b"[1]", b'{"event": "session.end", "attributes": {"process.pid": 1}}', b'{"event": "command.exit"}',
     b'{"event": "command.exit", "attributes": {"process.pid": "1"}}', b"[" * 100_000],
)  # fmt: skip
def test_other_reports_are_refused(post: Post, report: bytes) -> None:
    assert post("/v1/report", report)[0] == 400


def test_a_long_report_is_refused(post: Post) -> None:
    assert post("/v1/report", b"x" * 600_000)[0] == 413


def test_a_taken_port_is_said(context: Context, receiver: Receiver) -> None:
    with pytest.raises(UnavailableError, match="Address already in use"):
        Receiver(context, locate=lambda *where: "", heard=lambda *_: None, port=receiver.port)


def test_other_users_are_not_admitted(receiver: Receiver) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    ask = (
        "import os,http.client;'x'.encode('idna');os.setuid(65534);"
        f"c=http.client.HTTPConnection('127.0.0.1',{receiver.port});c.request('POST','/v1/report','[]');print(c.getresponse().status)"
    )
    assert subprocess.check_output([sys.executable, "-c", ask], text=True).strip() == "403"


def test_the_owner_of_a_connection(tmp_path: Any) -> None:
    table = tmp_path / "tcp"
    row = "   1: 0100007F:0050 0100007F:1DF0 {state} 00000000:00000000 00:00000000 00000000  1000        0 {inode} 1 0 20 4 30 10 -1\n"
    for state, inode, owner in (("01", "5", 1000), ("01", "0", None), ("06", "5", None)):
        table.write_text("  sl  local_address\n" + row.format(state=state, inode=inode))
        assert peers.owner(("127.0.0.1", 80), 7664, table=str(table)) == owner
    assert peers.owner(("127.0.0.1", 81), 7664, table=str(table)) is None
    assert peers.owner(("127.0.0.1", 80), 7664, table="/nonexistent") is None


def test_the_listener_loads_little() -> None:
    code = "import sys; import misstep.agent.listener; print(*sorted({'email', 'http', 'ssl', 'asyncio', 'http.server'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == ""


def test_a_command_that_never_starts_a_cluster_is_a_session_of_its_own(
    post: Post, spooled: Any, context: Context
) -> None:
    about = {
        names.PID: os.getppid(),
        names.PROCESS_START: 7,
        names.COMMAND: "python /home/ada/train.py --fast",
    }
    began = context.clock.now()
    post("/v1/report", json.dumps({"event": "command.start", "ts": began, "attributes": about}))
    child = {names.PID: os.getpid(), names.EXCEPTION_TYPE: "ImportError"}
    post("/v1/report", json.dumps({"event": "process.exception", "ts": began, "attributes": child}))
    post(
        "/v1/report",
        json.dumps({"event": "command.exit", "ts": began, "attributes": about | {names.EXIT_CODE: 1}}),
    )
    kept = {record.name: record for record in spooled()}
    session = kept["session.start"].attributes[names.SESSION]
    assert session.startswith("local/command/train.py/")
    assert {
        kept[name].attributes.get(names.SESSION)
        for name in ("process.exception", "command.exit", "session.end")
    } == {session}
