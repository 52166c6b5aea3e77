"""A private Misstep for the demo: collector and agent on loopback, with a data folder of their own."""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
from pathlib import Path

from misstep.core.client import Client
from misstep.core.errors import UnavailableError
from misstep.lab.household import Household, alive, free_ports

PATIENCE = 60.0
"""Seconds until a service that does not answer is an error; it takes 2-5 on two cores."""


class Service:
    """Collector and agent.

    Args:
        home: holds the processes.
        data: folder for what they store; by default one that goes away with `home`.
    """

    def __init__(self, home: Household, data: Path | None = None) -> None:
        self._home = home
        self.data = data or home.folder / "data"
        collector, otlp, self.agent_port = free_ports(3)
        self.url = f"http://127.0.0.1:{collector}"
        self.agent_url = f"http://127.0.0.1:{self.agent_port}"
        self.endpoint_file = home.folder / "endpoint.json"
        self._otlp = otlp
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("MISSTEP_")} | {
            "MISSTEP_DATA": str(self.data),
            "MISSTEP_COLLECTOR_PORT": str(collector),
            "MISSTEP_COLLECTOR_OTLP_PORT": str(otlp),
            "MISSTEP_COLLECTOR_URL": self.url,
            "MISSTEP_AGENT_RECEIVER_PORT": str(self.agent_port),
            # Whatever else runs on this machine is none of the lab's business.
            "MISSTEP_AGENT_RAY_FOLDER": str(home.folder),
            "MISSTEP_AGENT_TORCH_FOLDER": str(home.folder / "torch"),
            "MISSTEP_ENDPOINT_FILE": str(self.endpoint_file),
        }
        self._pids: dict[str, int] = {}

    def start(self, extra: dict[str, str] | None = None) -> None:
        """Start both; they answer some seconds later, see `wait`."""
        self.data.mkdir(parents=True, exist_ok=True)
        environment = self.environment | (extra or {})
        for name in ("collector", "agent"):
            argv = [sys.executable, "-m", f"misstep.{name}"]
            self._pids[name] = self._home.start(name, argv, environment)
        self.endpoint_file.write_text(
            json.dumps(
                {
                    "collector": self.url,
                    "otlp": f"http://127.0.0.1:{self._otlp}",
                    "agent": self.agent_url,
                    "pid": self._pids["collector"],
                    "data": str(self.data),
                    "started_ns": time.time_ns(),
                }
            )
        )

    def wait(self) -> None:
        """Return when both answer.

        Raises:
            UnavailableError: one of them ended, or does not answer in `PATIENCE` seconds.
        """
        deadline = time.monotonic() + PATIENCE
        for name, url in (("collector", f"{self.url}/readyz"), ("agent", f"{self.agent_url}/healthz")):
            while not _answers(url):
                if not alive(self._pids[name]) or time.monotonic() > deadline:
                    raise UnavailableError(f"the {name} did not start:\n{self._home.last_words(name)}")
                time.sleep(0.1)

    def client(self) -> Client:
        """A client of the collector."""
        return Client(self.url)


def _answers(url: str) -> bool:
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=5)
    try:
        connection.request("GET", f"/{path}")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
