"""How this API says no: ``errorType`` and ``error``, with Prometheus' statuses."""

from __future__ import annotations

import msgspec

from misstep.collector.refusal import Refusal
from misstep.store.promql.errors import QueryError

_STATUS = {"bad_data": 400, "execution": 422, "canceled": 499, "timeout": 503, "unavailable": 503}
_KIND = {
    400: "bad_data", 401: "bad_data", 403: "bad_data", 404: "not_found", 405: "bad_data", 413: "bad_data",
    422: "execution", 429: "unavailable", 500: "internal", 503: "unavailable", 504: "timeout",
}  # fmt: skip

OUT_OF_TIME = "query timed out in expression evaluation"


class PrometheusRefusal(Refusal):
    """A refusal that knows its ``errorType``."""

    def __init__(self, kind: str, message: str) -> None:
        reason = {"timeout": "timeout", "unavailable": "storage"}.get(kind, "parameter")
        super().__init__(_STATUS[kind], reason, message)
        self.kind = kind


def wrong(name: str, text: str, what: str) -> PrometheusRefusal:
    """A parameter is not what it should be, said as Prometheus says it."""
    return PrometheusRefusal(
        "bad_data", f'invalid parameter "{name}": cannot parse "{text[:100]}" to a valid {what}'
    )


def refused(error: QueryError) -> PrometheusRefusal:
    """A query that has no answer."""
    return PrometheusRefusal(error.kind, str(error))


def shape(refusal: Refusal) -> tuple[bytes, bytes]:
    """Body and media type of an error."""
    if isinstance(refusal, PrometheusRefusal):
        kind, message = refusal.kind, refusal.message
    elif refusal.reason == "timeout":
        kind, message = "timeout", OUT_OF_TIME
    else:
        kind, message = _KIND.get(refusal.status, "internal"), refusal.message
    body = {"status": "error", "errorType": kind, "error": message}
    return msgspec.json.encode(body), b"application/json"
