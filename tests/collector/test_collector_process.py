"""The process: its doors, its ports, its folder, its end."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROTOBUF = {"Content-Type": "application/x-protobuf"}
FETCH = """
import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=60)
headers = {"Content-Type": "application/x-protobuf"}
if len(sys.argv) > 3:
    headers["Authorization"] = "Bearer " + sys.argv[3]
method, path = sys.argv[2].split(" ")
connection.request(method, path, b"" if method == "POST" else None, headers)
print(connection.getresponse().status)
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def port_of(collector: Any) -> int:
    return int(collector.addresses["collector"].rpartition(":")[2])


def as_nobody(collector: Any, request: str, token: str = "") -> int:
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable
    arguments = [python, "-I", "-c", FETCH, str(port_of(collector)), request, *([token] if token else [])]
    done = subprocess.run(
        arguments, user="nobody", cwd="/", capture_output=True, text=True, timeout=60, check=True
    )
    return int(done.stdout)


def token_for(collector: Any, scopes: str) -> str:
    command = [
        sys.executable,
        "-m",
        "misstep.collector",
        "--data",
        str(collector.data),
        "--new-token",
        scopes,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"])
@pytest.mark.parametrize("path", ["/v1/logs", "/api/misstep/v1/sessions", "/healthz", "/metrics", "/none"])
def test_names_of_others_are_refused_whatever_the_method(collector: Any, method: str, path: str) -> None:
    assert collector.request(method, path, headers={"Host": "evil.example"}).status == 403
    assert collector.request(method, path, headers={"Origin": "http://evil.example"}).status == 403
    assert collector.request(method, path, headers={"Origin": "null"}).status == 403


def test_forwarded_addresses_are_not_believed(collector: Any) -> None:
    forged = {"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "localhost"}
    assert collector.request("GET", "/healthz", headers={**forged, "Host": "evil.example"}).status == 403
    assert collector.request("GET", "/healthz", headers=forged).status == 200


def test_the_api_only_answers_get(collector: Any) -> None:
    for method in ("POST", "PUT", "DELETE"):
        answer = collector.request(method, "/api/misstep/v1/sessions")
        assert (answer.status, "error" in answer.json()) == (405, True)


@needs_root
def test_another_user_needs_a_token(collector: Any) -> None:
    assert as_nobody(collector, "GET /api/misstep/v1/sessions") == 401
    assert as_nobody(collector, "GET /metrics") == 401
    assert as_nobody(collector, "POST /v1/logs") == 401
    assert as_nobody(collector, "GET /healthz") == 200
    reading, sending = token_for(collector, "read"), token_for(collector, "ingest")
    time.sleep(1.1)
    assert as_nobody(collector, "GET /api/misstep/v1/sessions", reading) == 200
    assert as_nobody(collector, "POST /v1/logs", reading) == 403
    assert as_nobody(collector, "POST /v1/logs", sending) == 200
    assert as_nobody(collector, "GET /api/misstep/v1/sessions", "misstep_wrong") == 401


@needs_root
def test_a_trusted_user_needs_no_token(launch: Callable[..., Any]) -> None:
    collector = launch("--trust-user", pwd.getpwnam("nobody").pw_name)
    assert as_nobody(collector, "GET /api/misstep/v1/sessions") == 200


def test_it_ends_cleanly_and_says_where_it_is(launch: Callable[..., Any]) -> None:
    collector = launch()
    assert collector.addresses["pid"] == collector.process.pid
    assert collector.addresses["data"] == str(collector.data)
    said = collector.log.read_text()
    assert collector.addresses["collector"] in said
    assert collector.addresses["otlp"] in said
    idle = socket.create_connection(("127.0.0.1", port_of(collector)))
    assert collector.stop() == 0
    idle.close()
    assert "Traceback" not in collector.log.read_text()
    assert launch(data=collector.data).stop(signal.SIGINT) == 0


def test_a_folder_has_one_collector(launch: Callable[..., Any]) -> None:
    first = launch()
    command = [
        sys.executable,
        "-m",
        "misstep.collector",
        "--data",
        str(first.data),
        "--port",
        "0",
        "--otlp-port",
        "0",
    ]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 4
    assert f"process {first.process.pid}" in second.stderr
    assert "--data" in second.stderr


def test_a_taken_port_that_was_asked_for_is_an_error(collector: Any, tmp_path: Path) -> None:
    port = str(port_of(collector))
    command = [
        sys.executable,
        "-m",
        "misstep.collector",
        "--data",
        str(tmp_path / "d"),
        "--port",
        port,
        "--otlp-port",
        "0",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 4
    assert f"port {port} for the API is taken by process {collector.process.pid}" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--host", "0.0.0.0"], "needs a token"),
        (["--port", "10500"], "Ray's workers"),
        (["--trust-user", "no-such-user"], "no-such-user"),
        (["--new-token", "write"], "ingest, read, admin"),
    ],
)
def test_settings_that_cannot_be_followed_are_told(tmp_path: Path, arguments: list[str], says: str) -> None:
    command = [
        sys.executable,
        "-m",
        "misstep.collector",
        "--data",
        str(tmp_path / "d"),
        "--otlp-port",
        "0",
        *arguments,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_tls(launch: Callable[..., Any], tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    environ = {"MISSTEP_COLLECTOR_TLS_CERTIFICATE": str(certificate), "MISSTEP_COLLECTOR_TLS_KEY": str(key)}
    collector = launch(environ=environ)
    assert collector.addresses["collector"].startswith("https://127.0.0.1:")
    context = ssl.create_default_context(cafile=str(certificate))
    url = collector.addresses["collector"] + "/api/misstep/v1/sessions"
    with urllib.request.urlopen(url, context=context, timeout=60) as answer:
        assert answer.status == 200
    open_to_all = [
        sys.executable,
        "-m",
        "misstep.collector",
        "--data",
        str(tmp_path / "open"),
        "--host",
        "0.0.0.0",
        "--port",
        "0",
        "--otlp-port",
        "0",
    ]
    refused = subprocess.run(
        open_to_all, capture_output=True, text=True, timeout=60, check=False, env=collector.environ
    )
    assert refused.returncode == 2
    assert "needs a token" in refused.stderr
    assert "TLS" not in refused.stderr


@needs_root
def test_a_full_disk_refuses_and_recovers(launch: Callable[..., Any], tmp_path: Path, otlp: Any) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "none", disk], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.decode().strip()}")
    try:
        _fill_and_free(launch, disk, otlp)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def _fill_and_free(launch: Callable[..., Any], disk: Path, otlp: Any) -> None:
    collector = launch(data=disk / "data")
    session = "s/ray/full/1"

    def send(i: int) -> Any:
        body = f"{i} " + os.urandom(100_000).hex()
        return collector.send(otlp.logs({"body": body, "attributes": {"misstep.session": session}}))

    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        room = shutil.disk_usage(disk).free - 2 * 1024 * 1024
        file.write(os.urandom(room))
    answers = [send(i) for i in range(40)]
    taken = [i for i, a in enumerate(answers) if a.status == 200]
    refused = [a for a in answers if a.status != 200]
    assert refused
    assert {a.status for a in refused} == {503}
    assert int(refused[0].headers["retry-after"]) > 0
    assert b"disk" in refused[0].body.lower() or b"full" in refused[0].body.lower()
    assert collector.metrics()['misstep_collector_refused_total{reason="storage"}'] >= len(refused)
    assert collector.request("GET", "/healthz").status == 200
    ballast.unlink()
    collector.until(lambda: send(1000).status == 200, seconds=20)
    collector.stop(signal.SIGKILL)
    collector.start()
    expected = {str(i) for i in taken} | {"1000"}
    collector.until(
        lambda: {r["body"].split(" ")[0] for r in collector.ask("logs", session=session)["logs"]} == expected
    )
