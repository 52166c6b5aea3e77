"""The callbacks under the frameworks themselves, where those are installed: a real loop with evaluation and a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from misstep import workload
from misstep.workload import progress

pytestmark = pytest.mark.filterwarnings("ignore")  # the frameworks' own
STEPS = range(6)


def place() -> tuple[int, str]:
    return progress.CURRENT.step, progress.CURRENT.phase


def test_lightning_tells_step_and_phase(current: Any, tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning", reason="pip install lightning")
    torch = pytest.importorskip("torch")
    seen: dict[str, list[tuple[int, str]]] = {"training": [], "validation": []}

    class Model(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(8, 1)

        def training_step(self, batch: Any, _: int) -> Any:
            seen["training"].append(place())
            return self.layer(batch).square().mean()

        def validation_step(self, batch: Any, _: int) -> None:
            seen["validation"].append(place())

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.01)

    batches = torch.utils.data.DataLoader(torch.randn(12, 8), batch_size=4)
    lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, callbacks=[workload.lightning_callback()],
    ).fit(Model(), batches, batches)  # fmt: skip
    assert seen["training"] == [(step, "forward") for step in STEPS]
    assert {phase for _, phase in seen["validation"]} == {"eval"}
    assert {"forward", "backward", "optimizer", "data", "eval"} <= set(progress.CURRENT.spent)
    assert progress.CURRENT.loss is not None


def test_transformers_tells_step_and_phase(current: Any, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="pip install transformers accelerate")
    torch = pytest.importorskip("torch")
    seen: list[tuple[int, str]] = []

    class Model(torch.nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(8, 1)

        def forward(self, x: Any, labels: Any) -> dict[str, Any]:
            if self.training:
                seen.append(place())
            out = self.layer(x)
            return {"loss": (out - labels).square().mean(), "logits": out}

    rows = [{"x": torch.randn(8), "labels": torch.zeros(1)} for _ in range(12)]
    transformers.Trainer(
        model=Model(), train_dataset=rows, eval_dataset=rows, callbacks=[workload.trainer_callback()],
        args=transformers.TrainingArguments(
            output_dir=str(tmp_path), per_device_train_batch_size=4, num_train_epochs=2, report_to=[], use_cpu=True,
            eval_strategy="epoch", save_strategy="epoch", logging_steps=1, disable_tqdm=True,
        ),
    ).train()  # fmt: skip
    assert seen == [(step, "forward_backward") for step in STEPS]
    assert {"forward_backward", "optimizer", "data", "eval", "checkpoint"} <= set(progress.CURRENT.spent)
    assert progress.CURRENT.loss is not None
