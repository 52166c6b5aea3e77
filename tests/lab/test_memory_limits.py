from __future__ import annotations

from pathlib import Path

from misstep.lab import memory

MEMINFO = "MemTotal:       24683748 kB\nMemFree:         100 kB\nMemAvailable:   20683748 kB\nHugePages_Total:       0\n"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_machine_counts_where_no_cgroup_is_smaller(tmp_path: Path) -> None:
    write(tmp_path / "proc/meminfo", MEMINFO)
    write(tmp_path / "sys/fs/cgroup/memory.max", "max\n")
    assert memory.read(tmp_path) == memory.Memory(4_000_000 * 1024, 24683748 * 1024)


def test_a_container_counts_by_its_limit_without_page_cache(tmp_path: Path) -> None:
    write(tmp_path / "proc/meminfo", MEMINFO)
    write(tmp_path / "sys/fs/cgroup/memory.max", "4000000000\n")
    write(tmp_path / "sys/fs/cgroup/memory.current", "1500000000\n")
    write(
        tmp_path / "sys/fs/cgroup/memory.stat",
        "anon 900000000\ninactive_file 400000000\nactive_file 100000000\n",
    )
    assert memory.read(tmp_path) == memory.Memory(1_000_000_000, 4_000_000_000)


def test_a_container_of_the_first_cgroups(tmp_path: Path) -> None:
    write(tmp_path / "proc/meminfo", MEMINFO)
    write(tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes", "4000000000\n")
    write(tmp_path / "sys/fs/cgroup/memory/memory.stat", "cache 5\ntotal_rss 700000000\n")
    assert memory.read(tmp_path) == memory.Memory(700_000_000, 4_000_000_000)


def test_this_machine_has_memory() -> None:
    now = memory.read()
    assert 0 < now.used < now.total
    assert now.free == now.total - now.used
