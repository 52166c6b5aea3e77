"""A small data-loading and training pipeline on Ray: shards are read, tokenized and fed to a trainer.

    python pipeline.py --recipe recipe.json

The recipe says how much of everything there is; see `DEFAULTS`.
"""

import argparse
import ctypes
import json
import math
import os
import random
import time
from pathlib import Path

import ray

DEFAULTS = {
    "shards": 16,
    "lines": 400,
    "pause": 0.25,  # seconds that reading a shard takes
    "tokenize_pause": 0.0,  # seconds that tokenizing takes beyond its work
    "table_bytes": 20_000_000,  # size of the n-gram table of a shard
    "table_shard": -1,  # a shard whose table is larger
    "table_shard_bytes": 0,
    "lookup": "python",  # or "native": the table is read through its address…
    "native_after": 11,  # …from this step on, when it is warm
    "license_steps": 0,  # the kernel library is licensed for so many steps; 0 is unlimited
    "rate": 0.1,  # learning rate
    "evaluate_every": 4,
    "finetune_on": "",  # custom resource on which a last round runs
    "progress": "",  # file to which each stage is noted
}


class Recipe(dict):
    """The settings of a run."""

    def note(self, stage, number):
        """Append a stage, with time and pid, to the progress file."""
        if self["progress"]:
            entry = {"time": time.time_ns(), "pid": os.getpid(), "stage": stage, "number": number}
            with open(self["progress"], "a") as file:
                file.write(json.dumps(entry) + "\n")


@ray.remote(num_cpus=0.3)
def load_shard(recipe, number):
    """Read one shard: lines of text."""
    recipe.note("load_shard", number)
    time.sleep(recipe["pause"])
    words = random.Random(number)
    return [" ".join(f"w{words.randrange(5000)}" for _ in range(20)) for _ in range(recipe["lines"])]


def build_table(size, rate=320_000_000):
    """The n-gram table: blocks of counts, filled as the shard is walked."""
    block, table = rate // 20, []
    while sum(map(len, table)) < size:
        table.append(b"\1" * min(block, size))
        time.sleep(0.05)
    return table


@ray.remote(num_cpus=0.5, resources={"pool": 1}, max_retries=0)
def tokenize(recipe, number, lines):
    """Turn lines into token numbers, by a table of this shard's n-grams."""
    recipe.note("tokenize", number)
    large = number == recipe["table_shard"]
    table = build_table(recipe["table_shard_bytes"] if large else recipe["table_bytes"])
    vocabulary = {}
    time.sleep(recipe["tokenize_pause"])
    tokens = [[vocabulary.setdefault(word, len(vocabulary)) for word in line.split()] for line in lines]
    recipe.note("tokenized", number)
    return tokens if table else []


@ray.remote(num_cpus=0.4)
class Trainer:
    """Holds the weights."""

    def __init__(self, recipe):
        self.recipe = recipe
        self.steps = 0
        self.loss = 4.0

    def step(self, tokens):
        """One step; returns the loss."""
        self.steps += 1
        self.recipe.note("step", self.steps)
        self.check_license()
        gradient = self.look_up(len(tokens))
        self.loss -= self.recipe["rate"] * gradient * self.loss
        return self.loss

    def check_license(self):
        """The kernel library ends the process when its license does, as such libraries like to."""
        if 0 < self.recipe["license_steps"] < self.steps:
            os._exit(7)

    def look_up(self, rows):
        """Gradient from the embedding table."""
        if self.recipe["lookup"] == "native" and self.steps > self.recipe["native_after"]:
            return ctypes.c_double.from_address(self.address(rows)).value
        return 0.5 + 0.5 / (1 + rows)

    def address(self, rows):
        """Where the native table lies."""
        return 0 if rows else id(self)


@ray.remote(num_cpus=0.3)
def evaluate(recipe, number, losses):
    """Perplexity of the last steps."""
    recipe.note("evaluate", number)
    return perplexity(losses)


def perplexity(losses):
    """Exponential of the mean loss; a loss that left the plausible range is an error, not a number."""
    for step, loss in enumerate(losses):
        if not 0 <= loss < 100:
            raise ValueError(
                f"loss {loss:.3g} at step {step} is out of range; is the learning rate too high?"
            )
    return math.exp(sum(losses) / len(losses))


@ray.remote(num_cpus=0.3)
def finetune(recipe, loss):
    """A last round."""
    recipe.note("finetune", 0)
    return loss * 0.9


def main():
    """Train."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe", type=Path, required=True)
    recipe = Recipe(DEFAULTS | json.loads(parser.parse_args().recipe.read_text()))
    ray.init(log_to_driver=True)
    trainer = Trainer.remote(recipe)
    losses = []
    for number in range(recipe["shards"]):
        lines = load_shard.remote(recipe, number)
        tokens = tokenize.remote(recipe, number, lines)
        losses.append(ray.get(trainer.step.remote(tokens)))
        print(f"shard {number}: loss {losses[-1]:.3f}", flush=True)
        if (number + 1) % recipe["evaluate_every"] == 0:
            print(f"perplexity {ray.get(evaluate.remote(recipe, number, losses[-4:])):.2f}", flush=True)
    if recipe["finetune_on"]:
        last = finetune.options(resources={recipe["finetune_on"]: 1})
        recipe.note("finetune asked", 0)
        print(f"fine-tuned: loss {ray.get(last.remote(recipe, losses[-1])):.3f}")
    print("done")


if __name__ == "__main__":
    main()
