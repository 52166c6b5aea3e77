"""What the frameworks' hooks tell, called in the order that their manuals document. `test_frameworks` runs two of them."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from misstep import workload
from misstep.workload.progress import Progress


def module(monkeypatch: pytest.MonkeyPatch, name: str, **held: Any) -> None:
    """A module of that name in the place of an installed one, its packages included."""
    for place in range(1, len(parts := name.split("."))):
        monkeypatch.setitem(sys.modules, ".".join(parts[:place]), ModuleType(".".join(parts[:place])))
    made = ModuleType(name)
    made.__dict__.update(held)
    monkeypatch.setitem(sys.modules, name, made)


class LightningBase:
    """`lightning.pytorch.Callback` has every hook; Trainer calls all of them on every callback."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("on_"):
            return lambda *_, **__: None
        raise AttributeError(name)


@pytest.mark.parametrize("name", ["lightning.pytorch", "pytorch_lightning"])
def test_lightning(current: Progress, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The order within a batch: docs of LightningModule, "Hooks", 2.x (automatic optimization)."""
    for other in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, other, None)
    module(monkeypatch, name, Callback=LightningBase)
    callback = workload.lightning_callback()
    assert isinstance(callback, LightningBase)
    trainer, model = SimpleNamespace(global_step=0), object()
    seen = []

    def fire(hook: str, *arguments: Any) -> None:
        getattr(callback, hook)(trainer, model, *arguments)
        seen.append((hook, current.step, current.phase))

    fire("on_sanity_check_start")
    fire("on_train_start")
    fire("on_train_epoch_start")
    for batch in range(2):
        fire("on_train_batch_start", object(), batch)
        fire("on_before_zero_grad", object())
        fire("on_before_backward", object())
        fire("on_after_backward")
        fire("on_before_optimizer_step", object())
        trainer.global_step += 1
        fire("on_train_batch_end", {"loss": 0.5 - batch / 4}, object(), batch)
    fire("on_validation_start")
    fire("on_validation_batch_start", object(), 0)
    fire("on_validation_end")
    fire("on_save_checkpoint", {})
    fire("on_train_end")
    first = [one for one in seen if one[1] == 0]
    assert [phase for _, _, phase in first] == ["forward", "forward", "backward", "", "optimizer", "data"]
    assert seen[0][1:] == (-1, "")
    assert [phase for _, _, phase in seen[-5:]] == ["eval", "eval", "data", "checkpoint", ""]
    assert (current.step, current.loss) == (1, 0.25)


class TrainerBase:
    """`transformers.TrainerCallback`: the same, each event with args, state, control and keywords."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None: ...
    def on_epoch_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None: ...
    def on_substep_end(self, args: Any, state: Any, control: Any, **more: Any) -> None: ...
    def on_epoch_end(self, args: Any, state: Any, control: Any, **more: Any) -> None: ...


def test_transformers(current: Progress, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of events: docs of transformers 5, "Callbacks"."""
    module(monkeypatch, "transformers", TrainerCallback=TrainerBase)
    callback = workload.trainer_callback()
    assert isinstance(callback, TrainerBase)
    state = SimpleNamespace(global_step=0, num_input_tokens_seen=0)
    control = SimpleNamespace(should_evaluate=False, should_save=False)
    seen = []

    def fire(event: str, **more: Any) -> None:
        getattr(callback, event)(object(), state, control, model=object(), **more)
        seen.append((current.step, current.phase))

    fire("on_train_begin")
    fire("on_epoch_begin")
    for last in (False, True):
        fire("on_step_begin")
        fire("on_substep_end")
        fire("on_pre_optimizer_step")
        fire("on_optimizer_step")
        state.global_step += 1
        state.num_input_tokens_seen += 2048
        control.should_evaluate = control.should_save = last
        fire("on_step_end")
    fire("on_log", logs={"loss": 1.25, "learning_rate": 1e-4})
    fire("on_prediction_step")
    fire("on_log", logs={"eval_loss": 9.0})
    fire("on_evaluate")
    fire("on_save")
    fire("on_epoch_end")
    fire("on_train_end")
    phases = [phase for _, phase in seen]
    assert phases[2:7] == ["forward_backward", "forward_backward", "optimizer", "", "data"]
    assert phases[11:] == ["eval", "eval", "eval", "eval", "checkpoint", "data", "data", ""]
    assert (current.step, current.tokens, current.loss) == (1, 4096, 1.25)


def test_without_the_framework_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pytorch_lightning"):
        workload.lightning_callback()
    with pytest.raises(ImportError, match="transformers"):
        workload.trainer_callback()


def test_ray_train(current: Progress, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    def report(metrics: dict[str, Any], *, checkpoint: Any = None) -> None:
        told.append((metrics, checkpoint, current.phase))
        if checkpoint == "broken":
            raise OSError("disk full")

    module(monkeypatch, "ray.train", report=report)
    sys.modules["ray"].train = sys.modules["ray.train"]  # type: ignore[attr-defined]
    workload.ray_report({"loss": 0.5, "tokens": 10})
    workload.ray_report({"loss": "nan?", "step": 7, "tokens": 10}, checkpoint="folder")
    with pytest.raises(OSError, match="disk full"):
        workload.ray_report({}, checkpoint="broken")
    assert [(checkpoint, phase) for _, checkpoint, phase in told] == [(None, ""), ("folder", "checkpoint"), ("broken", "checkpoint")]  # fmt: skip
    assert (current.step, current.phase, current.tokens, current.loss) == (8, "", 20, 0.5)
