"""InfiniBand and RoCE ports: link state, bytes, errors and signs of congestion.

Each read of a counter is a command to the adapter's firmware, and firmware that hangs holds its reader for as long
as a minute: so a thread reads, and the probe hands on what it found. Files: Documentation/ABI/stable/
sysfs-class-infiniband; ``hw_counters`` are mlx5's.
"""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from typing import NamedTuple

from misstep.agent import procfs
from misstep.agent.context import Context
from misstep.agent.probe import OK, SourceState, failing, off
from misstep.agent.records import INFO, WARNING, Records
from misstep.agent.series import Series, declared
from misstep.core import names

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
    "np_cnp_sent", "np_ecn_marked_roce_packets", "rp_cnp_handled", "rp_cnp_ignored",
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


class InfinibandProbe:
    """Ten-second readings of all ports; a change of a link's state is an event.

    Args:
        root: what stands before ``/sys``.
    """

    source = "infiniband"
    interval = _EVERY
    follows_events = False

    def __init__(self, context: Context, root: str = "") -> None:
        self._host = context.host.entity
        self._folder = f"{root}/sys/class/infiniband"
        self._boot = procfs.boot_time()
        self._managed: list[str] = []
        self._refused: set[str] = set()
        self._states: dict[str, str] = {}
        self._found: list[tuple[Series, float]] = []
        self._changes: list[tuple[_Port, str]] = []
        self._reading = ("", 0.0)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def supported(self) -> SourceState:
        """Whether there is a device at all; looks at names only."""
        try:
            found = os.listdir(self._folder)
        except OSError:
            found = []
        return OK if found else off("no InfiniBand or RoCE device on this machine")

    def check(self, now: int, out: Records) -> SourceState | None:
        """Hand on the newest reading; the first one is begun here."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="infiniband", daemon=True)
            self._thread.start()
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
        if path and time.monotonic() - began > _SILENT:
            return failing(f"{path} has not answered for {_SILENT:.0f} s: its adapter's firmware hangs")
        if self._managed:
            return OK._replace(
                reason=f"left alone, they belong to the NVLink switches: {', '.join(self._managed)}"
            )
        return OK

    def close(self) -> None:
        """Let the thread end; one that hangs in the kernel is left to it."""
        self._stop.set()

    # -- the thread ----------------------------------------------------------------------------------
    def _run(self) -> None:
        ports = self._ports()
        while True:
            self._read_all(ports)
            if self._stop.wait(_EVERY):
                return

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
            name, folder, there, declared("hw.network.up", held), declared("hw.network.bandwidth.limit", held)
        )  # fmt: skip

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
        with self._lock:
            self._found, self._reading = found, ("", 0.0)
            self._changes += changes

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
