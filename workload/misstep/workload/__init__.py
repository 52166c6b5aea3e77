"""What a training script may say of itself: its step, phase, tokens and loss.

    from misstep import workload

    for batch in workload.data(loader):
        with workload.step(tokens=batch.numel()) as step:
            with workload.phase("forward"):
                loss = model(batch)
            with workload.phase("backward"):
                loss.backward()
            with workload.phase("optimizer"):
                optimizer.step()
            step.loss = float(loss)

Told in two places: to Misstep's hook, if this process runs under `misstep run`, and through `opentelemetry-api`, if that
is installed and the script has set up an SDK. Where there is neither, nothing happens. Never a thread, a connection, a
line of output or a wait for a GPU.
"""

from misstep.workload.callbacks import lightning_callback, ray_report, trainer_callback
from misstep.workload.loop import PHASES, advance, data, phase, step

__all__ = [
    "PHASES",
    "advance",
    "data",
    "lightning_callback",
    "phase",
    "ray_report",
    "step",
    "trainer_callback",
]
