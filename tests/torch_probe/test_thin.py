"""Machines without a rank pay nothing for the probe of ranks."""

from __future__ import annotations

import json
import subprocess
import sys


def test_nothing_heavy_is_loaded_before_a_rank_is_there() -> None:
    code = "import json, sys\nimport misstep.agent.registry\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert not loaded & {
        "misstep.agent.kubelet.unary",
        "misstep.agent.kubelet.resources",
        "misstep.agent.ethtool",
    }
    assert not loaded & {"torch", "numpy", "statistics", "subprocess", "multiprocessing", "asyncio", "misstep.agent.torch.watcher"}  # fmt: skip
