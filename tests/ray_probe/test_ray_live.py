"""A real Ray, a real agent and a script that dies: what of it reaches the collector."""

from __future__ import annotations

import gzip
import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import ScopeLogs

from misstep.core import names

ray = pytest.importorskip("ray")

RUN = "import sys; from misstep.agent.launch import run; sys.exit(run(sys.argv[3:], sys.argv[1], events=sys.argv[2] == 'yes'))"
SCRIPT = """
import os, sys, time
import ray
ray.init(num_cpus=2, object_store_memory=80 * 2**20, _temp_dir=sys.argv[1], runtime_env={"env_vars": {"DB_PASSWORD": "hunter2"}})
@ray.remote(max_retries=0)
def divide(x):
    print("dividing by", x)
    return 1 / x
@ray.remote(resources={"NOPE": 1})
def never(): pass
@ray.remote
class Trainer:
    def ready(self): return os.getpid()
    def crash(self):
        import ctypes
        ctypes.string_at(0)
waiting = never.remote()
trainer = Trainer.remote()
print("pid", ray.get(trainer.ready.remote()), flush=True)
try:
    ray.get(divide.remote(0))
except ZeroDivisionError:
    pass
while not os.path.exists(sys.argv[2]):
    time.sleep(0.05)
ray.get(trainer.crash.remote())
"""


class Collector:
    """Takes what the agent sends."""

    def __init__(self, read: Callable[[bytes], list[Any]]) -> None:
        self.records: list[Any] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                if self.path == "/v1/logs":
                    for resource in ExportLogsServiceRequest.FromString(body).resource_logs:
                        for scope in resource.scope_logs:
                            records = ScopeLogs(log_records=scope.log_records).SerializeToString()
                            outer.records += read(records)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def wait(self, wanted: Callable[[Any], bool], what: str, seconds: float = 60.0) -> Any:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for record in list(self.records):
                if wanted(record):
                    return record
            time.sleep(0.1)
        raise AssertionError(f"{what} did not come; came: {sorted({r.name for r in self.records})}")


@pytest.fixture
def collector(read: Callable[[bytes], list[Any]]) -> Iterator[Collector]:
    held = Collector(read)
    yield held
    held.close()


@pytest.fixture
def agent(collector: Collector, tmp_path: Path) -> Iterator[str]:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MISSTEP_"))}
    environ |= {"MISSTEP_AGENT_RAY_POLL_INTERVAL": "0.5"}
    held = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "misstep.agent",
            "--data",
            str(tmp_path / "data"),
            "--collector",
            collector.url,
            "--port",
            str(port),
        ],
        env=environ,
    )
    collector.wait(lambda r: r.name == "source.state", "the agent's first word")
    yield f"http://127.0.0.1:{port}"
    held.terminate()
    held.wait(60)


@pytest.fixture
def folder() -> Iterator[str]:
    # Ray's sockets lie in it: a path of pytest's would be too long for them.
    with tempfile.TemporaryDirectory(prefix="rt", ignore_cleanup_errors=True) as held:
        yield held


class Job:
    """The script under ``misstep run``; it crashes when :meth:`crash` says so."""

    def __init__(self, agent: str, folder: str, events: str) -> None:
        script = Path(folder) / "job.py"
        script.write_text(SCRIPT)
        self.word = Path(folder) / "crash"
        environ = {
            key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MISSTEP_"))
        }
        environ["RAY_AUTH_MODE"] = "disabled"
        self.held = subprocess.Popen(
            [sys.executable, "-c", RUN, agent, events, sys.executable, str(script), folder, str(self.word)],
            env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def crash(self) -> int:
        """The pid of the worker that crashed."""
        self.word.touch()
        out, told = self.held.communicate(timeout=150)
        assert self.held.returncode == 1, told[-2000:]
        assert "ActorDiedError" in told
        return int(out.split("pid ")[1].split()[0])


@pytest.fixture
def job(agent: str, folder: str) -> Iterator[Callable[[str], Job]]:
    made: list[Job] = []

    def start(events: str) -> Job:
        made.append(Job(agent, folder, events))
        return made[-1]

    yield start
    for one in made:
        one.word.touch()
        if one.held.poll() is None:
            one.held.communicate(timeout=150)


def of(session: str) -> Callable[..., Callable[[Any], bool]]:
    """Builds questions about one session: other people's Ray may run on this machine."""

    def ask(name: str, **attributes: Any) -> Callable[[Any], bool]:
        wanted = {key.replace("__", "."): value for key, value in attributes.items()}
        return lambda r: (
            r.name == name
            and r.attributes.get(names.SESSION) == session
            and wanted.items() <= r.attributes.items()
        )

    return ask


def session_of(collector: Collector, folder: str) -> str:
    start = collector.wait(
        lambda r: r.name == "session.start" and r.attributes.get("ray.folder", "").startswith(folder),
        "the session",
    )
    session: str = start.attributes[names.SESSION]
    assert start.attributes["ray.version"] == ray.__version__
    assert start.attributes["misstep.started_by"] == "run"
    return session


@pytest.mark.ray
def test_a_crash_under_watch(collector: Collector, job: Callable[[str], Job], folder: str) -> None:
    script = job("yes")
    ask = of(session_of(collector, folder))
    collector.wait(ask("ray.task.definition", ray__task__name="never"), "the task that waits")
    failed = collector.wait(
        ask("ray.task.lifecycle", ray__error__type="TASK_EXECUTION_EXCEPTION"), "the handled failure"
    )
    assert "ZeroDivisionError: division by zero" in failed.json["rayErrorInfo"]["errorMessage"]
    assert failed.attributes[names.SOURCE] == "ray_events"
    pid = script.crash()
    end = collector.wait(ask("session.end"), "the end of the session")
    assert end.attributes[names.STATE] == "ended"
    exception = collector.wait(ask("process.exception"), "the driver's exception")
    assert exception.attributes["exception.type"] == "ray.exceptions.ActorDiedError"
    assert exception.attributes["code.file.path"].endswith("job.py")
    assert f"pid: {pid}" in exception.body
    assert collector.wait(ask("command.exit"), "the end of the command").attributes[names.EXIT_CODE] == 1
    worker = collector.wait(ask("ray.worker.definition", process__pid=pid), "the worker")
    assert worker.attributes[names.PROCESS_ENTITY].split("/")[2] == str(pid)
    collector.wait(ask("ray.actor.definition", ray__actor__class="Trainer"), "the actor")
    line = collector.wait(
        lambda r: not r.name and r.body == "Fatal Python error: Segmentation fault", "the crash in the log"
    )
    assert line.attributes[names.RAY_ACTOR_CLASS] == "Trainer"
    assert line.attributes[names.PID] == pid
    collector.wait(
        lambda r: not r.name and "job.py" in r.body and "in crash" in r.body, "the line that crashed"
    )
    collector.wait(
        ask("source.state", misstep__source="ray_events", misstep__state="ok"), "word of the stream"
    )
    assert not any("hunter2" in r.body or "hunter2" in json.dumps(r.attributes) for r in collector.records)


@pytest.mark.ray
def test_a_crash_that_nobody_prepared_for(
    collector: Collector, job: Callable[[str], Job], folder: str
) -> None:
    """No event stream: logs, processes and the dashboard tell."""
    script = job("no")
    ask = of(session_of(collector, folder))
    off = collector.wait(
        ask("source.state", misstep__source="ray_events", misstep__state="off"), "word of what is not seen"
    )
    assert "misstep env ray" in off.attributes[names.SOURCE_REMEDY]
    task = collector.wait(
        ask("ray.task.lifecycle", ray__error__type="TASK_EXECUTION_EXCEPTION"), "the handled failure"
    )
    assert task.attributes[names.SOURCE] == "ray_api"
    assert "ZeroDivisionError" in task.json["rayErrorInfo"]["errorMessage"]
    demand = collector.wait(ask("ray.demand"), "the demand that nobody meets")
    (pending,) = demand.json["pending"]
    assert (pending["fits"], list(pending["lacking"])) == (False, ["NOPE"])
    pid = script.crash()
    collector.wait(ask("ray.worker.definition", process__pid=pid), "the worker")
    collector.wait(ask("session.end"), "the end of the session")
    collector.wait(
        lambda r: not r.name and r.body == "Fatal Python error: Segmentation fault", "the crash in the log"
    )
    assert not any("hunter2" in r.body for r in collector.records)
