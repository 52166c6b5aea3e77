"""Submits a job to a Ray cluster and follows it, over Ray's REST API (the Jobs API of its dashboard).

Plain HTTP and no `ray` in this process: importing it takes a second, and its client three more.
"""

from __future__ import annotations

import http.client
import json
from typing import Any

from misstep.core.errors import UnavailableError

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


class Jobs:
    """The jobs of one cluster.

    Args:
        port: its dashboard on loopback.
        token: the cluster's token; Ray 2.60 answers 401 without it.
    """

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def submit(self, entrypoint: str) -> str:
        """Run a shell command as a job's driver and return the submission's id."""
        answer = self._ask("POST", "/api/jobs/", {"entrypoint": entrypoint})
        return str(answer["submission_id"])

    def status(self, submission: str) -> str:
        """PENDING, RUNNING or one of `ENDED`."""
        return str(self._ask("GET", f"/api/jobs/{submission}")["status"])

    def logs(self, submission: str) -> str:
        """What the driver wrote so far."""
        return str(self._ask("GET", f"/api/jobs/{submission}/logs")["logs"])

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes, as the dashboard's summary has them."""
        return list(self._ask("GET", "/nodes?view=summary")["data"]["summary"])

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, self._headers)
            response = connection.getresponse()
            answer = response.read()
            if response.status >= 400:
                text = answer.decode(errors="replace").strip()[-500:]
                raise UnavailableError(f"Ray answered {response.status} to {method} {path}: {text}")
            return json.loads(answer)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise UnavailableError(
                f"Ray's dashboard does not answer on port {self._port}: {error}"
            ) from error
        finally:
            connection.close()
