"""What can be read of NVIDIA GPUs: the driver, its library, its devices, and pids that mean something here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from misstep.cli.checks import LIMITED, OK, Check
from misstep.core.settings import Settings

_ASK = """
import sys
sys.path[:0] = [{root!r}]
from ctypes import byref, c_uint
from misstep.agent.gpu.nvml import Library
from misstep.agent.gpu.codes import error
try:
    library = Library({library!r})
except OSError as problem:
    sys.exit(str(problem))
code = library["nvmlInitWithFlags"](0)
count = c_uint()
code = code or library["nvmlDeviceGetCount_v2"](byref(count))
print(count.value)
library["nvmlShutdown"]()
sys.exit(error(code) if code else 0)
"""
_PATIENCE = 10.0
"""Seconds until a driver that does not answer counts as one that hangs; who asks is then left to itself."""


def check(settings: Settings) -> list[Check]:
    """One line on the GPUs, and one on their pods where Kubernetes is seen."""
    if sys.platform != "linux":
        return []
    return [gpus(settings.agent.nvml_library), *pods(settings.agent.kubelet_socket)]


def gpus(library: str) -> Check:
    """Whether NVML answers, asked in a process of its own as the agent does."""
    from misstep.agent.gpu import process

    why = process.installed(library)
    if why.startswith("no "):
        return Check("GPUs", OK, why)
    if why:
        return Check("GPUs", LIMITED, f"{why}: no GPU is read", "nvidia-smi   # in a container: docker run --gpus all …")  # fmt: skip
    root = str(Path(process.__file__).parents[3])
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _ASK.format(root=root, library=library)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        output, errors = child.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        return Check("GPUs", LIMITED, f"the NVIDIA driver does not answer for {_PATIENCE:.0f} s (pid {child.pid} waits for it): it hangs", "nvidia-bug-report.sh")  # fmt: skip
    if child.returncode:
        said = (errors.strip().splitlines() or ["it ended"])[-1]
        return Check("GPUs", LIMITED, f"NVML cannot be read: {said}", "nvidia-smi")
    count = int(output or 0)
    if count and process.own_namespace():
        return Check("GPUs", LIMITED, f"{count} by NVML; their processes have pids of another namespace, so no rank is found for them", "docker run --pid=host …, in Kubernetes hostPID: true")  # fmt: skip
    return Check("GPUs", OK, f"{count} by NVML: utilisation, memory, power, ECC, NVLink, processes, Xids")


def pods(path: str) -> list[Check]:
    """Whether kubelet tells to whom it gave which GPU; nothing where there is no Kubernetes."""
    from misstep.agent.kubelet import resources, unary

    node = Path(path).parent.parent.exists()
    if not path or not (node or "KUBERNETES_SERVICE_HOST" in os.environ):
        return []
    remedy = (
        "sudo misstep agent   # in a pod: mount the node's /var/lib/kubelet/pod-resources, and run as root"
    )
    try:
        found = resources.listing(unary.call(path, resources.LIST))
    except (OSError, ValueError, unary.CallError) as error:
        why = getattr(error, "strerror", None) or str(error)
        return [Check("pods", LIMITED, f"kubelet cannot be asked at {path} ({why}): a GPU's pod is known by its uid alone", remedy)]  # fmt: skip
    given = len({one.device for one in found.given})
    return [Check("pods", OK, f"kubelet tells of {len(found.pods)} pods, and that it gave them {given} GPUs or parts of GPUs")]  # fmt: skip
