"""What `misstep doctor` says of GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from misstep.cli.checks import LIMITED, OK, gpus
from misstep.lab import nvml


def test_gpus_that_answer_are_counted(compiled: Path, control: nvml.Control) -> None:
    found = gpus.gpus(str(compiled))
    assert found.detail.startswith("8 by NVML")
    assert found.state == OK or "namespace" in found.detail


@pytest.mark.parametrize(("key", "says"), [("missing", "not loaded"), ("mismatch", "different versions")])
def test_a_driver_that_does_not_fit_is_named(
    compiled: Path, control: nvml.Control, key: str, says: str
) -> None:
    control.set("driver", **{key: 1})
    found = gpus.gpus(str(compiled))
    assert found.state == LIMITED
    assert says in found.detail


def test_no_gpu_is_no_complaint_and_no_library_is_one(tmp_path: Path) -> None:
    assert gpus.gpus(str(tmp_path / "libnvidia-ml.so.1")).state == LIMITED
    if not Path("/dev/nvidiactl").exists() and not Path("/proc/driver/nvidia").exists():
        assert gpus.gpus("libnvidia-ml.so.1").detail.startswith(("no NVIDIA GPU", "an NVIDIA GPU is"))


def test_pods_are_spoken_of_where_kubernetes_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    socket = tmp_path / "kubelet" / "pod-resources" / "kubelet.sock"
    assert gpus.pods(str(socket)) == []
    assert gpus.pods("") == []
    socket.parent.mkdir(parents=True)
    (found,) = gpus.pods(str(socket))
    assert (found.state, "cannot be asked" in found.detail) == (LIMITED, True)
    assert "mount" in found.remedy
