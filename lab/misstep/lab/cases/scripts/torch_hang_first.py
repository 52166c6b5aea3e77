"""One rank waits for a file before it joins the others, who wait for it to make the first group."""

import os
import time

import torch
import torch.distributed as dist


def wait_for_data(path):
    while not os.path.exists(path):
        time.sleep(1)


torch.set_num_threads(1)
if os.environ["RANK"] == "1":
    print(f"fault at {time.time()}", flush=True)
    wait_for_data("/nonexistent/data.bin")
dist.init_process_group("gloo")
dist.all_reduce(torch.ones(8))
