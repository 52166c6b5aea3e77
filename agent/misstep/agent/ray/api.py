"""Questions to a Ray dashboard, with the token of the user who owns the raylet where it asks for one.

The token is read for each connection and not kept; it goes nowhere but to that user's own dashboard.
"""

from __future__ import annotations

import json
import os
from typing import Any
from urllib.parse import urlsplit

from misstep.agent.ray import cluster
from misstep.agent.ray.cluster import RayProcess
from misstep.agent.web import HTTPException, connection
from misstep.core.errors import UnavailableError

_ANSWER_LIMIT = 64 * 1024 * 1024
_TIMEOUT = 5.0


class Denied(UnavailableError):
    """The dashboard wants a token that we do not have."""


def ask(process: RayProcess, path: str) -> Any:
    """GET a path of the dashboard of a cluster and decode the JSON.

    Args:
        process: a raylet or GCS of the cluster; it names the dashboard and the way to the token.

    Raises:
        Denied: it wants a token.
        UnavailableError: it does not answer, or not with JSON.
    """
    address = urlsplit(process.dashboard)
    link = connection("http", address.hostname or "127.0.0.1", address.port or 8265, _TIMEOUT)
    try:
        token = _token(process) if process.token[0].lower() == "token" else ""
        status, body = _get(link, path, token)
        if status == 401 and not token:
            link.close()
            token = _token(process)
            if not token:
                raise Denied("Ray's dashboard asks for a token, and the file of its owner cannot be read")
            status, body = _get(link, path, token)
        if status in (401, 403):
            raise Denied("Ray's dashboard refuses the token of its owner")
        if status != 200:
            raise UnavailableError(f"Ray's dashboard answers {status} to {path.partition('?')[0]}")
        return json.loads(body)
    except (OSError, HTTPException, ValueError) as error:
        raise UnavailableError(f"Ray's dashboard at {process.dashboard} does not answer ({error})") from error
    finally:
        link.close()


def _get(link: Any, path: str, token: str) -> tuple[int, bytes]:
    link.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
    response = link.getresponse()
    body: bytes = response.read(_ANSWER_LIMIT + 1)
    if len(body) > _ANSWER_LIMIT:
        raise UnavailableError(
            f"Ray's dashboard answers more than {_ANSWER_LIMIT >> 20} MiB to {path.partition('?')[0]}"
        )
    return int(response.status), body


def _token(process: RayProcess) -> str:
    stated = cluster.environment(process.pid).get("RAY_AUTH_TOKEN", "")
    if stated:
        return stated
    path = process.token[1]
    try:
        held = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return ""
    try:
        # The path is the user's to choose: what root can read and the user cannot must not be sent on.
        if os.fstat(held).st_uid != process.user:
            return ""
        token = os.read(held, 4096).decode("ascii", "replace").strip()
    except OSError:
        return ""  # a folder
    finally:
        os.close(held)
    return token if token.isascii() and token.isprintable() else ""


def rows(answer: Any) -> list[dict[str, Any]]:
    """The list in an answer of ``/api/v0/…``; empty when it has another shape."""
    try:
        found = answer["data"]["result"]["result"]
    except (KeyError, TypeError):
        return []
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
