"""A training loop in miniature: ranks that compute, exchange gradients and report the memory of their GPUs.

Run without --rank it starts the ranks and waits for them, as torchrun does.
"""

import argparse
import ctypes
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time

GPU_IS_LOST = 15
STEP = 0.4


def note(path, stage, number):
    line = json.dumps({"time": time.time_ns(), "pid": os.getpid(), "stage": stage, "number": number})
    with open(path, "a") as file:
        file.write(line + "\n")


class Gpu:
    """The device of this rank, as far as this script needs it."""

    def __init__(self, library, index):
        self.nvml = ctypes.CDLL(library)
        self.nvml.nvmlInitWithFlags(0)
        self.handle = ctypes.c_void_p()
        self.nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(self.handle))

    def memory(self):
        info = (ctypes.c_ulonglong * 3)()
        code = self.nvml.nvmlDeviceGetMemoryInfo(self.handle, info)
        if code == GPU_IS_LOST:
            raise RuntimeError("CUDA error: GPU is lost")
        return info[2]


def exchange(ranks, server):
    """The sum of all ranks' gradients, step after step; a rank that goes ends it for all."""
    links = [server.accept()[0] for _ in range(ranks)]
    try:
        while True:
            total = sum(struct.unpack("<d", read(link))[0] for link in links)
            for link in links:
                link.sendall(struct.pack("<d", total))
    except (ConnectionError, OSError):
        for link in links:
            link.close()


def read(link):
    held = link.recv(8, socket.MSG_WAITALL)
    if len(held) < 8:
        raise ConnectionError("Connection closed by peer")
    return held


def rank_main(options):
    rank = int(os.environ["RANK"])
    gpu = Gpu(options.nvml, int(os.environ["LOCAL_RANK"]))
    link = socket.create_connection((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])))
    note(options.progress, "rank", rank)
    weights = 1.0
    for step in range(1, 10_000):
        began = time.monotonic()
        gradient = sum(weights / (n * n) for n in range(1, 20_000))
        link.sendall(struct.pack("<d", gradient))
        weights -= 1e-6 * struct.unpack("<d", read(link))[0]
        used = gpu.memory()
        if rank == 0:
            note(options.progress, "step", step)
            print(f"step {step} weights {weights:.6f} gpu memory {used >> 30} GiB", flush=True)
        time.sleep(max(0, STEP - (time.monotonic() - began)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--rank", action="store_true")
    parser.add_argument("--progress", required=True)
    parser.add_argument("--nvml", required=True)
    options = parser.parse_args()
    if options.rank:
        rank_main(options)
        return
    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=exchange, args=(options.ranks, server), daemon=True).start()
    children = []
    for rank in range(options.ranks):
        environment = os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(options.ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(server.getsockname()[1]),
        }
        children.append(subprocess.Popen([sys.executable, *sys.argv, "--rank"], env=environment))
    while all(child.poll() is None for child in children):
        time.sleep(0.1)
    time.sleep(1)
    for child in children:
        child.terminate()
    codes = [child.wait() for child in children]
    if any(codes):
        raise SystemExit(f"ranks ended with {codes}")


if __name__ == "__main__":
    main()
