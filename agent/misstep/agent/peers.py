"""Who is at the other end of a loopback connection: login nodes are shared, and a port is open to all users of one."""

from __future__ import annotations

_ESTABLISHED = "01"


def owner(peer: tuple[str, int], port: int, *, table: str = "/proc/net/tcp") -> int | None:
    """User id of the process that holds the client's end of an IPv4 loopback connection.

    Only a row that is ESTABLISHED with an inode other than 0 counts: of a client that sent and closed at once the
    kernel says uid 0.

    Args:
        peer: address and port of the client.
        port: ours.

    Returns:
        None when the table has no such row, or cannot be read.
    """
    local, remote = _address(*peer), f":{port:04X}"
    try:
        with open(table, encoding="ascii") as rows:
            for row in rows:
                if local not in row:
                    continue
                field = row.split()
                if (
                    field[1] == local
                    and field[2].endswith(remote)
                    and field[3] == _ESTABLISHED
                    and field[9] != "0"
                ):
                    return int(field[7])
    except (OSError, ValueError, IndexError):
        return None
    return None


def _address(host: str, port: int) -> str:
    """As /proc/net/tcp writes it on a little-endian machine: 127.0.0.1:80 → 0100007F:0050."""
    return "".join(f"{int(part):02X}" for part in reversed(host.split("."))) + f":{port:04X}"
