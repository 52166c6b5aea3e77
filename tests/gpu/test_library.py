"""The lab's GPU library as NVIDIA's own Python binding sees it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from misstep.lab import nvml

pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")


def ask(library: Path, code: str) -> Any:
    """Run `code` with nvidia-ml-py as `p` on the library, in a process of its own; gives what it leaves in `found`."""
    text = f"import ctypes, json, time\nctypes.CDLL({str(library)!r})\nimport pynvml as p\np.nvmlInit()\n{code}\nprint(json.dumps(found))"
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_eight_gpus_with_names_and_addresses(compiled: Path, control: nvml.Control) -> None:
    found = ask(
        compiled,
        "h = [p.nvmlDeviceGetHandleByIndex(i) for i in range(p.nvmlDeviceGetCount())]\n"
        "found = [[p.nvmlDeviceGetUUID(x), p.nvmlDeviceGetPciInfo(x).busId, p.nvmlDeviceGetName(x)] for x in h]",
    )
    assert len(found) == 8
    assert found[3] == [
        "GPU-00000000-0000-4000-8000-000000000003",
        "00000000:48:00.0",
        "NVIDIA H100 80GB HBM3",
    ]
    assert nvml.pci(3) == "0000:48:00"


def test_values_come_from_the_control_file(compiled: Path, control: nvml.Control) -> None:
    control.set(2, utilization=12, power=345678, ecc_uncorrected=3, clock_sm=600)
    control.processes({2: [(4711, 1 << 30)]})
    control.add(2, "link_errors", 5, 77)
    found = ask(
        compiled,
        "h = p.nvmlDeviceGetHandleByIndex(2)\n"
        "f = p.nvmlDeviceGetFieldValues(h, [4, (162, 5), (165, 5), 999])\n"
        "q = p.nvmlDeviceGetComputeRunningProcesses(h)\n"
        "found = [p.nvmlDeviceGetUtilizationRates(h).gpu, p.nvmlDeviceGetPowerUsage(h), p.nvmlDeviceGetClockInfo(h, 1),"
        " [[x.nvmlReturn, x.value.ullVal if x.valueType == 3 else x.value.uiVal] for x in f[:3]], f[3].nvmlReturn, [q[0].pid, q[0].usedGpuMemory]]",
    )
    assert found == [12, 345678, 600, [[0, 3], [0, 77], [0, 1]], 3, [4711, 1 << 30]]


def test_a_gpu_is_lost_and_its_neighbours_are_not(compiled: Path, control: nvml.Control) -> None:
    control.set(3, lost=1)
    found = ask(
        compiled,
        "found = []\n"
        "for i in (2, 3):\n"
        "    try:\n"
        "        found.append(p.nvmlDeviceGetTemperature(p.nvmlDeviceGetHandleByIndex(i), 0))\n"
        "    except p.NVMLError as error:\n"
        "        found.append(type(error).__name__)",
    )
    assert found == [60, "NVMLError_GpuIsLost"]


def test_events_after_registration_are_delivered(compiled: Path, control: nvml.Control) -> None:
    control.add(1, "event", nvml.XID, 31)
    path = str(compiled.parent / "control")
    found = ask(
        compiled,
        "s, h = p.nvmlEventSetCreate(), p.nvmlDeviceGetHandleByIndex(1)\n"
        "p.nvmlDeviceRegisterEvents(h, 8, s)\n"
        f"open({path!r}, 'a').write('1 event 8 79\\n')\n"
        "e = p.nvmlEventSetWait_v2(s, 2000)\n"
        "found = [e.eventType, e.eventData]",
    )
    assert found == [8, 79]


def test_mig_instances_and_gpm(compiled: Path, control: nvml.Control) -> None:
    control.set(0, mig=2)
    found = ask(
        compiled,
        "h = p.nvmlDeviceGetHandleByIndex(0)\n"
        "m = p.nvmlDeviceGetMigDeviceHandleByIndex(h, 1)\n"
        "a, b = p.nvmlGpmSampleAlloc(), p.nvmlGpmSampleAlloc()\n"
        "p.nvmlGpmMigSampleGet(h, 2, b)\n"
        "g = p.c_nvmlGpmMetricsGet_t(version=1, numMetrics=1, sample1=a, sample2=b)\n"
        "g.metrics[0].metricId = 5\n"
        "p.nvmlGpmMetricsGet(g)\n"
        "found = [p.nvmlDeviceGetMigMode(h), p.nvmlDeviceGetGpuInstanceId(m), p.nvmlDeviceGetMemoryInfo(m).total, g.metrics[0].value]",
    )
    assert found == [[1, 1], 2, 85899345920 // 7, 47.0]


@pytest.mark.parametrize(
    ("key", "error"), [("missing", "DriverNotLoaded"), ("mismatch", "LibRmVersionMismatch")]
)
def test_a_driver_that_is_not_there(compiled: Path, control: nvml.Control, key: str, error: str) -> None:
    control.set("driver", **{key: 1})
    code = f"import ctypes\nctypes.CDLL({str(compiled)!r})\nimport pynvml as p\np.nvmlInit()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert f"NVMLError_{error}" in done.stderr
