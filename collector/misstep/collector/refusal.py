"""How the collector says no: one status, one reason out of a fixed list, one sentence that says what to do."""

from __future__ import annotations

REASONS = (
    "host", "origin", "token", "scope", "path", "method", "media_type", "encoding", "compression", "malformed",
    "agent_headers", "too_large", "ratio", "timeout", "overload", "rate", "storage", "parameter", "query",
    "limit", "not_found", "internal",
)  # fmt: skip
"""Label values of ``misstep_collector_refused_total``; there are no others, so that no client can add series."""


class Refusal(Exception):
    """A request that is not served.

    Args:
        status: HTTP status.
        reason: one of `REASONS`.
        message: what is wrong and what to do, for the one who reads the answer.
        retry_after: seconds after which the same request may succeed; 0 leaves the header out.
        close: whether the connection ends with the answer, because the rest of the body is unwanted.
    """

    def __init__(
        self, status: int, reason: str, message: str, *, retry_after: int = 0, close: bool = False
    ) -> None:
        super().__init__(message)
        if reason not in REASONS:
            raise ValueError(f"unknown reason {reason!r}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        self.close = close

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Header lines beyond type and length."""
        found: list[tuple[bytes, bytes]] = []
        if self.retry_after:
            found.append((b"retry-after", b"%d" % self.retry_after))
        if self.status == 401:
            found.append((b"www-authenticate", b'Bearer realm="misstep"'))
        if self.close:
            found.append((b"connection", b"close"))
        return found
