"""For loops that a framework runs: PyTorch Lightning, the Trainer of Hugging Face's transformers, Ray Train.

Written against what their manuals say of the hooks and their order (Lightning 2.x, transformers 4 and 5, Ray 2.x). None of
them is imported before its function is called.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from misstep.workload.progress import CURRENT


def lightning_callback() -> Any:
    """For ``Trainer(callbacks=[workload.lightning_callback()])``; steps are counted as ``trainer.global_step`` does.

    Raises:
        ImportError: neither ``lightning`` nor ``pytorch_lightning`` is installed.
    """
    return type(
        "MisstepCallback", (_Lightning, _base("Callback", "lightning.pytorch", "pytorch_lightning")), {}
    )()


def trainer_callback() -> Any:
    """For ``transformers.Trainer(callbacks=[workload.trainer_callback()])``; steps are ``state.global_step``.

    Trainer says nothing between forward and backward: both are the phase ``forward_backward``.

    Raises:
        ImportError: ``transformers`` is not installed.
    """
    return type("MisstepCallback", (_Trainer, _base("TrainerCallback", "transformers")), {})()


def ray_report(metrics: dict[str, Any], **more: Any) -> Any:
    """``ray.train.report`` for a worker's loop, with the step told besides.

    Args:
        metrics: handed on; ``step``, ``loss`` and ``tokens`` (of this step) are told where they are plain numbers.
        more: handed on; with a checkpoint the report is the phase ``checkpoint``.

    Raises:
        ImportError: Ray Train is not installed.
    """
    from ray import train

    number, tokens = metrics.get("step"), metrics.get("tokens")
    CURRENT.add(tokens if type(tokens) is int else 0, metrics.get("loss"))
    CURRENT.end()
    CURRENT.begin(number if type(number) is int else None)
    before = CURRENT.enter("checkpoint") if more.get("checkpoint") is not None else None
    try:
        return train.report(metrics, **more)
    finally:
        if before is not None:
            CURRENT.enter(before)


def _base(name: str, *modules: str) -> Any:
    """A framework's own class, of the module that the script uses already where there are two."""
    for module in sorted(modules, key=lambda one: one not in sys.modules):
        try:
            return getattr(importlib.import_module(module), name)
        except ImportError:
            continue
    raise ImportError(f"{' and '.join(modules)} cannot be imported")


class _Lightning:
    """Hooks of ``lightning.pytorch.Callback``, in the order in which a batch calls them."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        CURRENT.begin(int(trainer.global_step))
        CURRENT.enter("forward")

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        CURRENT.enter("backward")

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        CURRENT.enter("")

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        CURRENT.enter("optimizer")

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        CURRENT.add(loss=outputs.get("loss") if isinstance(outputs, dict) else outputs)
        CURRENT.enter("")
        CURRENT.end()
        CURRENT.enter("data")

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
        CURRENT.enter("checkpoint")  # it is written after this, and nothing tells when that is done

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        CURRENT.enter("eval")

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        CURRENT.enter("data")

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        CURRENT.enter("")


class _Trainer:
    """Events of ``transformers.TrainerCallback``; what comes after a step is told by `control` before it begins."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        CURRENT.begin(int(state.global_step))
        CURRENT.enter("forward_backward")

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        CURRENT.enter("optimizer")

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        CURRENT.enter("")

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        seen = getattr(state, "num_input_tokens_seen", 0)
        CURRENT.add(tokens=max(0, seen - CURRENT.tokens) if type(seen) is int else 0)
        CURRENT.enter("")
        CURRENT.end()
        self._next(control, "should_evaluate", "should_save")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        CURRENT.add(loss=(logs or {}).get("loss"))

    def on_prediction_step(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if CURRENT.phase != "eval":
            CURRENT.enter("eval")

    def on_evaluate(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._next(control, "should_save")

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        CURRENT.enter("data")

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        CURRENT.enter("")

    @staticmethod
    def _next(control: Any, *wishes: str) -> None:
        wished = next((one for one in wishes if getattr(control, one, False)), "")
        CURRENT.enter({"should_evaluate": "eval", "should_save": "checkpoint", "": "data"}[wished])
