"""The standard library's HTTP client, without the 4 MiB of TLS where it is not asked for."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if "http.client" not in sys.modules and "ssl" not in sys.modules:
    # http.client takes ssl along when it can be imported; None in sys.modules says that it cannot.
    sys.modules["ssl"] = None  # type: ignore[assignment]
    try:
        from http import client
    finally:
        del sys.modules["ssl"]
else:
    from http import client

if TYPE_CHECKING:
    import ssl

BadStatusLine = client.BadStatusLine  # RemoteDisconnected is one
HTTPConnection = client.HTTPConnection
HTTPException = client.HTTPException
HTTPResponse = client.HTTPResponse


class TlsConnection(HTTPConnection):
    """HTTPS with the system's certificates (``SSL_CERT_FILE`` names others) and host name checks."""

    default_port = 443

    def __init__(self, host: str, port: int | None, timeout: float) -> None:
        super().__init__(host, port or 443, timeout=timeout)
        import ssl

        self._context: ssl.SSLContext = ssl.create_default_context()
        self.sock: Any = None

    def connect(self) -> None:
        """Connect, then shake hands."""
        super().connect()
        self.sock = self._context.wrap_socket(self.sock, server_hostname=self.host)


def connection(scheme: str, host: str, port: int | None, timeout: float) -> HTTPConnection:
    """A connection that opens with its first request; `timeout` in seconds holds for connecting and for each read."""
    if scheme == "https":
        return TlsConnection(host, port, timeout)
    return HTTPConnection(host, port, timeout=timeout)
