"""Host and Origin lists, local users, tokens, and what may be bound."""

import os
import stat
from pathlib import Path

import pytest

from misstep.collector.access import Access, Peer, check_binding, trusted_users
from misstep.collector.refusal import Refusal
from misstep.collector.tokens import Tokens
from misstep.core.errors import SettingsError

SERVER = ("127.0.0.1", 7663)
MINE, OTHER = 1000, 1001


def peer(uid: int | None = MINE, client: str = "127.0.0.1") -> Peer:
    return Peer((client, 40000), SERVER, owner=lambda _client, _server: uid)


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path / "tokens.json")


@pytest.fixture
def access(tokens: Tokens) -> Access:
    return Access(tokens, users={MINE, 0}, hosts=["Collector.Example"])


@pytest.mark.parametrize(
    "host",
    [
        "localhost:7663",
        "127.0.0.1",
        "127.0.0.1:9000",
        "[::1]:7663",
        "LOCALHOST",
        "localhost.:7663",
        "collector.example:1",
    ],
)
def test_own_names_are_hosts(access: Access, host: str) -> None:
    access.admit_page(peer(), "http", {b"host": host.encode()})


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "evil.example:7663", "localhost.evil.example", "10.0.0.7", "127.0.0.1.evil.example"],
)
def test_other_names_are_refused(access: Access, host: str) -> None:
    for _ in range(2):
        with pytest.raises(Refusal) as refused:
            access.admit_page(peer(), "http", {b"host": host.encode()})
        assert (refused.value.status, refused.value.reason) == (403, "host")


def test_the_address_that_was_reached_is_a_host(tokens: Tokens) -> None:
    access = Access(tokens, users=[])
    reached = Peer(("10.0.0.9", 5), ("10.0.0.7", 7663))
    access.admit_page(reached, "https", {b"host": b"10.0.0.7:7663"})
    with pytest.raises(Refusal):
        access.admit_page(peer(), "http", {b"host": b"10.0.0.7:7663"})


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://localhost:9999", "https://localhost:7663", "http://localhost"],
)
def test_pages_of_other_origins_are_refused(access: Access, origin: str) -> None:
    with pytest.raises(Refusal) as refused:
        access.admit_page(peer(), "http", {b"host": b"localhost:7663", b"origin": origin.encode()})
    assert (refused.value.status, refused.value.reason) == (403, "origin")


def test_own_pages_may_ask(access: Access) -> None:
    access.admit_page(peer(), "http", {b"host": b"localhost:7663", b"origin": b"http://localhost:7663"})


def test_own_user_and_root_need_no_token(access: Access) -> None:
    for uid in (MINE, 0):
        access.admit_user(peer(uid), {}, "ingest")


@pytest.mark.parametrize("uid", [OTHER, None])
def test_other_users_need_a_token(access: Access, tokens: Tokens, uid: int | None) -> None:
    with pytest.raises(Refusal) as refused:
        access.admit_user(peer(uid), {}, "read")
    assert refused.value.status == 401
    assert (b"www-authenticate", b'Bearer realm="misstep"') in refused.value.headers()
    token = tokens.create("test", ("read",))
    access.admit_user(peer(uid), {b"authorization": f"Bearer {token}".encode()}, "read")


def test_the_owner_is_not_looked_up_for_other_machines(access: Access) -> None:
    far = Peer(("10.0.0.9", 40000), SERVER, owner=lambda _client, _server: MINE)
    with pytest.raises(Refusal):
        access.admit_user(far, {}, "read")


def test_the_owner_is_looked_up_once_per_connection(access: Access) -> None:
    asked = []

    def owner(client: tuple[str, int], server: tuple[str, int]) -> int:
        asked.append(client)
        return MINE

    connection = Peer(("127.0.0.1", 40000), SERVER, owner)
    for _ in range(3):
        access.admit_user(connection, {}, "ingest")
    assert len(asked) == 1


def test_scopes_are_kept_apart(access: Access, tokens: Tokens) -> None:
    token = tokens.create("agent", ("ingest",))
    headers = {b"authorization": f"Bearer {token}".encode()}
    access.admit_user(peer(OTHER), headers, "ingest")
    with pytest.raises(Refusal) as refused:
        access.admit_user(peer(OTHER), headers, "read")
    assert (refused.value.status, refused.value.reason) == (403, "scope")
    admin = tokens.create("admin", ("admin",))
    access.admit_user(peer(OTHER), {b"authorization": f"bearer {admin}".encode()}, "read")


@pytest.mark.parametrize("header", [b"Bearer wrong", b"Bearer ", b"Basic dXNlcjpwYXNz", b"\xff\xfe"])
def test_wrong_tokens_are_refused(access: Access, tokens: Tokens, header: bytes) -> None:
    tokens.create("test", ("admin",))
    with pytest.raises(Refusal):
        access.admit_user(peer(OTHER), {b"authorization": header}, "read")


def test_tokens_are_stored_hashed_and_closed(tokens: Tokens) -> None:
    token = tokens.create("test", ("read",))
    assert token not in tokens.path.read_text()
    assert stat.S_IMODE(tokens.path.stat().st_mode) == 0o600
    assert Tokens(tokens.path).scopes(token) == frozenset({"read"})
    assert tokens.create("test", ("read",)) != token
    assert len(Tokens(tokens.path)) == 2


def test_a_token_file_that_others_may_read_is_refused(tokens: Tokens) -> None:
    tokens.create("test", ("read",))
    tokens.path.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        Tokens(tokens.path)


def test_a_damaged_token_file_is_named(tokens: Tokens) -> None:
    tokens.path.write_text("{")
    tokens.path.chmod(0o600)
    with pytest.raises(SettingsError, match=r"tokens\.json is damaged"):
        Tokens(tokens.path)


def test_unknown_scopes_are_refused(tokens: Tokens) -> None:
    with pytest.raises(SettingsError, match="ingest, read, admin"):
        tokens.create("test", ("write",))


def test_off_loopback_needs_token_and_tls() -> None:
    with pytest.raises(SettingsError, match=r"a token .* and TLS"):
        check_binding("0.0.0.0", tokens=0, tls=False)
    with pytest.raises(SettingsError, match="TLS"):
        check_binding("10.0.0.7", tokens=1, tls=False)
    with pytest.raises(SettingsError, match="--new-token"):
        check_binding("::", tokens=0, tls=True)
    check_binding("0.0.0.0", tokens=1, tls=True)
    for host in ("127.0.0.1", "::1", "localhost", "127.1.2.3"):
        check_binding(host, tokens=0, tls=False)


def test_trusted_users_are_known_to_the_machine() -> None:
    assert trusted_users(["root", "12345"]) == {os.geteuid(), 0, 12345}
    with pytest.raises(SettingsError, match="no user 'nobody-of-that-name'"):
        trusted_users(["nobody-of-that-name"])
