"""What the agent costs at 1 Hz: CPU of a core and memory, beside prometheus-node-exporter where it is installed.

run: python -m bench.agent [--seconds N] [--plain] [--without-gpus]

The load: this host, eight GPUs of the lab's NVML library that eight of the processes hold, a Ray session with 32 workload
processes, 10 log lines a second, the receiver idle, TLS to the collector; then memory one minute after a burst of 8 MB
bodies of Ray events. The time that a real driver takes is not in it. `--without-gpus` leaves them out.
CPU is the scheduler's nanoseconds of all threads and children, in windows of 2 s: their mean, and their median, which a
virtual machine's stolen time does not move. The goal was set where the exporter takes 7 ms a scrape; it is scaled by what
the exporter takes here, in the same seconds. PSS "alone" counts pages of files that only Python programs map as if no
other Python ran on the host.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from misstep.lab import nvml

CPU_GOAL, MEMORY_GOAL, BURST_GOAL = 0.3, 28.0, 64.0
EXPORTER_THERE = 0.7
"""Percent of a core that node_exporter takes at one scrape a second where the goal was set."""
_WINDOW = 2.0
_EVENTS = Path(__file__).parents[1] / "tests" / "data" / "ray" / "events.json"
_SESSION = "session_2026-11-21_04-27-54_940903_16206"
_BODY = 8 * 1000 * 1000


class Cost(NamedTuple):
    """Of a process with its children."""

    cpu: float
    median: float
    pss: float
    alone: float
    private: float


class _Sink(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def collector(folder: Path, *, tls: bool) -> Iterator[str]:
    """A sink that says yes; its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Sink)
    server.daemon_threads = True
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"{'https' if tls else 'http'}://localhost:{server.server_port}"
    server.shutdown()
    server.server_close()


def certificate(folder: Path) -> bool:
    """Make one for localhost; False where there is no openssl."""
    if shutil.which("openssl") is None:
        return False
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout key.pem -out cert.pem -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    return subprocess.run(command.split(), cwd=folder, capture_output=True, check=False).returncode == 0


@contextmanager
def workload(folder: Path, count: int = 32) -> Iterator[Path]:
    """A raylet in name, ranks beneath it (all of them bash and sleep), and its session's logs folder."""
    session = folder / "ray" / _SESSION
    logs = session / "logs"
    logs.mkdir(parents=True)
    script = f"trap 'kill $(jobs -p)' TERM; for i in $(seq {count - 1}); do RANK=$i WORLD_SIZE={count - 1} sleep 100000 & done; wait"
    child = subprocess.Popen(
        ["bash", "-c", f'exec -a /opt/ray/raylet bash -c "$0" raylet --session_dir={session} --session-name={_SESSION}', script],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield logs
    finally:
        child.terminate()
        child.wait()


def hold(control: nvml.Control, logs: Path) -> None:
    """Let eight processes of the workload hold a GPU each."""
    mark = f"--session-name={logs.parent.name}".encode()
    raylet = next(
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if mark in path.read_bytes().split(b"\0")
    )
    children = Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split()
    control.processes({gpu: [(int(pid), 61 << 30)] for gpu, pid in enumerate(children[:8])})


class Writer(threading.Thread):
    """Ten lines a second into the logs of eight workers."""

    def __init__(self, logs: Path) -> None:
        super().__init__(daemon=True)
        self._files = [
            open(  # noqa: SIM115  they stay open until the benchmark ends
                logs / f"worker-{n:056x}-01000000-{20000 + n}.out", "a", buffering=1
            )
            for n in range(8)
        ]
        self.stop = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.stop.wait(0.1):
            number += 1
            self._files[number % 8].write(f"step {number} loss {1 / number:.6f} tokens/s 12345 lr 0.0003\n")


def windows(pids: Sequence[int], seconds: float) -> list[list[float]]:
    """Percent of a core that each of some processes takes, in window after window; shape (pids, windows)."""
    found: list[list[float]] = [[] for _ in pids]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        before, started = [nanoseconds(pid) for pid in pids], time.monotonic()
        time.sleep(_WINDOW)
        passed = time.monotonic() - started
        for column, pid, was in zip(found, pids, before, strict=True):
            column.append((nanoseconds(pid) - was) / passed / 1e7)
    return found


def cost(pid: int, cpu: Sequence[float]) -> Cost:
    """What `windows` found, and memory now."""
    return Cost(statistics.mean(cpu), statistics.median(cpu), *memory(pid))


def alone() -> None:
    """As root, go on in a PID namespace of our own: what else runs on this machine is not our load."""
    if os.geteuid() == 0 and shutil.which("unshare") and "BENCH_ALONE" not in os.environ:
        os.environ["BENCH_ALONE"] = "1"
        os.execvp(
            "unshare",
            [
                "unshare",
                "--pid",
                "--fork",
                "--mount-proc",
                sys.executable,
                "-m",
                "bench.agent",
                *sys.argv[1:],
            ],
        )


def family(pid: int) -> list[int]:
    """A process and its children's children."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += family(int(child))
    return found


def nanoseconds(pid: int) -> int:
    """Time on a processor of all threads, ended ones left out."""
    return sum(
        int((task / "schedstat").read_text().split()[0])
        for one in family(pid)
        for task in Path(f"/proc/{one}/task").iterdir()
    )


def memory(pid: int) -> tuple[float, float, float]:
    """MiB: PSS; PSS as if no other Python ran here; private. What the family shares counts once."""
    pss = private = others = 0
    files: dict[str, int] = {}
    for one in family(pid):
        path = ""
        mapped: dict[str, int] = {}
        for line in Path(f"/proc/{one}/smaps").read_text().splitlines():
            head, _, rest = line.partition(":")
            if " " in head or not rest.endswith("kB"):
                ours = any(word in line for word in ("python", "/site-packages/", "lib-dynload"))
                path = line.split()[-1] if ours else ""
            elif head == "Pss":
                pss += int(rest.split()[0])
                others += 0 if path else int(rest.split()[0])
            elif head == "Rss" and path:
                mapped[path] = mapped.get(path, 0) + int(rest.split()[0])
            elif head in ("Private_Clean", "Private_Dirty"):
                private += int(rest.split()[0])
        for name, size in mapped.items():
            files[name] = max(size, files.get(name, 0))
    return pss / 1024, (others + sum(files.values())) / 1024, private / 1024


def burst(port: int, count: int) -> int:
    """Send bodies of Ray events as its aggregator does; bytes sent."""
    events = json.loads(_EVENTS.read_text())
    sent = 0
    for body_number in range(count):
        body: list[object] = []
        size = number = 0
        while size < _BODY:
            one = dict(events[number % len(events)])
            one["eventId"] = f"{body_number:04d}{number:024d}"[:28]
            one["sessionName"] = _SESSION
            body.append(one)
            size += len(json.dumps(one)) + 1
            number += 1
        text = json.dumps(body, separators=(",", ":")).encode()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", "/v1/ray/ray/events", text, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        if answer.status != 200:
            raise SystemExit(f"the receiver answered {answer.status}")
        sent += len(text)
    return sent


@contextmanager
def exporter() -> Iterator[int | None]:
    """node_exporter, scraped each second; its pid, or None where it is not installed."""
    binary = shutil.which("prometheus-node-exporter") or shutil.which("node_exporter")
    if binary is None:
        yield None
        return
    port, over = free_port(), threading.Event()
    child = subprocess.Popen(
        [binary, f"--web.listen-address=127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def scrape() -> None:
        while not over.wait(1.0):
            with suppress(OSError):  # it has not bound its port yet
                urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read()

    scraper = threading.Thread(target=scrape)
    scraper.start()
    try:
        yield child.pid
    finally:
        over.set()
        scraper.join()
        child.terminate()
        child.wait()


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each measurement")
    parser.add_argument("--plain", action="store_true", help="HTTP to the collector instead of TLS")
    parser.add_argument("--without-gpus", action="store_true", help="as on a machine that has none")
    parser.add_argument("--bodies", type=int, default=5, help="bodies of 8 MB in the burst")
    options = parser.parse_args()
    alone()
    load = os.getloadavg()[0]
    print(
        f"{os.cpu_count()} processors, load {load:.1f}, Python {sys.version.split()[0]}, pid namespace of its own: {'BENCH_ALONE' in os.environ}"
    )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="misstep-bench-")))
        tls = not options.plain and certificate(folder)
        url = stack.enter_context(collector(folder, tls=tls))
        logs = stack.enter_context(workload(folder))
        writer = Writer(logs)
        writer.start()
        peer = stack.enter_context(exporter())
        port = free_port()
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("MISSTEP_")},
            "MISSTEP_AGENT_RAY_FOLDER": str(folder / "ray"),
            "SSL_CERT_FILE": str(folder / "cert.pem"),
        }
        gpus = not options.without_gpus and nvml.compiler() is not None
        if gpus:
            environment["MISSTEP_AGENT_NVML_LIBRARY"] = str(nvml.library(folder))
            hold(nvml.Control(folder), logs)
        agent = subprocess.Popen(
            [sys.executable, "-m", "misstep.agent", "--data", str(folder / "data"), "--collector", url, "--port", str(port)],
            env=environment,
        )  # fmt: skip
        try:
            time.sleep(8)
            pids = [pid for pid in (agent.pid, peer) if pid is not None]
            found = windows(pids, options.seconds)
            ours = cost(agent.pid, found[0])
            print(
                f"misstep agent, {'TLS' if tls else 'plain HTTP'}, {'8 GPUs, ' if gpus else ''}32 workload processes, 10 log lines/s: "
                f"{ours.cpu:.2f} % of a core, median {ours.median:.2f} (goal {CPU_GOAL}), PSS {ours.pss:.1f} MiB, alone {ours.alone:.1f} "
                f"(goal {MEMORY_GOAL:.0f}), private {ours.private:.1f}"
            )
            if peer is None:
                print("prometheus-node-exporter: not installed (apt-get install prometheus-node-exporter)")
            else:
                theirs = cost(peer, found[1])
                print(
                    f"prometheus-node-exporter, scraped at 1 Hz in the same seconds: {theirs.cpu:.2f} % of a core, "
                    f"median {theirs.median:.2f}, PSS {theirs.pss:.1f} MiB, private {theirs.private:.1f}\n"
                    f"the agent takes {ours.median / theirs.median:.2f} of the exporter's CPU "
                    f"(goal {CPU_GOAL / EXPORTER_THERE:.2f}: {CPU_GOAL} % where it takes {EXPORTER_THERE} %)",
                    flush=True,
                )
            before, started = nanoseconds(agent.pid), time.monotonic()
            sent = burst(port, options.bodies)
            took = time.monotonic() - started
            used = (nanoseconds(agent.pid) - before) / 1e9
            peak = next(
                line.split()[1]
                for line in Path(f"/proc/{agent.pid}/status").read_text().splitlines()
                if line.startswith("VmHWM")
            )
            print(
                f"burst of {sent / 1e6:.0f} MB: {took:.1f} s, {used:.1f} s of CPU, peak RSS {int(peak) / 1024:.1f} MiB"
            )
            time.sleep(60)
            pss, unshared, private = memory(agent.pid)
            print(
                f"one minute after it: PSS {pss:.1f} MiB, alone {unshared:.1f} (goal {BURST_GOAL:.0f}), "
                f"private {private:.1f}"
            )
        finally:
            writer.stop.set()
            agent.send_signal(signal.SIGTERM)
            agent.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
