"""The agent as a process: what it loads, how it starts, how it stops."""

import gzip
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from misstep.agent import __main__ as main
from misstep.core.errors import SettingsError
from misstep.lab.household import free_ports

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the agent needs Linux")

FORBIDDEN = (
    "duckdb", "pyarrow", "numpy", "textual", "grpc", "kubernetes", "opentelemetry", "google", "ptars", "starlette",
    "uvicorn", "httpx", "msgspec", "prometheus_client", "ray", "torch", "psutil",
)  # fmt: skip
NEEDLESS = (
    "asyncio",
    "ssl",
    "_ssl",
    "logging",
    "argparse",
    "subprocess",
    "multiprocessing",
    "concurrent",
)


class Collector(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.events: list[tuple[str, dict[str, str]]] = []
        self.metrics: set[str] = set()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, Collector)
        body = gzip.decompress(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/metrics":
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                server.metrics |= {
                    metric.name for scope in resource.scope_metrics for metric in scope.metrics
                }
        else:
            for held in ExportLogsServiceRequest.FromString(body).resource_logs:
                for record in held.scope_logs[0].log_records:
                    attributes = {a.key: a.value.string_value for a in record.attributes}
                    server.events.append((record.event_name, attributes))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def start(tmp_path: Path, *arguments: str, code: str = "", **environment: str) -> subprocess.Popen[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MISSTEP_", "XDG_"))}
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "misstep.agent"]
    return subprocess.Popen(
        [*command, "--data", str(tmp_path / "data"), "--port", str(free_ports(1)[0]), *arguments],
        env={**clean, "HOME": str(tmp_path), "MISSTEP_AGENT_RAY_FOLDER": str(tmp_path / "ray"), **environment},
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def until(condition: Any, child: subprocess.Popen[str], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def test_it_goes_on_after_a_stop(tmp_path: Path) -> None:
    """SIGSTOP and SIGCONT, as debuggers, Ctrl-Z and batch systems send them."""
    with Collector() as collector:
        child = start(tmp_path, "--collector", f"http://127.0.0.1:{collector.server_port}")
        until(lambda: collector.metrics, child)
        for _ in range(4):
            child.send_signal(signal.SIGSTOP)
            time.sleep(1.2)
            child.send_signal(signal.SIGCONT)
            collector.metrics.clear()
            until(lambda: collector.metrics, child)
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 0
        child.communicate()


def test_it_sends_from_the_first_second_and_leaves_clean_on_sigterm(tmp_path: Path) -> None:
    with Collector() as collector:
        child = start(tmp_path, "--collector", f"http://127.0.0.1:{collector.server_port}")
        until(lambda: "system.cpu.time" in collector.metrics and len(collector.events) >= 5, child)
        states = {
            a["misstep.source"]: a["misstep.state"] for name, a in collector.events if name == "source.state"
        }
        assert states["host"] == states["processes"] == states["agent"] == "ok"
        assert {"kernel_log", "process_exits"} <= set(states)
        child.send_signal(signal.SIGTERM)
        output, errors = child.communicate(timeout=60)
        assert (child.returncode, output, errors) == (0, "", "")
        collector.shutdown()


def test_it_loads_little_and_nothing_that_is_forbidden(tmp_path: Path) -> None:
    code = (
        "import sys, json, threading, os, signal\n"
        # On a busy machine the signal may come before the agent waits for it, or to the timer's own thread.
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n"
        "from misstep.agent.__main__ import main\n"
        "threading.Timer(2.5, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()\n"
        "code = main(sys.argv[1:])\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules if sys.modules[name] is not None})))\n"
        "sys.exit(code)\n"
    )
    with Collector() as collector:
        child = start(tmp_path, f"--collector=http://127.0.0.1:{collector.server_port}", code=code)
        output, errors = child.communicate(timeout=60)
        collector.shutdown()
    assert child.returncode == 0, errors
    assert collector.metrics
    loaded = set(json.loads(output.splitlines()[-1]))
    assert not loaded & set(FORBIDDEN)
    assert not loaded & set(NEEDLESS)


def test_tls_with_a_certificate_of_one_s_own(tmp_path: Path) -> None:
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        cwd=tmp_path, capture_output=True, check=False,
    ) if shutil.which("openssl") else None  # fmt: skip
    if made is None or made.returncode:
        pytest.skip("needs openssl to make a certificate")
    with Collector() as collector:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
        collector.socket = context.wrap_socket(collector.socket, server_side=True)
        url = f"https://localhost:{collector.server_port}"
        child = start(tmp_path, "--collector", url, SSL_CERT_FILE=str(tmp_path / "cert.pem"))
        until(lambda: "system.cpu.time" in collector.metrics, child)
        child.terminate()
        child.communicate(timeout=60)
        seen = len(collector.events)
        stranger = start(tmp_path, "--collector", url)
        time.sleep(2.5)
        stranger.terminate()
        stranger.communicate(timeout=60)
        assert len(collector.events) == seen  # a certificate that nobody vouches for gets nothing
        collector.shutdown()


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["--colector", "x"], "unknown flag '--colector'", 2),
        (["--port"], "--port needs a value", 2),
        (["--collector", "localhost:7663"], "write http://host:port", 2),
        (["--config", "/nowhere.toml"], "cannot read /nowhere.toml", 2),
    ],
)
def test_wrong_usage_is_said_in_one_line(tmp_path: Path, arguments: list[str], words: str, code: int) -> None:
    child = start(tmp_path, *arguments)
    output, errors = child.communicate(timeout=60)
    assert child.returncode == code
    assert output == ""
    assert words in errors
    assert len(errors.splitlines()) == 1


def test_a_second_agent_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with Collector() as collector:
        url = f"http://127.0.0.1:{collector.server_port}"
        first = start(tmp_path, "--collector", url)
        until(lambda: bool(collector.metrics), first)
        second = start(tmp_path, "--collector", url)
        _, errors = second.communicate(timeout=60)
        assert second.returncode == 4
        assert f"another agent (pid {first.pid})" in errors
        first.terminate()
        first.communicate(timeout=60)
        collector.shutdown()


def test_other_systems_get_one_sentence(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert main.main([]) == 4
    assert capsys.readouterr().err == "The agent needs Linux: it reads /proc and the kernel log.\n"


def test_flags() -> None:
    config, overrides = main.parse(["--data=/d", "--port", "1", "--config", "/c", "--token", "a=b"])
    assert (config, overrides) == ("/c", {"data": "/d", "agent.receiver_port": "1", "token": "a=b"})
    with pytest.raises(SettingsError):
        main.parse(["run"])
