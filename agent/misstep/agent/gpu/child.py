"""The child: reads NVML at its cadence and writes frames until nobody wants them any more.

``main(library, interval)``: stdin is closed by the agent when it should go, stdout takes the frames (`wire`),
descriptor 3 is a page in which it says where it is. It is never killed: it ends by giving NVML back.
"""

from __future__ import annotations

import mmap
import os
import struct
import time

from misstep.agent.gpu import codes, nvml, wire
from misstep.agent.gpu.device import Device
from misstep.agent.gpu.nvml import Library
from misstep.agent.gpu.readings import Buffer, Place

_SLOW, _SURVEY = 10, 60
"""Ticks between readings of the slow tier, and between looks at what was dropped."""
_WAIT = codes.NAMES.index("nvmlEventSetWait_v2")
_SLICE = 1.0
"""Seconds of one wait for events, after which stdin is looked at."""


class Child:
    """NVML, its devices and the pipe.

    Args:
        path: of the library.
        interval: seconds between readings of the fast tier.
        page: what the agent reads when nothing comes.
    """

    def __init__(self, path: str, interval: float, page: bytearray, out: wire.Writer) -> None:
        self._path, self._interval, self._out = path, interval, out
        self._place = Place(page)
        self._layouts = {wire.FAST: 0, wire.SLOW: 0}
        self._told: dict[tuple[int, str], object] = {}
        self._slow_due = 0
        self._survey_due = _SURVEY
        self._next = 0
        self._driver = ""
        self._event = Buffer(nvml.EVENT.size)
        self._set = 0

    def run(self) -> None:
        """Until stdin ends."""
        try:
            library = Library(self._path)
        except OSError as error:
            return self._leave(12, str(error))
        code = self._enter(library, "nvmlInitWithFlags", 0)
        if code:
            return self._leave(code, codes.error(code))
        try:
            code = self._follow(library)
            if code:
                self._leave(code, codes.error(code))
        finally:
            self._enter(library, "nvmlShutdown")
        return None

    def _follow(self, library: Library) -> int:
        small = Buffer(128)
        code = self._enter(library, "nvmlDeviceGetCount_v2", small.address)
        if code:
            return code
        count = struct.unpack_from("<I", small.view)[0]
        driver = ""
        if self._enter(library, "nvmlSystemGetDriverVersion", small.address, 80) == codes.OK:
            driver = bytes(small.view[:80]).partition(b"\0")[0].decode("ascii", "replace")
        devices = [Device(library, index, self._place) for index in range(count)]
        for device in devices:
            device.survey()
        self._driver = driver
        self._introduce(devices)
        self._listen(library, devices)
        begin, tick = time.monotonic(), 0
        while True:
            self._tick(library, devices, tick)
            self._place.enter(-1, _WAIT)
            tick += 1
            behind = time.monotonic() - begin - tick * self._interval
            if behind > self._interval:
                tick += int(behind / self._interval)  # readings that a slow driver kept us from are left out
            if not self._wait(library, devices, begin + tick * self._interval):
                return codes.OK

    def _tick(self, library: Library, devices: list[Device], tick: int) -> None:
        if tick >= self._survey_due:
            self._survey_due = tick + _SURVEY
            self._survey(devices)
        self._sweep(devices, wire.FAST)
        if tick >= self._slow_due:
            self._slow_due = tick + _SLOW
            self._sweep(devices, wire.SLOW)
            if not self._set:
                self._listen(library, devices)
            for device in devices:
                for link, kind, by in device.links.moved if device.links is not None else ():
                    self._out.send(b"E", wire.lines([(device.index, "link", link, kind, int(by))]))
        # Lists of processes are slow to make: a few GPUs each second, all of them within ten.
        for device in devices if tick == 0 else devices[self._next :: _SLOW]:
            self._processes(device)
        self._next = (self._next + 1) % _SLOW
        for device in devices:
            self._tell(device.index, "state", device.state, device.said)

    def _introduce(self, devices: list[Device]) -> None:
        """Tell who the GPUs are; again when one that was lost at the start is back."""
        rows = [(*device.identity(), self._driver) for device in devices]
        if self._told.get((-1, "identity")) != rows:
            self._told[-1, "identity"] = rows
            self._out.send(b"G", wire.lines(rows))
        instances: list[tuple[object, ...]] = [
            (device.index, *one) for device in devices for one in device.instances
        ]
        if self._told.get((-1, "instances")) != instances:
            self._told[-1, "instances"] = instances
            self._out.send(b"M", wire.lines(instances))

    def _survey(self, devices: list[Device]) -> None:
        """Look again for what was not there, and at what seldom changes."""
        for device in devices:
            if not device.complete or not device.same_mode():
                device.survey()
            if device.state == "ok":
                self._tell(device.index, "fabric", *device.fabric())
        self._introduce(devices)

    def _sweep(self, devices: list[Device], tier: bytes) -> None:
        values: list[float] = []
        started = time.perf_counter()
        for device in devices:
            device.read(tier == wire.SLOW, values)
        took = time.perf_counter() - started
        if tier == wire.FAST:
            values.append(took)
        if any(device.changed for device in devices) or not self._layouts[tier]:
            self._lay(devices)
        self._out.send(
            b"V",
            wire.VALUES.pack(tier, self._layouts[tier], time.time_ns()) + struct.pack(f"<{len(values)}d", *values),
        )  # fmt: skip

    def _lay(self, devices: list[Device]) -> None:
        """Tell the layouts of both tiers."""
        for tier in (wire.FAST, wire.SLOW):
            self._layouts[tier] += 1
            rows = [row for device in devices for row in device.metrics(tier == wire.SLOW)]
            if tier == wire.FAST:
                rows.append(("misstep.gpu.sweep.duration", "", ""))
            self._out.send(b"L", tier + struct.pack("<I", self._layouts[tier]) + wire.lines(rows))
        for device in devices:
            device.changed = False

    def _processes(self, device: Device) -> None:
        found = device.processes() if device.state == "ok" else None
        if found is not None and self._told.get((device.index, "processes")) != found:
            self._told[device.index, "processes"] = found
            self._out.send(b"P", wire.lines([(device.index,), *found]))

    def _tell(self, gpu: int, kind: str, *said: object) -> None:
        """Tell what is not as it was when it was told last."""
        if self._told.get((gpu, kind)) != said:
            self._told[gpu, kind] = said
            self._out.send(b"E", wire.lines([(gpu, kind, *said)]))

    # -- events ----------------------------------------------------------------------------------------
    def _listen(self, library: Library, devices: list[Device]) -> None:
        """Register for events of all GPUs; where that is not possible, they are told by what is read."""
        held = Buffer(8)
        if self._enter(library, "nvmlEventSetCreate", held.address):
            return
        self._set = int(struct.unpack("<Q", held.view)[0])
        for device in devices:
            if device.state == "ok" and not library["nvmlDeviceGetSupportedEventTypes"](
                device.handle, held.address
            ):
                wanted = struct.unpack("<Q", held.view)[0] & codes.EVENTS
                library["nvmlDeviceRegisterEvents"](device.handle, wanted, self._set)

    def _wait(self, library: Library, devices: list[Device], until: float) -> bool:
        """Wait for events until the next tick; False when the agent wants us to go."""
        while True:
            try:
                if not os.read(0, 1):
                    return False
            except BlockingIOError:
                pass
            left = until - time.monotonic()
            if left <= 0:
                return True
            left = min(left, _SLICE)
            if not self._set:
                time.sleep(left)
                continue
            code = library["nvmlEventSetWait_v2"](self._set, self._event.address, round(left * 1000))
            if code == codes.OK:
                self._report(devices)
            elif code != codes.TIMEOUT:
                library["nvmlEventSetFree"](self._set)  # a GPU is lost, or the driver goes
                self._set = 0

    def _report(self, devices: list[Device]) -> None:
        handle, kind, data, instance, _ = nvml.EVENT.unpack(self._event.view)
        gpu = next((device.index for device in devices if device.handle == handle), -1)
        instance = 0 if instance == nvml.NO_INSTANCE else instance
        self._out.send(b"E", wire.lines([(gpu, "event", kind, data, instance)]))
        if kind == codes.EVENT_MIG and gpu >= 0:
            devices[gpu].complete = False

    def _enter(self, library: Library, name: str, *arguments: int) -> int:
        self._place.enter(-1, codes.NAMES.index(name))
        return int(library[name](*arguments))

    def _leave(self, code: int, why: str) -> None:
        self._out.send(b"X", wire.lines([(code, why)]))


def main(library: str, interval: str) -> None:
    """Run; ends when the agent closes stdin or is gone."""
    os.set_blocking(0, False)
    page = mmap.mmap(wire.PAGE, mmap.PAGESIZE)
    try:
        Child(library, float(interval), page, wire.Writer(1)).run()  # type: ignore[arg-type]  # a page is indexed like one
    except BrokenPipeError:
        pass  # the agent is gone
