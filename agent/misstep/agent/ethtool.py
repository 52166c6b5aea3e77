"""Counters of a network interface as its driver names them: SIOCETHTOOL with ETHTOOL_GSTRINGS and ETHTOOL_GSTATS.

No privilege is needed for these (net/core/dev_ioctl.c, net/ethtool/ioctl.c). Layouts: linux/ethtool.h.
"""

from __future__ import annotations

import array
import fcntl
import re
import socket
import struct
from collections.abc import Callable

_SIOCETHTOOL = 0x8946
_GSTRINGS, _GSTATS, _GSSET_INFO = 0x1B, 0x1D, 0x37
_STATISTICS = 1
_NAME = 32
_SLACK = 4096
"""Counters for which there is room besides those that were announced: older kernels write as many as there are by now."""
_MOST = 65536

WANTED = re.compile(
    r"(?:rx|tx)_(?:prio\d|global)_pause|(?:rx|tx)_pause_ctrl_phy|tx_pause_storm_(?:warning|error)_events"
    r"|rx_prio\d_(?:discards|buf_discard|cong_discard|marked)|(?:rx|tx)_discards_phy|rx_out_of_buffer|rx_symbol_err_phy|rx_crc_errors_phy"
    r"|link_down_events_phy|(?:rx|tx)_pfc_ena_frames_pri\d|(?:rx|tx)_pause_frames|(?:rx|tx)_priority_\d_xoff(?:\.nic)?"
)
"""Counters of mlx5, bnxt and ice that tell of congestion, loss and bad cables."""
PAUSED = re.compile(r"(rx|tx)_(?:prio(\d)|global)_pause_duration")
"""mlx5: microseconds for which the other end held this port back (rx), or this port the other end (tx)."""
_TRAFFIC = re.compile(r"(?:rx|tx)_prio\d_packets")
_PRIORITY = re.compile(r"_(?:prio|pri|priority_)(\d)")

Ask = Callable[[str, bytearray], None]
"""Has the kernel answer a request of ethtool about an interface in place."""


class Interface:
    """The wanted counters of one interface.

    Args:
        name: of the interface.
    """

    def __init__(self, name: str, ask: Ask | None = None) -> None:
        self.name = name
        self._ask = ask or control
        self._count = -1
        self._wanted: list[tuple[int, str]] = []

    def read(self) -> dict[str, int]:
        """The wanted counters; those of priorities without any traffic are left out.

        Raises:
            OSError: the interface is gone, or has no such counters.
        """
        count = self._size()
        if count != self._count:
            self._wanted, self._count = self._learn(count), count
        if not self._wanted:
            return {}
        held = bytearray(8 + 8 * (count + _SLACK))
        struct.pack_into("=II", held, 0, _GSTATS, count)
        self._ask(self.name, held)
        values = struct.unpack_from(f"={count}Q", held, 8)
        found = {name: values[place] for place, name in self._wanted}
        used = {match[1] for name, value in found.items() if value and (match := _PRIORITY.search(name))}
        return {
            name: value
            for name, value in found.items()
            if _is_told(name) and ((match := _PRIORITY.search(name)) is None or match[1] in used)
        }

    def _size(self) -> int:
        held = bytearray(struct.pack("=IIQI", _GSSET_INFO, 0, 1 << _STATISTICS, 0))
        self._ask(self.name, held)
        mask, count = struct.unpack_from("=QI", held, 8)
        return min(int(count), _MOST) if mask else 0

    def _learn(self, count: int) -> list[tuple[int, str]]:
        held = bytearray(12 + _NAME * (count + _SLACK))
        struct.pack_into("=III", held, 0, _GSTRINGS, _STATISTICS, count)
        self._ask(self.name, held)
        found = []
        for place in range(count):
            at = 12 + _NAME * place
            name = bytes(held[at : at + _NAME]).partition(b"\0")[0].decode("ascii", "replace").strip()
            if _is_told(name) or _TRAFFIC.fullmatch(name):
                found.append((place, name))
        return found


def _is_told(name: str) -> bool:
    return bool(WANTED.fullmatch(name) or PAUSED.fullmatch(name))


def control(name: str, request: bytearray) -> None:
    """Ask the kernel.

    Raises:
        OSError: it refuses.
    """
    held = array.array("B", request)  # its address stays where it is
    ifreq = struct.pack("16sP16x", name.encode()[:15], held.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        fcntl.ioctl(link, _SIOCETHTOOL, ifreq)
    request[:] = held.tobytes()
