"""Only the Ray sessions below a folder are watched, where one is set."""

import json
from pathlib import Path

import pytest

from misstep.agent.process_table import ProcessTable
from misstep.agent.workload import Workload

RECORDED = Path(__file__).parents[1] / "data" / "agent" / "ray_processes.json"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "loadavg").write_text("0.20 0.18 0.12 1/80 1\n")
    for pid, files in json.loads(RECORDED.read_text()).items():
        (tmp_path / pid).mkdir()
        for name, text in files.items():
            (tmp_path / pid / name).write_text(text)
    return tmp_path


def found(proc: Path, ray_folder: str) -> dict[str, int]:
    """Number of processes by role."""
    table = ProcessTable(Workload("h", "local"), str(proc), ray_folder=ray_folder)
    roles = [process.role for process, _ in table.walk()]
    return {role: roles.count(role) for role in roles}


def test_a_folder_above_the_session_changes_nothing(proc: Path) -> None:
    everything = found(proc, "")
    assert {"raylet", "gcs", "ray_worker", "ray_driver"} <= set(everything)
    assert found(proc, folder(proc)) == everything
    assert found(proc, folder(proc) + "/") == everything


def test_nothing_of_a_ray_elsewhere_is_watched(proc: Path) -> None:
    assert found(proc, "/elsewhere") == {}
    assert found(proc, folder(proc)[:-1]) == {}, "a folder is not a prefix of letters"


def folder(proc: Path) -> str:
    """The folder that holds the recorded session."""
    for path in proc.glob("*/cmdline"):
        for word in path.read_text().split("\0"):
            if "/session_" in word and word.startswith("--log_dir="):
                return word.removeprefix("--log_dir=").partition("/session_")[0]
    raise AssertionError("no gcs_server in the recording")
