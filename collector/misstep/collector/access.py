"""Who may ask: allow-lists of Host and Origin, then the local user behind the connection or a token.

The lists stop web pages that reach for this port through a visitor's browser, by a name of their own that
resolves to loopback or by a cross-site request. On loopback a connection of the collector's own user, of
root or of a trusted user needs no token; login nodes of clusters are shared, so all others need one.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Iterable
from typing import Any

from misstep.collector.owner import connection_owner, is_loopback
from misstep.collector.refusal import Refusal
from misstep.collector.tokens import Tokens
from misstep.core.errors import SettingsError

Headers = dict[bytes, bytes]
_REMEMBERED_HOSTS = 64


class Peer:
    """One connection: its two ends, and whose it is once that was asked."""

    __slots__ = ("_owner", "_uid", "client", "server")

    def __init__(
        self,
        client: tuple[str, int],
        server: tuple[str, int],
        owner: Callable[[tuple[str, int], tuple[str, int]], int | None] = connection_owner,
    ) -> None:
        self.client = client
        self.server = server
        self._owner = owner
        self._uid: int | None = None

    def uid(self) -> int | None:
        """The user at the other end; None off loopback and where it cannot be told."""
        if self._uid is None and is_loopback(self.client[0]):
            self._uid = self._owner(self.client, self.server)
        return self._uid


class Access:
    """The rules of one collector.

    Args:
        tokens: what was issued.
        users: uids whose loopback connections need no token.
        hosts: names under which the collector may be addressed, besides loopback and the address that
            the connection reached.
    """

    def __init__(self, tokens: Tokens, *, users: Iterable[int], hosts: Iterable[str] = ()) -> None:
        self._tokens = tokens
        self._users = frozenset(users)
        self._hosts = frozenset(h.lower().rstrip(".") for h in hosts) | {"localhost"}
        self._known: set[tuple[bytes, str]] = set()

    def admit_page(self, peer: Peer, scheme: str, headers: Headers) -> None:
        """Hold Host and Origin against the lists; for every request, whatever its method.

        Raises:
            Refusal: 403.
        """
        host = headers.get(b"host", b"")
        known = (host, peer.server[0])
        if known not in self._known:
            self._check_host(host, peer)
            if len(self._known) < _REMEMBERED_HOSTS:
                self._known.add(known)
        origin = headers.get(b"origin")
        if origin is not None and origin.lower() != scheme.encode() + b"://" + host.lower():
            raise Refusal(
                403,
                "origin",
                "a web page of another origin may not ask this collector; open the collector's own address",
            )

    def admit_user(self, peer: Peer, headers: Headers, scope: str) -> None:
        """Let in who may do `scope`, by the owner of the connection or by token.

        Raises:
            Refusal: 401 without a valid token, 403 for one that lacks the scope.
        """
        if peer.uid() in self._users:
            return
        kind, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        granted = self._tokens.scopes(token.strip()) if kind.lower() == "bearer" and token else None
        if granted is None:
            raise Refusal(401, "token", _who(peer))
        if scope not in granted and "admin" not in granted:
            raise Refusal(403, "scope", f"this token lacks the scope {scope!r}; issue one that has it")

    def _check_host(self, host: bytes, peer: Peer) -> None:
        name = _name_of(host.decode("latin-1"))
        if name in self._hosts or is_loopback(name) or (name and name == peer.server[0].lower()):
            return
        raise Refusal(
            403,
            "host",
            f"this collector is not known as {name[:100]!r}; use its address, or add the name to collector.allow_host",
        )


def trusted_users(names: Iterable[str]) -> frozenset[int]:
    """The collector's own user, root and the named ones.

    Raises:
        SettingsError: there is no such user.
    """
    found = {os.geteuid(), 0}
    for name in names:
        try:
            found.add(int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid)
        except KeyError:
            raise SettingsError(f"collector.trust_user: there is no user {name!r} on this machine") from None
    return frozenset(found)


def check_binding(host: str, *, tokens: int, tls: bool) -> None:
    """Refuse to listen off loopback without a token and TLS.

    Raises:
        SettingsError: says which of the two is missing and how to get it.
    """
    if host == "localhost" or is_loopback(host):
        return
    missing = []
    if not tokens:
        missing.append("a token (issue one with: python -m misstep.collector --new-token ingest,read)")
    if not tls:
        missing.append("TLS (set collector.tls_certificate and collector.tls_key)")
    if missing:
        raise SettingsError(
            f"collector.host = {host!r} is reachable from other machines, and that needs {' and '.join(missing)}; "
            "or stay on 127.0.0.1"
        )


def headers_of(scope: Any) -> Headers:
    """The headers of an ASGI scope by lower-case name."""
    return dict(scope["headers"])


def _name_of(host: str) -> str:
    """A Host header without its port, brackets and trailing dot."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().rstrip(".")


def _who(peer: Peer) -> str:
    if not is_loopback(peer.client[0]):
        return "a connection from another machine needs a token: Authorization: Bearer <token>"
    return (
        "this collector belongs to another user of this machine; ask for a token "
        "(Authorization: Bearer <token>), or for --trust-user with your name"
    )
