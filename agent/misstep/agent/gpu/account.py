"""What the child tells, as points and events."""

from __future__ import annotations

import struct

from misstep.agent.context import Context
from misstep.agent.gpu import codes, throttle, wire
from misstep.agent.gpu.holders import Gpu, Holders
from misstep.agent.kubelet.allocations import Allocations, Place
from misstep.agent.records import ERROR, INFO, WARNING, Records
from misstep.agent.series import Series, Sheet, declared
from misstep.core import names

_EVENTS = {
    codes.EVENT_DOUBLE_BIT: ("ecc_uncorrected", ERROR),
    codes.EVENT_XID: ("xid", ERROR),
    codes.EVENT_MIG: ("mig", INFO),
    codes.EVENT_STORM: ("ecc_storm", WARNING),
    codes.EVENT_RETIREMENT: ("retirement", WARNING),
    codes.EVENT_RETIREMENT_FAILED: ("remap_failed", ERROR),
    codes.EVENT_POISON: ("poison", ERROR),
    codes.EVENT_FATAL_POISON: ("poison", ERROR),
    codes.EVENT_UNAVAILABLE: ("unavailable", ERROR),
    codes.EVENT_RECOVERY: ("recovery_action", WARNING),
}
_WATCHED = {
    "hw.errors|uncorrected": ("ecc_uncorrected", ERROR, False),
    "hw.gpu.rows.failed": ("remap_failed", ERROR, True),
    "hw.gpu.rows.pending": ("remap_pending", WARNING, False),
    "hw.gpu.recovery_action": ("recovery_action", WARNING, True),
}
"""Counters whose rise is an event: its state, severity, and whether the first reading counts too."""


class _Layout:
    """What the values of a tier are."""

    def __init__(
        self, number: int, series: list[Series], watched: list[tuple[int, int, str]],
        throttles: list[tuple[int, int, str]],
    ) -> None:  # fmt: skip
        self.number, self.series, self.watched, self.throttles = number, series, watched, throttles
        self.form = struct.Struct(f"<{len(series)}d")


class Account:
    """The GPUs as one life of the child told of them, and how they stand over all its lives.

    Attributes:
        gpus: by index; empty until the child has found them.
    """

    def __init__(self, context: Context, allocations: Allocations) -> None:
        self._host = context.host
        self._holders = Holders(context, allocations)
        self._allocations = allocations
        self.gpus: dict[int, Gpu] = {}
        self._layouts: dict[bytes, _Layout] = {}
        self._sheets = {wire.FAST: Sheet(), wire.SLOW: Sheet()}
        self._last: dict[tuple[int, str], float] = {}
        self._states: dict[int, str] = {}
        self._throttle = throttle.Throttle()

    def take(self, kind: bytes, body: bytes, out: Records) -> None:
        """Take a frame (`wire`)."""
        if kind == b"V":
            self._values(body, out)
        elif kind == b"L":
            self._lay(body)
        elif kind == b"G":
            self._found(wire.rows(body), out)
        elif kind == b"P":
            head, *rows = wire.rows(body)
            gpu = self.gpus.get(int(head[0]))
            if gpu is not None:
                self._holders.update(gpu, rows, out)
        elif kind == b"M":
            for gpu_index, number, uuid in wire.rows(body):
                self._instance(self.gpus[int(gpu_index)], number, uuid, out)
        elif kind == b"E":
            for gpu_index, what, *rest in wire.rows(body):
                self._happened(int(gpu_index), what, rest, out)

    def _found(self, rows: list[list[str]], out: Records) -> None:
        self.gpus = {gpu.index: gpu for gpu in (Gpu(self._host.id, row) for row in rows)}
        for gpu in self.gpus.values():
            if not gpu.entity:
                continue  # lost since before we came: it does not even tell its address
            for key in (gpu.uuid, gpu.minor):
                self._allocations.know(key, Place(gpu.entity, gpu.pci, 0))
            out.event(
                "hw.gpu.found",
                entity=gpu.entity,
                body=gpu.model,
                attributes={
                    **gpu.identity(), names.HW_MODEL: gpu.model, names.DRIVER_VERSION: gpu.driver,
                    "hw.gpu.memory.limit": gpu.memory, "hw.gpu.power.limit": gpu.power, "hw.gpu.nvlink.count": gpu.links,
                },
            )  # fmt: skip

    def _instance(self, gpu: Gpu, number: str, uuid: str, out: Records) -> None:
        entity = gpu.instance(number)
        self._allocations.know(uuid, Place(entity, gpu.pci, int(number)))
        out.event(
            "hw.gpu.instance",
            entity=entity,
            attributes={
                names.HW_ID: gpu.pci, names.GPU_INDEX: gpu.index, names.MIG_INSTANCE: number,
                names.GPU_UUID: uuid, names.GPU_ENTITY: gpu.entity,
            },
        )  # fmt: skip

    def _lay(self, body: bytes) -> None:
        tier, number = body[:1], struct.unpack_from("<I", body, 1)[0]
        series: list[Series] = []
        watched: list[tuple[int, int, str]] = []
        throttles: list[tuple[int, int, str]] = []
        for place, (metric, index, instance) in enumerate(wire.rows(body[5:])):
            name, _, label = metric.partition("|")
            held = {} if not index else self._labels(name, self.gpus[int(index)], label)
            if instance:
                held[names.MIG_INSTANCE] = instance
            series.append(declared(name, held))
            if metric in _WATCHED:
                watched.append((place, int(index), metric))
            if name == "hw.gpu.throttle.time" and label in throttle.REASONS:
                throttles.append((place, int(index), label))
        self._layouts[tier] = _Layout(number, series, watched, throttles)

    @staticmethod
    def _labels(name: str, gpu: Gpu, label: str) -> dict[str, str | int | float | bool]:
        fixed: dict[str, str | int | float | bool] = {
            names.HW_ID: gpu.pci, names.GPU_INDEX: gpu.index, names.HW_TYPE: "gpu",
        }  # fmt: skip
        return {key: fixed.get(key, label) for key in names.metric(name).attributes}

    def _values(self, body: bytes, out: Records) -> None:
        tier, number, time = wire.VALUES.unpack_from(body)
        layout = self._layouts.get(tier)
        if layout is None or layout.number != number:
            return
        values = layout.form.unpack_from(body, wire.VALUES.size)
        out.sheet(self._sheets[tier], layout.series, values, time)
        for place, gpu, metric in layout.watched:
            self._compare(gpu, metric, values[place], out)
        changes = self._throttle.see(
            time, ((gpu, reason, values[at]) for at, gpu, reason in layout.throttles)
        )
        for gpu, reason, slowed, share in changes:
            self._event(
                gpu, "throttled" if slowed else "throttle_end", f"{reason}: clocks were lowered for {share:.0%} of the last 10 s",
                WARNING if slowed else INFO, {names.GPU_REASON: reason}, out,
            )  # fmt: skip

    def _compare(self, gpu: int, metric: str, value: float, out: Records) -> None:
        state, severity, first = _WATCHED[metric]
        before = self._last.get((gpu, metric), 0.0 if first else value)
        self._last[gpu, metric] = value
        if value > before:
            self._event(gpu, state, f"{metric} rose from {before:.0f} to {value:.0f}", severity, {names.GPU_VALUE: int(value)}, out)  # fmt: skip

    # -- events ----------------------------------------------------------------------------------------
    def _happened(self, gpu: int, what: str, rest: list[str], out: Records) -> None:
        if what == "state":
            state, call = rest
            if state != self._states.get(gpu, "ok"):
                self.stand(gpu, state, f"says {call}" if call else "it answers again", out)
            self._states[gpu] = state
        elif what == "event":
            kind, data, instance = map(int, rest)
            state, severity = _EVENTS.get(kind, ("other", WARNING))
            held: dict[str, str | int | float | bool] = (
                {names.XID: data} if state == "xid" else {names.GPU_VALUE: data}
            )
            if instance:
                held[names.MIG_INSTANCE] = str(instance)
            self._event(gpu, state, f"Xid {data}" if state == "xid" else "", severity, held, out)
        elif what == "link":
            link, kind_, by = rest
            down = kind_ in ("down", "up")
            self._event(
                gpu, f"nvlink_{kind_}" if down else "nvlink_errors", f"link {link}: {kind_}" + ("" if down else f" +{by}"),
                INFO if kind_ in ("up", "crc") else WARNING, {names.GPU_LINK: int(link), names.GPU_VALUE: int(by)}, out,
            )  # fmt: skip
        elif what == "fabric" and not _is_well(*map(int, rest)):
            self._event(gpu, "fabric", f"state {rest[0]}, health {int(rest[1]):#x}", WARNING, {}, out)

    def _event(
        self, gpu: int, state: str, body: str, severity: int,
        held: dict[str, str | int | float | bool], out: Records,
    ) -> None:  # fmt: skip
        one = self.gpus.get(gpu)
        out.event(
            "hw.gpu.event",
            entity=one.entity if one is not None else self._host.entity,
            session=self._holders.session(one) if one is not None else "",
            state=state,
            body=body,
            severity=severity,
            attributes={**(one.identity() if one is not None else {}), **held},
        )

    def stand(self, gpu: int, state: str, body: str, out: Records) -> None:
        """Say how a GPU stands; the driver as a whole where no GPU is meant."""
        one = self.gpus.get(gpu)
        event = "hw.gpu.state" if one is not None else "hw.gpu.driver"
        out.event(
            event,
            entity=one.entity if one is not None else self._host.entity,
            session=self._holders.session(one) if one is not None else "",
            state=state,
            body=body,
            severity=INFO if state == "ok" else ERROR,
            attributes=one.identity() if one is not None else {},
        )

    def refresh(self, out: Records) -> None:
        """Tell of those holders of whom more is known than was told."""
        self._holders.refresh({gpu.pci: gpu for gpu in self.gpus.values()}, out)

    def forget(self) -> None:
        """The child is gone, and the next one finds its GPUs anew."""
        self.gpus, self._layouts = {}, {}


def _is_well(state: int, health: int, summary: int) -> bool:
    """Whether a fabric is complete and healthy, or is not there; a summary of 2 is unhealthy, 3 limited."""
    return state in (0, codes.FABRIC_COMPLETED) and summary not in (2, 3)
