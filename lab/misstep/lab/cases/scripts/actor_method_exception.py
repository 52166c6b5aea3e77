"""A trainer whose fourth batch has another width."""

import ray


@ray.remote
class Trainer:
    def __init__(self, width):
        self.weights = [0.0] * width

    def fit(self, batch):
        if len(batch) != len(self.weights):
            raise RuntimeError(f"batch of width {len(batch)}, expected {len(self.weights)}")
        self.weights = [w + x for w, x in zip(self.weights, batch, strict=True)]


ray.init()
trainer = Trainer.remote(8)
for width in (8, 8, 8, 5):
    ray.get(trainer.fit.remote([1.0] * width))
