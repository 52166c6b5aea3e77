"""Where the suite runs as root: the tests of agent, GPUs, kubelet and doctor once more as a user who may nothing.

That user must reach interpreter and checkout. Where they lie in a folder that is closed to others (a root's home), they
are mounted for him at their own place, in a mount namespace that ends with the run.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WHAT = (
    *(f"tests/agent/test_{name}.py" for name in ("coverage", "exits", "host", "host_slow", "infiniband", "kernel_log", "processes")),
    "tests/gpu/test_gpu_probe.py", "tests/gpu/test_gpu_command.py", "tests/gpu/test_doctor_gpus.py",
    "tests/kubelet/test_pod_resources.py", "tests/cli/test_doctor.py",
)  # fmt: skip
PATIENCE = 600.0


def closed(path: Path) -> Path | None:
    """The outermost folder above a path that others may not pass."""
    above = [folder for folder in reversed(path.parents) if not folder.stat().st_mode & stat.S_IXOTH]
    return above[0] if above else None


def opened(needed: list[Path]) -> str:
    """Shell lines that mount what others cannot reach where it is, in an otherwise empty folder."""
    lines = []
    for number, folder in enumerate(sorted({one for path in needed if (one := closed(path)) is not None})):
        inside = [path for path in needed if path.is_relative_to(folder)]
        inside = [p for p in inside if not any(p != q and p.is_relative_to(q) for q in inside)]
        held = [f'"$TMPDIR/held-{number}-{place}"' for place in range(len(inside))]
        lines += [f"mkdir -p {at}; mount --bind {shlex.quote(str(p))} {at}" for at, p in zip(held, inside, strict=True)]  # fmt: skip
        lines.append(f"mount -t tmpfs -o mode=755 none {shlex.quote(str(folder))}")
        lines += [
            f"mkdir -p {shlex.quote(str(p))}; mount --bind {at} {shlex.quote(str(p))}"
            for at, p in zip(held, inside, strict=True)
        ]
    return "\n".join(lines)


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder of that user's: not below pytest's, which is root's alone."""
    nobody = pwd.getpwnam("nobody")
    folder = Path(tempfile.mkdtemp(prefix="misstep-nobody-", dir="/tmp"))
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def run(home: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run Python as that user, without any capability."""
    nobody = pwd.getpwnam("nobody")
    needed = sorted({Path(p).resolve() for p in (sys.base_prefix, sys.prefix, ROOT)})
    user = (
        f"exec setpriv --reuid={nobody.pw_uid} --regid={nobody.pw_gid} --clear-groups --inh-caps=-all --bounding-set=-all"
        f" --no-new-privs {shlex.quote(sys.executable)} \"$@\""
    )  # fmt: skip
    script, apart = opened(needed), []
    if script:
        apart = ["unshare", "--mount", "--propagation", "private"]
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home), "PYTHONDONTWRITEBYTECODE": "1",
        "HYPOTHESIS_STORAGE_DIRECTORY": str(home / "hypothesis"),
    }  # fmt: skip
    return subprocess.run(
        [*apart, "sh", "-ec", f"{script}\n{user}", "sh", *argv],
        cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip


@pytest.mark.timeout(700)
def test_the_same_tests_pass_without_privileges(home: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("the whole suite runs without privileges already")
    if shutil.which("setpriv") is None or shutil.which("unshare") is None:
        pytest.skip("no setpriv and unshare here (util-linux)")
    probe = run(home, "-c", "import os, pytest, misstep.agent.registry; print(os.geteuid())")
    if probe.returncode:
        pytest.skip(f"another user cannot run this checkout: {probe.stderr.strip()[-200:]}")
    assert int(probe.stdout) != 0
    done = run(home, "-m", "pytest", "-q", "-p", "no:cacheprovider", *WHAT)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
