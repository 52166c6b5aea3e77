"""The servers that are measured side by side: Misstep's collector, Prometheus and VictoriaMetrics.

Binaries are taken from PATH, from the folder in BENCH_PEERS, or from ../shared/peers; a peer that is nowhere is
left out with a word.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from bench.agent import free_port

_ARCHIVE = Path(__file__).parents[2] / "shared" / "peers" / "bin.tar.xz"
_EMPTY_JOURNAL = 256 * 1024
MISSTEP, PROMETHEUS, VICTORIA = "misstep", "prometheus", "victoria-metrics"


class Server(NamedTuple):
    """A running server.

    Attributes:
        port: where it takes data and questions; `query_port` where that is another.
        otlp, write: paths.
        headers: that it wants besides Content-Type.
    """

    name: str
    pid: int
    port: int
    query_port: int
    otlp: str
    write: str
    folder: Path

    def cpu(self) -> float:
        """Seconds on a processor so far, children and ended threads included."""
        return sum(_cpu(pid) for pid in _family(self.pid))

    def memory(self) -> float:
        """MiB resident, children included."""
        return sum(_status(pid, "VmRSS:") for pid in _family(self.pid)) / 1024

    def disk(self) -> int:
        """Bytes in its data folder."""
        return sum(p.stat().st_size for p in self.folder.rglob("*") if p.is_file())

    def flush(self) -> None:
        """Let it write what it holds into its final form, as far as it can be told to; Misstep is waited for."""
        if self.name == VICTORIA:
            get(self.port, "/internal/force_flush")
        elif self.name == MISSTEP:
            for _ in range(60):
                if self._journal() < _EMPTY_JOURNAL:
                    return
                time.sleep(1)

    def _journal(self) -> float:
        """Bytes that Misstep has not sealed yet."""
        lines = get(self.query_port, "/metrics")[1].decode().splitlines()
        return next(
            float(line.split()[1]) for line in lines if line.startswith("misstep_store_journal_bytes ")
        )


def find(folder: Path) -> dict[str, str]:
    """Paths of the peers' binaries by name: from the folder `BENCH_PEERS`, from `PATH`, or unpacked into `folder`."""
    found: dict[str, str] = {}
    given, unpacked = os.environ.get("BENCH_PEERS"), folder / "peers"
    for name in (PROMETHEUS, VICTORIA):
        path = shutil.which(name, path=given) if given else None
        path = path or shutil.which(name)
        if path is None and _ARCHIVE.exists():
            if not unpacked.exists():
                with tarfile.open(_ARCHIVE) as archive:
                    archive.extractall(unpacked, filter="data")
            path = shutil.which(name, path=str(unpacked))
        if path is not None:
            found[name] = path
        else:
            print(f"{name}: not found; put it on PATH or its folder into BENCH_PEERS", file=sys.stderr)
    return found


def versions(binaries: dict[str, str]) -> dict[str, str]:
    """First line of what each says of itself."""
    told = {}
    for name, path in binaries.items():
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
        told[name] = (answer.stdout.strip().splitlines() or ["says no version"])[0]
    return told


@contextlib.contextmanager
def start(
    name: str,
    binaries: dict[str, str],
    folder: Path,
    environment: Mapping[str, str] | None = None,
    *,
    again: bool = False,
) -> Iterator[Server]:
    """Run a server on an empty data folder, or `again` on the one it had."""
    folder.mkdir(parents=True, exist_ok=again)
    port, other = free_port(), free_port()
    data = folder / "data"
    otlp, write, health = "/v1/metrics", "/api/v1/write", "/healthz"
    if name == MISSTEP:
        command = [sys.executable, "-m", "misstep.collector", "--data", str(data), "--port", str(other), "--otlp-port", str(port)]  # fmt: skip
        write_port, query_port = port, other
    elif name == PROMETHEUS:
        (folder / "prometheus.yml").write_text("global: {}\notlp: {}\nstorage: {tsdb: {out_of_order_time_window: 26h}}\n")  # fmt: skip
        command = [binaries[name], f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={data}", f"--web.listen-address=127.0.0.1:{port}", "--web.enable-otlp-receiver", "--web.enable-remote-write-receiver", "--storage.tsdb.retention.time=10y"]  # fmt: skip
        otlp, health = "/api/v1/otlp/v1/metrics", "/-/ready"
        write_port = query_port = port
    else:
        command = [binaries[name], f"-storageDataPath={data}", f"-httpListenAddr=127.0.0.1:{port}", "-retentionPeriod=10y", "-search.latencyOffset=0s", "-search.maxUniqueTimeseries=1000000", "-search.disableCache=false"]  # fmt: skip
        otlp, health = "/opentelemetry/v1/metrics", "/health"
        write_port = query_port = port
    variables = {
        **os.environ,
        **(environment or {}),
        "XDG_RUNTIME_DIR": str(folder),
        "MISSTEP_COLLECTOR_SERIES_PER_REQUEST": "1000000",
    }
    log = open(folder / "log", "wb")  # noqa: SIM115  the child keeps it
    child = subprocess.Popen(command, stdout=log, stderr=log, env=variables)
    try:
        _ready(child, query_port, health, folder / "log")
        yield Server(name, child.pid, write_port, query_port, otlp, write, data)
    finally:
        child.terminate()
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        log.close()


def _ready(child: subprocess.Popen[bytes], port: int, path: str, log: Path) -> None:
    for _ in range(600):
        if child.poll() is not None:
            raise SystemExit(f"a server did not start:\n{log.read_text()[-2000:]}")
        with contextlib.suppress(OSError):
            if get(port, path)[0] == 200:
                return
        time.sleep(0.05)
    raise SystemExit(f"a server is not ready after 30 s:\n{log.read_text()[-2000:]}")


def get(port: int, path: str) -> tuple[int, bytes]:
    """Status and body of a GET."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _family(pid: int) -> list[int]:
    found = [pid]
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += _family(int(child))
    return found


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12]) + int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def _status(pid: int, key: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(key)), 0)
