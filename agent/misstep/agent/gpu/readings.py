"""What is read of a GPU: each reading is calls of NVML whose buffers are made once, and the metrics that they give.

A metric is written ``name`` or ``name|label value…``, the values in the order of its declared attributes behind
those of the GPU.
"""

from __future__ import annotations

import struct
from ctypes import addressof, c_char
from operator import mul

from misstep.agent.gpu import codes, nvml
from misstep.agent.gpu.nvml import Library

MIB = 1 << 20


class Place:
    """Two bytes that the agent can see: which GPU is asked, and by which call. They stay when a call does not return."""

    def __init__(self, page: bytearray) -> None:
        self.page = page

    def enter(self, gpu: int, call: int) -> None:
        """A call begins."""
        self.page[0], self.page[1] = gpu + 1, call + 1


class Buffer:
    """Memory that C writes into."""

    def __init__(self, size: int) -> None:
        self._held = (c_char * size)()
        self.address = addressof(self._held)
        self.view = memoryview(self._held).cast("B")


class Getter:
    """One call with a fixed answer.

    Args:
        arguments: between the handle and the answer.
        form: `struct` form of the answer, ``x`` for what is not wanted.
        scales: by which the numbers are multiplied.
    """

    def __init__(
        self, library: Library, name: str, handle: int, arguments: tuple[int, ...], form: str,
        scales: tuple[float, ...], metrics: tuple[str, ...],
    ) -> None:  # fmt: skip
        form = "<" + form
        self.number = codes.NAMES.index(name)
        self.metrics = metrics
        self._call, self._scales = library[name], scales
        self._buffer = Buffer(struct.calcsize(form))
        self._unpack = struct.Struct(form).unpack
        self._arguments = (handle, *arguments, self._buffer.address)

    def read(self, values: list[float]) -> int:
        """Append the numbers; the return code, and nothing is appended when it is not OK."""
        code: int = self._call(*self._arguments)
        if code == codes.OK:
            values.extend(map(mul, self._unpack(self._buffer.view), self._scales))
        return code


class Fields:
    """Many fields by one call; those that a GPU does not have are left out once and for all.

    Args:
        wanted: (field, scope, scale, metric).
    """

    number = codes.NAMES.index("nvmlDeviceGetFieldValues")

    def __init__(
        self, library: Library, handle: int, wanted: tuple[tuple[int, int, float, str], ...]
    ) -> None:
        self._call, self._handle = library["nvmlDeviceGetFieldValues"], handle
        self._kept: list[tuple[int, int, float, str]] = []
        self._lay(list(wanted))
        if self._call(self._handle, len(self._kept), self._buffer.address) == codes.OK:
            heads = self._heads()
            self._lay([one for one, head in zip(wanted, heads, strict=True) if head[1] == codes.OK])
            kinds = [kind for kind, code in heads if code == codes.OK]
            forms = "".join("32x" + nvml.FIELD_FORMS.get(kind, "Q") for kind in kinds)
            self._expected = tuple(one for kind in kinds for one in (kind, codes.OK))
            self._unpack = struct.Struct("<" + forms).unpack_from
        else:
            self._lay([])
            self._expected, self._unpack = (), struct.Struct("").unpack_from
        self.metrics = tuple(metric for _, _, _, metric in self._kept)
        self._scales = tuple(scale for _, _, scale, _ in self._kept)

    def read(self, values: list[float]) -> int:
        """Append the numbers; `NOT_SUPPORTED` when a field is gone that was there."""
        code: int = self._call(self._handle, len(self._kept), self._buffer.address)
        if code != codes.OK:
            return code
        if self._head(self._buffer.view) != self._expected:
            return next((code for _, code in self._heads() if code), codes.NOT_SUPPORTED)
        values.extend(map(mul, self._unpack(self._buffer.view), self._scales))
        return codes.OK

    def _lay(self, kept: list[tuple[int, int, float, str]]) -> None:
        self._kept = kept
        self._buffer = Buffer((len(kept) + 1) * nvml.FIELD.size)
        for place, (field, scope, _, _) in enumerate(kept):
            struct.pack_into("<II", self._buffer.view, place * nvml.FIELD.size, field, scope)
        self._head = struct.Struct("<" + "24xII8x" * len(kept)).unpack_from

    def _heads(self) -> list[tuple[int, int]]:
        """Type and return code of each field."""
        flat = self._head(self._buffer.view)
        return list(zip(flat[::2], flat[1::2], strict=True))


class Gpm:
    """Counters of Hopper and later, as rates since the last reading; they disturb no profiler.

    Args:
        instance: GPU instance of MIG, 0 for a whole GPU.
        wanted: (metric of GPM, scale, metric).
    """

    number = codes.NAMES.index("nvmlGpmMetricsGet")

    def __init__(
        self, library: Library, handle: int, instance: int, wanted: tuple[tuple[int, float, str], ...]
    ) -> None:
        self._library, self._handle, self._instance = library, handle, instance
        support = Buffer(8)
        struct.pack_into("<II", support.view, 0, nvml.GPM_VERSION, 0)
        self._samples: list[int] = []
        self._kept: list[tuple[int, float, str]] = []
        self.metrics: tuple[str, ...] = ()
        code = library["nvmlGpmQueryDeviceSupport"](handle, support.address)
        if code or not struct.unpack_from("<I", support.view, 4)[0]:
            return
        for _ in range(2):
            made = Buffer(8)
            if library["nvmlGpmSampleAlloc"](made.address):
                return
            self._samples.append(struct.unpack("<Q", made.view)[0])
        self._lay(list(wanted))
        if self._sample(self._samples[0]) or self._sample(self._samples[1]) or self._get():
            self._lay([])
            return
        heads = [one[1] for one in nvml.GPM_METRIC.iter_unpack(self._buffer.view[nvml.GPM_HEAD.size :])]
        self._lay([one for one, code in zip(wanted, heads, strict=True) if code == codes.OK])
        self.metrics = tuple(metric for _, _, metric in self._kept)

    def read(self, values: list[float]) -> int:
        """Append the numbers."""
        if not self._kept:
            return codes.NOT_SUPPORTED
        self._samples.reverse()
        code = self._sample(self._samples[1]) or self._get()
        if code == codes.OK:
            values.extend(map(mul, self._unpack(self._buffer.view), self._scales))
        return code

    def close(self) -> None:
        """Give the samples back."""
        for sample in self._samples:
            self._library["nvmlGpmSampleFree"](sample)
        self._samples = []

    def _sample(self, sample: int) -> int:
        if self._instance:
            return int(self._library["nvmlGpmMigSampleGet"](self._handle, self._instance, sample))
        return int(self._library["nvmlGpmSampleGet"](self._handle, sample))

    def _get(self) -> int:
        nvml.GPM_HEAD.pack_into(
            self._buffer.view, 0, nvml.GPM_VERSION, len(self._kept), self._samples[0], self._samples[1]
        )
        return int(self._library["nvmlGpmMetricsGet"](self._buffer.address))

    def _lay(self, kept: list[tuple[int, float, str]]) -> None:
        self._kept = kept
        self._buffer = Buffer(nvml.GPM_HEAD.size + len(kept) * nvml.GPM_METRIC.size)
        for place, (metric, _, _) in enumerate(kept):
            struct.pack_into(
                "<I", self._buffer.view, nvml.GPM_HEAD.size + place * nvml.GPM_METRIC.size, metric
            )
        self._scales = tuple(scale for _, scale, _ in kept)
        self._unpack = struct.Struct("<24x" + "8xd24x" * len(kept)).unpack


class Links:
    """NVLink of one GPU: links that are up and errors of all of them; and which link moved since the last reading."""

    number = codes.NAMES.index("nvmlDeviceGetFieldValues")
    metrics = (
        "hw.gpu.nvlink.active",
        "hw.gpu.nvlink.errors|replay",
        "hw.gpu.nvlink.errors|recovery",
        "hw.gpu.nvlink.errors|crc",
    )
    _STATE, _ERRORS = 165, (161, 162, 163)

    def __init__(self, library: Library, handle: int, count: int) -> None:
        self._states = Fields(library, handle, tuple((self._STATE, n, 1, str(n)) for n in range(count)))
        self._errors = Fields(
            library, handle, tuple((field, n, 1, f"{field}/{n}") for field in self._ERRORS for n in range(count))
        )  # fmt: skip
        self.present = bool(self._states.metrics)
        self._now: list[float] = []
        self._sums: list[float] = []
        self.moved: list[tuple[int, str, float]] = []
        """Link, ``down``, ``up`` or kind of error, and by how many it rose; made anew at each reading."""

    def read(self, values: list[float]) -> int:
        """Append active links, then replay, recovery and CRC errors."""
        now: list[float] = []
        code = self._states.read(now) or self._errors.read(now)
        if code:
            return code
        if now != self._now:
            self._take(now)
        else:
            self.moved = []
        values.extend(self._sums)
        return codes.OK

    def _take(self, now: list[float]) -> None:
        """Find what changed."""
        keys = (*self._states.metrics, *self._errors.metrics)
        links = len(self._states.metrics)
        before, self._now = self._now, now
        self.moved = (
            [
                self._move(key, value - old)
                for key, value, old in zip(keys, now, before, strict=True)
                if value != old
            ]
            if before
            else []
        )
        self._sums = [float(sum(state == 1 for state in now[:links]))]
        for field in self._ERRORS:
            self._sums.append(
                sum(value for key, value in zip(keys, now, strict=True) if key.startswith(f"{field}/"))
            )

    def _move(self, key: str, by: float) -> tuple[int, str, float]:
        field, _, link = key.partition("/")
        if not link:
            return int(field), "up" if by > 0 else "down", 1
        return int(link), ("replay", "recovery", "crc")[self._ERRORS.index(int(field))], by


FAST = (
    ("nvmlDeviceGetUtilizationRates", (), "II", (0.01, 0.01), ("hw.gpu.utilization|general", "hw.gpu.memory.busy")),
    ("nvmlDeviceGetMemoryInfo", (), "16xQ", (1,), ("hw.gpu.memory.usage",)),
    ("nvmlDeviceGetPowerUsage", (), "I", (0.001,), ("hw.power",)),
    ("nvmlDeviceGetTemperature", (0,), "I", (1,), ("hw.temperature|gpu",)),
    ("nvmlDeviceGetClockInfo", (1,), "I", (1e6,), ("hw.gpu.clock.frequency|sm",)),
    ("nvmlDeviceGetClockInfo", (2,), "I", (1e6,), ("hw.gpu.clock.frequency|memory",)),
)  # fmt: skip
"""Each second: call, arguments, form, scales, metrics."""

FAST_FIELDS = (
    (82, 0, 1, "hw.temperature|memory"),
    (83, 0, 0.001, "hw.energy"),
    (74, 0, 1e-9, "hw.gpu.throttle.time|power_cap"),
    (269, 0, 1e-9, "hw.gpu.throttle.time|software_thermal"),
    (270, 0, 1e-9, "hw.gpu.throttle.time|hardware_thermal"),
    (271, 0, 1e-9, "hw.gpu.throttle.time|power_brake"),
)
"""Each second: field, scope, scale, metric."""

GPM = (
    (2, 0.01, "hw.gpu.sm.active"),
    (3, 0.01, "hw.gpu.sm.occupancy"),
    (5, 0.01, "hw.gpu.tensor.active"),
    (10, 0.01, "hw.gpu.memory.bandwidth.utilization"),
    (20, MIB, "hw.gpu.pcie.throughput|transmit"),
    (21, MIB, "hw.gpu.pcie.throughput|receive"),
    (61, MIB, "hw.gpu.nvlink.throughput|transmit"),
    (60, MIB, "hw.gpu.nvlink.throughput|receive"),
)
"""Each second, Hopper and later: metric of GPM, scale, metric."""

SLOW = (
    ("nvmlDeviceGetMemoryInfo", (), "Q16x", (1,), ("hw.gpu.memory.limit",)),
    ("nvmlDeviceGetEnforcedPowerLimit", (), "I", (0.001,), ("hw.gpu.power.limit",)),
    ("nvmlDeviceGetCurrPcieLinkGeneration", (), "I", (1,), ("hw.gpu.pcie.generation",)),
    ("nvmlDeviceGetCurrPcieLinkWidth", (), "I", (1,), ("hw.gpu.pcie.width",)),
)
"""Every 10 s."""

SLOW_FIELDS = (
    (3, 0, 1, "hw.errors|corrected"),
    (4, 0, 1, "hw.errors|uncorrected"),
    (142, 0, 1, "hw.gpu.rows.remapped|corrected"),
    (143, 0, 1, "hw.gpu.rows.remapped|uncorrected"),
    (144, 0, 1, "hw.gpu.rows.pending"),
    (145, 0, 1, "hw.gpu.rows.failed"),
    (94, 0, 1, "hw.gpu.pcie.replays"),
    (230, 0, 1, "hw.gpu.recovery_action"),
)
"""Every 10 s."""
