"""Client of Misstep's own HTTP API, for CLI, TUI and tests."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from misstep.core.errors import MisstepError, UnavailableError

RESPONSE_LIMIT = 64 * 1024 * 1024
"""Bytes; a collector that answers more than this is not ours."""


def endpoint_file(data: Path | None = None) -> Path:
    """Where `misstep up` writes its addresses: ``$XDG_RUNTIME_DIR/misstep/endpoint.json``, else the data folder."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime) / "misstep" if runtime and Path(runtime).is_dir() else (data or default_data())
    return folder / "endpoint.json"


def default_data() -> Path:
    """``$XDG_DATA_HOME/misstep``, as the XDG base directory specification has it."""
    home = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(home) / "misstep"


def read_endpoint(path: Path | None = None) -> dict[str, Any]:
    """The addresses that a running Misstep wrote.

    Raises:
        UnavailableError: there is no such file, or it is unreadable.
    """
    path = path or Path(os.environ.get("MISSTEP_ENDPOINT_FILE") or endpoint_file())
    try:
        endpoint: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise UnavailableError("Misstep is not running here. Start it with: misstep up") from None
    except (OSError, ValueError) as error:
        raise UnavailableError(f"{path} is unreadable ({error}). Start Misstep with: misstep up") from error
    return endpoint


class Client:
    """Asks a collector. One connection per call, so a client may be kept and shared.

    Args:
        url: base address, for example ``http://127.0.0.1:7663``; without it the endpoint file tells.
        timeout: seconds for connecting and for each read.
    """

    def __init__(self, url: str | None = None, *, token: str | None = None, timeout: float = 10.0) -> None:
        self.url = (url or read_endpoint()["collector"]).rstrip("/")
        self._token = token or os.environ.get("MISSTEP_TOKEN")
        self._timeout = timeout

    def get(self, path: str, **query: object) -> Any:
        """GET ``/api/misstep/v1/{path}`` and decode the JSON; query parameters that are None are left out.

        Raises:
            UnavailableError: no collector answers there.
            MisstepError: it refused; the message is the collector's own.
        """
        return self._ask("GET", f"/api/misstep/v1/{path}", query)

    def post(self, path: str, **form: object) -> Any:
        """The same question as a form in a POST, for parameters that are too long for an address."""
        return self._ask("POST", f"/api/misstep/v1/{path}", form)

    def prometheus(self, path: str, **query: object) -> Any:
        """POST ``/api/v1/{path}`` as a form, and give back what stands under ``data``.

        Raises:
            UnavailableError: no collector answers there.
            MisstepError: it refused; the message is the collector's own.
        """
        return self._ask("POST", f"/api/v1/{path}", query, times=16)["data"]

    def _ask(self, method: str, path: str, query: Mapping[str, object], times: int = 1) -> Any:
        import http.client  # here, not above: it takes 5 MiB with TLS, and the agent loads this module for its paths alone

        parts = urlsplit(self.url)
        most = times * RESPONSE_LIMIT
        encoded = _encoded(query)
        body = encoded.encode() if method == "POST" else None
        target = parts.path + path + (f"?{encoded}" if encoded and body is None else "")
        connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = connect(parts.hostname or "127.0.0.1", parts.port, timeout=self._timeout)
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            received = response.read(most + 1)
        except (OSError, http.client.HTTPException) as error:
            raise UnavailableError(
                f"no collector answers at {self.url} ({error}). Start one with: misstep up"
            ) from error
        finally:
            connection.close()
        if len(received) > most:
            raise MisstepError(f"{self.url} answered more than {most >> 20} MiB")
        try:
            answer = json.loads(received) if received else None
        except ValueError as error:
            raise MisstepError(f"{self.url} did not answer JSON; is it a Misstep collector?") from error
        if response.status >= 400:
            detail = answer.get("error") if isinstance(answer, dict) else None
            raise MisstepError(str(detail or f"{self.url}{target} answered {response.status}"))
        return answer


def _encoded(query: Mapping[str, object]) -> str:
    return urlencode([(k, v) for k, v in query.items() if v is not None], doseq=True)
