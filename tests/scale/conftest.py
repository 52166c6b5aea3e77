"""A real PostgreSQL as catalog, S3 as moto's server speaks it, and collectors as processes that share both."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from misstep.lab.household import free_ports

POSTGRES_USER = "nobody"
"""PostgreSQL refuses to run as root."""


def _free_port() -> int:
    """A port that nobody gets by chance."""
    return free_ports(1)[0]


@pytest.fixture
def free_port() -> Callable[[], int]:
    return _free_port


def postgres_programs() -> Path | None:
    """Where Debian puts them, newest first, or the PATH."""
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / "initdb").exists():
            return folder
    found = shutil.which("initdb")
    return Path(found).parent if found else None


@pytest.fixture(scope="session")
def catalog() -> Iterator[str]:
    """Connection string of an empty PostgreSQL."""
    programs = postgres_programs()
    if programs is None:
        pytest.skip("no PostgreSQL is installed (Debian: apt-get install postgresql)")
    for package in ("psycopg", "duckdb_extension_postgres_scanner", "duckdb_extension_httpfs"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed (pip install 'misstep[scale]')")
    # Not below pytest's folder, which nobody but its owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="misstep-postgres-"))
    data = folder / "data"
    data.mkdir()
    as_user: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(data, POSTGRES_USER)
        shutil.chown(folder, POSTGRES_USER)
        as_user = ["setpriv", f"--reuid={POSTGRES_USER}", "--regid=nogroup", "--clear-groups"]
    subprocess.run(
        [
            *as_user,
            programs / "initdb",
            "-D",
            data,
            "-U",
            "misstep",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-sync",
        ],
        capture_output=True,
        check=True,
        cwd="/",
        env={**os.environ, "LC_ALL": "C"},
    )
    port = _free_port()
    options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off -c max_connections=60"
    server = subprocess.Popen(
        [*as_user, programs / "postgres", "-D", data, *options.split()],
        stderr=subprocess.DEVNULL,
        cwd="/",
    )
    try:
        yield _when_ready(f"host=127.0.0.1 port={port} user=misstep dbname=postgres", server)
    finally:
        server.terminate()
        server.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def _when_ready(address: str, server: subprocess.Popen[bytes]) -> str:
    import psycopg

    deadline = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(address, connect_timeout=5).close()
            return address
        except psycopg.OperationalError:
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)


@pytest.fixture(scope="session")
def s3() -> Iterator[dict[str, str]]:
    """The variables by which clients find an S3 with the bucket ``lake``."""
    if importlib.util.find_spec("moto") is None:
        pytest.skip("moto is not installed (pip install 'moto[s3,server]')")
    port = _free_port()
    address = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    environ = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": address,
    }
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(
                    urllib.request.Request(f"{address}/lake", method="PUT"), timeout=5
                ).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline
                time.sleep(0.2)
        yield environ
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture
def database(catalog: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """Connection string of a database of the test's own."""
    import psycopg

    name = f"lake_{abs(hash(request.node.nodeid))}"
    with psycopg.connect(catalog, autocommit=True) as db:
        db.execute(f"CREATE DATABASE {name}")
    yield catalog.replace("dbname=postgres", f"dbname={name}")
