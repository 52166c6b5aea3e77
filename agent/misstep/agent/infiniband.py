"""InfiniBand and RoCE ports: link state, bytes, errors and signs of congestion.

Each read of a counter is a command to the adapter's firmware, and firmware that hangs holds its reader for as long
as a minute: so a thread reads, and the probe hands on what it found. Files: Documentation/ABI/stable/
sysfs-class-infiniband; ``hw_counters`` are those of mlx5, bnxt_re and irdma. A RoCE port's pauses and discards stand with
its network interface (`ethtool`).
"""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from misstep.agent import procfs
from misstep.agent.context import Context
from misstep.agent.otlp import Value
from misstep.agent.probe import OK, SourceState, failing, off
from misstep.agent.records import INFO, WARNING, Records
from misstep.agent.series import Series, declared
from misstep.agent.watched_thread import WatchedThread
from misstep.core import names

if TYPE_CHECKING:
    from misstep.agent.ethtool import Ask, Interface

_EVERY = 10.0
_SILENT = 30.0
"""Seconds after which a reading that did not come back counts as hung."""
_BYTES = {"port_rcv_data": "receive", "port_xmit_data": "transmit"}
_WORD = 4
"""``port_*_data`` count words of four bytes."""
_ERRORS = (
    "link_downed", "link_error_recovery", "symbol_error", "local_link_integrity_errors", "excessive_buffer_overrun_errors",
    "port_rcv_errors", "port_rcv_remote_physical_errors", "port_xmit_discards", "port_xmit_wait",
)  # fmt: skip
_HARDWARE = (
    "out_of_sequence", "packet_seq_err", "local_ack_timeout_err", "implied_nak_seq_err", "rnr_nak_retry_err",
    "req_cqe_error", "resp_cqe_error", "rx_icrc_encapsulated", "roce_adp_retrans", "roce_adp_retrans_to",
    "np_cnp_sent", "np_ecn_marked_roce_packets", "rp_cnp_handled", "rp_cnp_ignored", "out_of_buffer", "duplicate_request",
    "roce_slow_restart", "roce_slow_restart_cnps", "tx_cnp_pkts", "rx_cnp_pkts", "rx_ecn_marked_pkts", "seq_err_naks_rcvd", "to_retransmits",
    "cnpSent", "cnpHandled", "cnpIgnored", "RxECNMrkd",
)  # fmt: skip
_MANAGED = b"SW_MNG"
"""In the vital product data of adapters that belong to the NVLink switches of HGX B200 and B300: Fabric Manager looks
for it too. A read of their counters fails, and each failure is a line in the kernel's log."""
_RATE = re.compile(rb"([\d.]+) Gb/sec")


class _Port(NamedTuple):
    """One port and the files that are read of it, with the series that each feeds."""

    name: str
    folder: str
    counters: list[tuple[str, Series, int]]
    active: Series
    rate: Series
    interface: Interface | None


class InfinibandProbe:
    """Ten-second readings of all ports; a change of a link's state is an event.

    Args:
        root: what stands before ``/sys``.
        ask: by which the counters of network interfaces are asked for; without it, the kernel.
    """

    source = "infiniband"
    interval = _EVERY
    follows_events = False

    def __init__(self, context: Context, root: str = "", ask: Ask | None = None) -> None:
        self._host = context.host.entity
        self._folder = f"{root}/sys/class/infiniband"
        self._boot = procfs.boot_time()
        self._managed: list[str] = []
        self._refused: set[str] = set()
        self._states: dict[str, str] = {}
        self._found: list[tuple[Series, float]] = []
        self._changes: list[tuple[_Port, str]] = []
        self._reading = ("", 0.0)
        self._ask = ask
        self._series: dict[tuple[str, str], Series] = {}
        self._lock = threading.Lock()
        self._thread = WatchedThread("infiniband", self._run, context.clock)

    def supported(self) -> SourceState:
        """Whether there is a device at all; looks at names only."""
        try:
            found = os.listdir(self._folder)
        except OSError:
            found = []
        return OK if found else off("no InfiniBand or RoCE device on this machine")

    def check(self, now: int, out: Records) -> SourceState | None:
        """Hand on the newest reading; the first one is begun here."""
        life = self._thread.watch()
        with self._lock:
            found, self._found = self._found, []
            changes, self._changes = self._changes, []
            path, began = self._reading
        for series, value in found:
            out.point(series, value)
        for port, state in changes:
            out.event(
                "hw.network.link",
                entity=self._host,
                state="up" if state == "ACTIVE" else "down",
                body=f"{port.name} is {state}",
                severity=INFO if state == "ACTIVE" else WARNING,
                attributes={names.HW_ID: port.name},
            )
        if life != OK:
            return life
        if path and time.monotonic() - began > _SILENT:
            return failing(f"{path} has not answered for {_SILENT:.0f} s: its adapter's firmware hangs")
        if self._managed:
            return OK._replace(
                reason=f"left alone, they belong to the NVLink switches: {', '.join(self._managed)}"
            )
        return OK

    def close(self) -> None:
        """Let the thread end; one that hangs in the kernel is left to it."""
        self._thread.close()

    # -- the thread ----------------------------------------------------------------------------------
    def _run(self) -> None:
        self._managed = []
        ports = self._ports()
        while not self._thread.stopping.is_set():
            self._read_all(ports)
            self._thread.stopping.wait(_EVERY)

    def _ports(self) -> list[_Port]:
        found: list[_Port] = []
        for device in sorted(os.listdir(self._folder)):
            if self._is_managed(device):
                self._managed.append(device)
                continue
            folder = f"{self._folder}/{device}/ports"
            for number in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
                found.append(self._port(f"{device}/{number}", f"{folder}/{number}"))
        return found

    def _is_managed(self, device: str) -> bool:
        try:
            return _MANAGED in procfs.read(f"{self._folder}/{device}/device/vpd")
        except OSError:
            return False  # not root, or no such file; then a counter that refuses is not read twice

    def _port(self, name: str, folder: str) -> _Port:
        held = {names.HW_ID: name}
        counters = [
            (
                f"{folder}/counters/{file}",
                declared("hw.network.io", {**held, "network.io.direction": way}, self._boot),
                _WORD,
            )
            for file, way in _BYTES.items()
        ]
        for part, wanted in (("counters", _ERRORS), ("hw_counters", _HARDWARE)):
            counters += [
                (f"{folder}/{part}/{file}", declared("hw.network.port.events", {**held, "hw.network.counter": file}, self._boot), 1)
                for file in wanted
            ]  # fmt: skip
        there = [one for one in counters if os.path.exists(one[0])]
        return _Port(
            name, folder, there, declared("hw.network.up", held), declared("hw.network.bandwidth.limit", held), self._interface(folder)
        )  # fmt: skip

    def _interface(self, folder: str) -> Interface | None:
        """The network interface of a RoCE port; None for InfiniBand."""
        if self._text(f"{folder}/link_layer").strip() != b"Ethernet":
            return None
        from misstep.agent.ethtool import Interface  # here: most machines have no such port

        place = int(folder.rpartition("/")[2]) - 1
        net = f"{folder}/../../device/net"
        for name in sorted(os.listdir(net)) if os.path.isdir(net) else ():
            if self._text(f"{net}/{name}/dev_port").strip() == b"%d" % place:
                return Interface(name, self._ask)
        name = self._text(f"{folder}/gid_attrs/ndevs/0").strip().decode("ascii", "replace")
        return Interface(name, self._ask) if name else None

    def _read_all(self, ports: list[_Port]) -> None:
        found: list[tuple[Series, float]] = []
        changes: list[tuple[_Port, str]] = []
        for port in ports:
            # ``4: ACTIVE``
            state = self._text(f"{port.folder}/state").rpartition(b": ")[2].decode("ascii", "replace").strip()
            if state:
                found.append((port.active, float(state == "ACTIVE")))
                if self._states.get(port.name, state) != state:
                    changes.append((port, state))
                self._states[port.name] = state
            rate = _RATE.match(self._text(f"{port.folder}/rate"))
            if rate:
                found.append((port.rate, float(rate.group(1)) * 1e9 / 8))
            for path, series, factor in port.counters:
                held = self._text(path).strip()
                if held.isdigit():  # ``N/A (no PMA)`` where the adapter does not count
                    found.append((series, int(held) * factor))
            if port.interface is not None:
                found += self._of_interface(port.name, port.interface)
        with self._lock:
            self._found, self._reading = found, ("", 0.0)
            self._changes += changes

    def _of_interface(self, port: str, interface: Interface) -> list[tuple[Series, float]]:
        from misstep.agent.ethtool import PAUSED

        with self._lock:
            self._reading = (f"ethtool {interface.name}", time.monotonic())
        try:
            read = interface.read()
        except OSError:
            return []  # it was taken away, or its driver has no such counters
        found: list[tuple[Series, float]] = []
        for name, value in read.items():
            paused = PAUSED.fullmatch(name)
            series = self._series.get((port, name))
            if series is None:
                held: dict[str, Value] = {names.HW_ID: port}
                if paused:
                    held |= {"network.io.direction": "receive" if paused[1] == "rx" else "transmit", "hw.network.priority": paused[2] or "all"}  # fmt: skip
                    series = declared("hw.network.port.pause.time", held, self._boot)
                else:
                    series = declared(
                        "hw.network.port.events", held | {"hw.network.counter": name}, self._boot
                    )
                self._series[port, name] = series
            found.append((series, value / 1e6 if paused else value))
        return found

    def _text(self, path: str) -> bytes:
        if path in self._refused:
            return b""
        with self._lock:
            self._reading = (path, time.monotonic())
        try:
            return procfs.read(path, 128)
        except OSError as error:
            if error.errno == errno.EINVAL:
                self._refused.add(path)  # each further try would be a further line in the kernel's log
            return b""
