"""The probe of GPUs: starts the child that reads them, watches it, and lets it go."""

from __future__ import annotations

import os

from misstep.agent.context import Context
from misstep.agent.gpu import wire
from misstep.agent.gpu.account import Account
from misstep.agent.gpu.process import Child, installed, own_namespace
from misstep.agent.gpu.release import Release
from misstep.agent.kubelet.allocations import Allocations
from misstep.agent.probe import OK, SourceState, failing, off, unsupported
from misstep.agent.records import ERROR, Records
from misstep.core.clock import SECOND

SILENCE = 5.0
"""Seconds without a word from the child after which the driver hangs."""
_RETRY, _RETRY_MOST = 30 * SECOND, 600 * SECOND
_REFRESH = 2 * SECOND
_LACKS = 12
_FOREIGN = OK._replace(
    reason="NVML tells pids of another namespace, so no process or rank of a GPU is found",
    remedy="docker run --pid=host …, in Kubernetes hostPID: true",
)


class GpuProbe:
    """Follows the child; starts it again after a driver went, and holds it back while GPUs are released."""

    source = "gpu"
    follows_events = False

    def __init__(self, context: Context, allocations: Allocations | None = None) -> None:
        self.interval = context.settings.agent.interval
        self._context = context
        self._library = context.settings.agent.nvml_library
        self._release = Release(os.path.join(str(context.settings.data), "agent"))
        self._account = Account(context, allocations or Allocations())
        self._child: Child | None = None
        self._retry, self._again = _RETRY, 0
        self._refresh_due = 0
        self._why: SourceState = OK
        self._hangs = 0
        self._hung = -1
        self._fine = _FOREIGN if own_namespace() else OK
        context.workload.release_gpus = self.release

    def supported(self) -> SourceState:
        """Whether there is a GPU, or a library, at all; nothing is started to find out."""
        why = installed(self._library)
        if not why:
            return OK
        return off(why) if why.startswith("no ") else unsupported(why, "nvidia-smi   # in a container: docker run --gpus all …")  # fmt: skip

    def release(self, seconds: float | None) -> tuple[str, int]:
        """As `Workload.release_gpus` has it.

        Returns:
            ``absent`` where no GPU can be read, ``held``, ``waiting`` for the driver or the next look, ``releasing`` or
            ``released``; and until when.

        Raises:
            OSError: the agent's folder cannot be written.
        """
        if installed(self._library):
            return "absent", 0
        now = self._context.clock.now()
        if seconds:
            self._release.begin(now + round(seconds * SECOND))
        elif seconds is not None:
            self._release.end()
        until, held = self._release.until(now), self._child is not None
        return ("releasing" if held else "released") if until else ("held" if held else "waiting"), until

    def check(self, now: int, out: Records) -> SourceState | None:
        """Take what the child wrote."""
        if self._release.until(now):
            return self._let_go(out)
        monotonic = self._context.clock.monotonic()
        if self._child is None:
            if monotonic < self._again:
                return self._why
            self._child = Child(self._library, self.interval)
            self._why = self._fine
        frames = self._child.read()
        if frames is None:
            return self._ended(monotonic, out)
        for kind, body in frames:
            if kind == b"X":
                self._leaves(body)
            else:
                self._account.take(kind, body, out)
        if self._account.gpus:
            self._retry = _RETRY
        if monotonic >= self._refresh_due:
            self._refresh_due = monotonic + _REFRESH
            self._account.refresh(out)
        return self._watch(bool(frames), now, out)

    def close(self) -> None:
        """Ask the child to go; one that hangs in the driver goes when its call returns."""
        if self._child is not None:
            self._child.close()
            self._child = None

    # -- the child's life ------------------------------------------------------------------------------
    def _let_go(self, out: Records) -> SourceState:
        if self._child is not None:
            self._child.dismiss()
            if not self._child.gone():
                return failing("GPUs are being released")
            self._child.close()
            self._child, self._again = None, 0
            out.event(
                "hw.gpu.driver", entity=self._context.host.entity, state="released", body="released on demand"
            )
        return failing("GPUs are released for a reset", "misstep gpu resume")

    def _leaves(self, body: bytes) -> None:
        """The child says why it goes."""
        code, why = wire.rows(body)[0]
        missing = int(code) == _LACKS
        self._why = unsupported(why, "docker run --gpus all …") if missing else failing(why, "nvidia-smi")

    def _ended(self, monotonic: int, out: Records) -> SourceState:
        assert self._child is not None
        if not self._child.gone():
            return self._why
        self._child.close()
        self._child = None
        if self._why.name == "ok":
            self._why = failing("the reader of the GPUs ended")
        self._again = monotonic + self._retry
        self._retry = min(2 * self._retry, _RETRY_MOST)
        if self._account.gpus:
            self._account.forget()
            out.event(
                "hw.gpu.driver", entity=self._context.host.entity, state="gone", body=self._why.reason, severity=ERROR
            )  # fmt: skip
        return self._why

    def _watch(self, heard: bool, now: int, out: Records) -> SourceState:
        """Say when the driver hangs, and when it goes on."""
        assert self._child is not None
        silent = self._child.silent()
        if heard and self._hangs:
            self._account.stand(
                self._hung, "ok", f"the driver answers again after {(now - self._hangs) / SECOND:.0f} s", out
            )
            self._hangs = 0
        elif not self._hangs and silent > SILENCE + self.interval:
            self._hung, call = self._child.where()
            self._hangs = now - round(silent * SECOND)
            self._account.stand(
                self._hung, "unresponsive", f"{call} has not returned for {silent:.0f} s", out
            )
        if not self._hangs:
            return self._why
        gpu, call = self._child.where()
        of = f" of GPU {gpu}" if gpu >= 0 else ""
        return failing(
            f"the NVIDIA driver hangs: {call}{of} has not returned (pid {self._child.pid} waits for it)"
        )
