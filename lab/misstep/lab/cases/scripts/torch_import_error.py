"""A module is missing, on every rank, before anything of torch's groups exists."""

import importlib
import time

import torch

torch.set_num_threads(1)
print(f"fault at {time.time()}", flush=True)
attention = importlib.import_module("attention_that_nobody_installed")
