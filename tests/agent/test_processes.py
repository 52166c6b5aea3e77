"""The process probe: on a recorded process table of a real Ray, and on real processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from misstep.agent import roles
from misstep.agent.exits import ExitProbe, Exits
from misstep.agent.processes import ProcessProbe
from misstep.agent.procfs import PAGE, parse_stat
from misstep.agent.records import Records
from misstep.core.clock import SettableClock

RECORDED = Path(__file__).parents[1] / "data" / "agent" / "ray_processes.json"
SESSION = "local/ray/ray/2026-11-21_04-27-54_940903_16206"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


class Table:
    """A process table on disk, as /proc shows it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.newest = 1
        (root / "self").mkdir(parents=True)
        self._count()

    def add(self, pid: int, **files: str) -> None:
        folder = self.root / str(pid)
        folder.mkdir(exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text)
        self._count()

    def remove(self, pid: int) -> None:
        os.truncate(
            self.root / str(pid) / "stat", 0
        )  # what an open descriptor of a process that is gone reads
        shutil.rmtree(self.root / str(pid))

    def stat(self, pid: int, **changes: tuple[str, str]) -> None:
        """Rewrite the stat line in place, so that descriptors that are kept see it."""
        path = self.root / str(pid) / "stat"
        text = path.read_text()
        for old, new in changes.values():
            assert old in text
            text = text.replace(old, new, 1)
        with open(path, "r+") as file:
            file.write(text)
            file.truncate()

    def _count(self) -> None:
        self.newest += 1
        (self.root / "loadavg").write_text(f"0.20 0.18 0.12 1/80 {self.newest}\n")


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(tmp_path / "proc")


@pytest.fixture
def ray(table: Table) -> Table:
    for pid, files in json.loads(RECORDED.read_text()).items():
        table.add(int(pid), **files)
    return table


@pytest.fixture
def probe_of(make_context: Any) -> Any:
    made: list[Any] = []

    def make(root: str = "/proc", clock: Any = None) -> Any:
        context = make_context(clock)
        exits = Exits()
        news = ExitProbe(exits)
        probe = ProcessProbe(context, exits, news, root)
        made.extend((probe, news))

        states: list[Any] = []
        probe.states = states  # type: ignore[attr-defined]

        def check() -> Records:
            out = Records(context.clock.now())
            news.check(out.now, out)
            states.append(probe.check(out.now, out))
            return out

        return context, check, probe

    yield make
    for one in made:
        one.close()


def test_a_recorded_ray_is_found_whole(ray: Any, probe_of: Any, read_events: Any) -> None:
    context, check, probe = probe_of(str(ray.root), SettableClock())
    assert probe.supported().name == "ok"
    found = {event.attributes["process.pid"]: event for event in read_events(check().events)}
    assert {pid: event.attributes["misstep.process.role"] for pid, event in found.items()} == {
        16206: "ray_driver",
        16443: "gcs",
        16512: "ray_system",
        16574: "ray_system",
        16878: "ray_system",
        17089: "ray_system",
        17090: "raylet",
        17217: "ray_system",
        17550: "ray_worker",
        17551: "ray_worker",
    }
    assert {event.name for event in found.values()} == {"process.start"}
    assert {event.attributes["misstep.session"] for event in found.values()} == {SESSION}
    worker = found[17550].attributes
    assert worker["process.title"] == "ray::IDLE"
    assert worker["process.parent_pid"] == 17090
    assert worker["misstep.parent"] == found[17090].attributes["misstep.entity"]
    assert worker["misstep.entity"] == f"process/{context.host.id[:12]}/17550/{worker['process.start_ticks']}"
    assert worker["cgroup"] == "/user.slice/user-1000.slice/session-2.scope"
    assert "ray.job.id" not in worker  # ffffffff is Ray's word for none yet
    assert found[16206].attributes["process.command_line"] == (
        "/home/ada/venv/bin/python /home/ada/job/infeasible_cpu.py"
    )
    assert len(found[17090].attributes["process.command_line"]) <= 1001
    assert [p.pid for p in context.workload.processes("ray_worker")] == [17550, 17551]
    assert context.workload.session_of(17550) == SESSION


def test_known_processes_are_sampled_each_second(ray: Any, probe_of: Any, read_points: Any) -> None:
    _, check, _ = probe_of(str(ray.root), SettableClock())
    stat = parse_stat((ray.root / "17550" / "stat").read_bytes())
    points = read_points(check())
    [memory] = [
        value for key, value in points.items() if key[0] == "process.memory.usage" and key[2] == "17550"
    ]
    [cpu] = [value for key, value in points.items() if key[0] == "process.cpu.time" and key[2] == "17550"]
    assert memory == stat.memory > 50e6
    assert cpu == stat.cpu / os.sysconf("SC_CLK_TCK")
    assert all(key[-1] == SESSION for key in points)
    assert not [key for key in points if key[0] == "process.state"]
    ray.stat(17550, state=(") S ", ") D "), rss=(str(stat.memory // PAGE), str(stat.memory // PAGE + 100)))
    points = read_points(check())
    [memory] = [
        value for key, value in points.items() if key[0] == "process.memory.usage" and key[2] == "17550"
    ]
    assert memory == stat.memory + 100 * PAGE
    [(key, value)] = [(key, value) for key, value in points.items() if key[0] == "process.state"]
    assert (key[4 if key[-1] == SESSION else -1] in ("D", SESSION), value) == (True, 1)
    assert "D" in key


def test_newcomers_are_seen_with_the_next_fork_and_renames_with_the_next_walk(
    ray: Any, probe_of: Any, read_events: Any
) -> None:
    clock = SettableClock()
    context, check, _ = probe_of(str(ray.root), clock)
    check()
    worker = json.loads(RECORDED.read_text())["17551"]
    ray.add(
        17600,
        **{**worker, "stat": worker["stat"].replace("17551", "17600", 1).replace("ray::IDLE", "python", 1)},
    )
    clock.advance(1)
    [event] = read_events(check().events)
    assert (event.name, event.attributes["process.pid"]) == ("process.start", 17600)
    (ray.root / "17600" / "cmdline").write_text("ray::tokenize\0")
    ray.stat(17600, name=("(python)", "(ray::tokenize)"))
    clock.advance(1)
    assert check().events == []
    assert context.workload.find(17600).title == "ray::tokenize"


def test_a_child_that_has_not_called_exec_is_not_taken_for_its_parent(
    ray: Any, probe_of: Any, read_events: Any
) -> None:
    clock = SettableClock()
    _, check, _ = probe_of(str(ray.root), clock)
    check()
    raylet = json.loads(RECORDED.read_text())["17090"]
    fields = raylet["stat"].replace("17090", "17700", 1).replace("S 16206", "S 17090", 1)
    ray.add(17700, **{**raylet, "stat": fields})
    clock.advance(1)
    assert check().events == []
    (ray.root / "17700" / "cmdline").write_text("python\0/venv/ray/_private/workers/default_worker.py\0")
    ray.stat(17700, name=("(raylet)", "(python)"))
    clock.advance(5)
    [event] = read_events(check().events)
    assert event.attributes["misstep.process.role"] == "ray_worker"
    assert event.attributes["misstep.session"] == SESSION


def test_what_was_met_before_its_exec_is_looked_at_again_at_once(
    ray: Any, probe_of: Any, read_events: Any
) -> None:
    clock = SettableClock()
    _, check, _ = probe_of(str(ray.root), clock)
    check()
    raylet = json.loads(RECORDED.read_text())["17090"]
    fields = raylet["stat"].replace("17090", "17700", 1).replace("(raylet)", "(python)", 1)
    ray.add(17700, **{**raylet, "stat": fields, "cmdline": "python\0train.py\0"})
    clock.advance(1)
    assert check().events == []
    ray.stat(17700, name=("(python)", "(raylet)"))
    (ray.root / "17700" / "cmdline").write_text(raylet["cmdline"])
    clock.advance(1)
    [event] = read_events(check().events)
    assert (event.attributes["process.pid"], event.attributes["misstep.process.role"]) == (17700, "raylet")


def test_a_reused_pid_is_another_process(ray: Any, probe_of: Any, read_events: Any) -> None:
    clock = SettableClock()
    _, check, _ = probe_of(str(ray.root), clock)
    check()
    files = json.loads(RECORDED.read_text())["17551"]
    start = parse_stat(files["stat"].encode()).start
    ray.remove(17551)
    ray.add(17551, **{**files, "stat": files["stat"].replace(str(start), str(start + 900), 1)})
    events = []
    for _ in range(8):
        clock.advance(1)
        events += read_events(check().events)
    assert [event.name for event in events] == ["process.exit", "process.start"]
    assert events[0].attributes["process.start_ticks"] == start
    assert events[1].attributes["process.start_ticks"] == start + 900


def test_a_cluster_is_named_by_the_address_of_its_events(ray: Any, probe_of: Any, read_events: Any) -> None:
    files = json.loads(RECORDED.read_text())["17090"]
    variable = (
        "RAY_DASHBOARD_AGGREGATOR_AGENT_EVENTS_EXPORT_ADDR=http://127.0.0.1:7664/v1/ray/team-a/events\0"
    )
    ray.add(17090, **{**files, "environ": files["environ"] + variable})
    context, check, _ = probe_of(str(ray.root), SettableClock())
    found = {e.attributes["process.pid"]: e.attributes for e in read_events(check().events)}
    expected = SESSION.replace("/ray/ray/", "/ray/team-a/")
    assert found[17550]["misstep.session"] == expected
    assert context.workload.session_of(16206) == expected


@pytest.mark.parametrize(
    ("code", "state", "key", "value", "severity"),
    [
        ("import os; os._exit(7)", "exited", "process.exit.code", 7, 13),
        ("pass", "exited", "process.exit.code", 0, 9),
        ("import os; os.kill(os.getpid(), 11)", "killed", "process.exit.signal", "SIGSEGV", 13),
        ("import os; os.kill(os.getpid(), 9)", "killed", "process.exit.signal", "SIGKILL", 13),
    ],
)
def test_how_a_real_rank_ends_is_told(
    probe_of: Any, read_events: Any, code: Any, state: Any, key: Any, value: Any, severity: Any
) -> None:
    context, check, probe = probe_of()
    environment = {**os.environ, "RANK": "3", "WORLD_SIZE": "8"}
    child = subprocess.Popen(
        [sys.executable, "-c", f"import sys; print(flush=True); sys.stdin.read(); {code}", "--api-key=hush"],
        env=environment, stdin=-1, stdout=-1,
    )  # fmt: skip
    assert child.stdout is not None
    child.stdout.readline()
    [started] = [e for e in read_events(check().events) if e.attributes["process.pid"] == child.pid]
    assert started.attributes["misstep.process.role"] == "rank"
    assert (started.attributes["torch.rank"], started.attributes["torch.world_size"]) == ("3", "8")
    assert "hush" not in started.attributes["process.command_line"]
    assert abs(started.time - time.time_ns()) < 20e9
    child.communicate()
    if not probe._exits.listening and not probe._exits._pidfds:
        pytest.skip("this kernel does not tell")
    [ended] = [e for e in read_events(check().events) if e.attributes["process.pid"] == child.pid]
    assert (ended.name, ended.attributes["misstep.state"], ended.attributes[key]) == (
        "process.exit",
        state,
        value,
    )
    assert ended.severity == severity
    assert context.workload.find(child.pid).role == "rank"
    assert context.workload.exit_of(child.pid) is not None
    assert not [e for e in read_events(check().events) if e.attributes["process.pid"] == child.pid]


def test_an_end_between_the_reading_of_ends_and_that_of_processes_is_told(
    probe_of: Any, read_events: Any
) -> None:
    context, check, probe = probe_of()
    child = subprocess.Popen(["sleep", "60"], env={**os.environ, "RANK": "3", "WORLD_SIZE": "8"})
    until = time.monotonic() + 60
    while context.workload.find(child.pid) is None and time.monotonic() < until:
        check()  # a process that was just forked may not show its own environment yet
    child.kill()
    child.wait()
    if not probe._exits.listening and not probe._exits._pidfds:
        pytest.skip("this kernel does not tell")
    out = Records(context.clock.now())
    probe.check(out.now, out)
    [ended] = [e for e in read_events(out.events) if e.attributes["process.pid"] == child.pid]
    assert (ended.attributes["misstep.state"], ended.attributes["process.exit.signal"]) == ("killed", "SIGKILL")  # fmt: skip


def test_an_end_that_nobody_tells_is_unknown_with_the_reason(
    ray: Any, probe_of: Any, read_events: Any
) -> None:
    clock = SettableClock()
    _, check, _ = probe_of(str(ray.root), clock)
    check()
    with open(ray.root / "17551" / "stat", "w"):
        pass  # what reading a dead process's kept descriptor comes to: no stat line
    found = []
    for _ in range(4):
        clock.advance(1)
        found += read_events(check().events)
    [event] = found
    assert (event.name, event.attributes["misstep.state"]) == ("process.exit", "unknown")
    assert event.body


def test_a_registered_process_is_watched_and_a_dead_one_explained(probe_of: Any, read_events: Any) -> None:
    context, check, probe = probe_of()
    check()
    if not probe._exits.listening:
        pytest.skip("needs the process connector")
    child = subprocess.Popen(["sleep", "60"])
    context.workload.register(child.pid, session="local/ray/ray/x", role="command")
    [started] = [e for e in read_events(check().events) if e.attributes["process.pid"] == child.pid]
    assert (started.attributes["misstep.process.role"], started.attributes["misstep.session"]) == (
        "command",
        "local/ray/ray/x",
    )
    os.kill(child.pid, signal.SIGTERM)
    child.wait()
    [ended] = [e for e in read_events(check().events) if e.attributes["process.pid"] == child.pid]
    assert ended.attributes["process.exit.signal"] == "SIGTERM"

    short = subprocess.Popen([sys.executable, "-c", "import os; os._exit(5)"])
    short.wait()
    pid = short.pid
    context.workload.register(pid, session="local/ray/ray/x", role="ray_worker")
    [late] = [e for e in read_events(check().events) if e.attributes["process.pid"] == pid]
    assert (late.name, late.attributes["process.exit.code"]) == ("process.exit", 5)
    assert late.attributes["misstep.session"] == "local/ray/ray/x"


def test_what_may_not_be_read_is_said(ray: Any, probe_of: Any, read_events: Any, monkeypatch: Any) -> None:
    from misstep.agent import procfs

    def refused(*args: object) -> dict[str, str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(procfs, "environment", refused)
    _, check, probe = probe_of(str(ray.root), SettableClock())
    events = read_events(check().events)
    assert {e.attributes["misstep.process.unread"] for e in events} == {"environ"}
    assert "other users" in probe.states[-1].reason
    assert probe.states[-1].remedy == "sudo misstep agent"


def test_command_lines_travel_without_secrets() -> None:
    words = [
        "python",
        "x.py",
        "--password",
        "a b",
        "--token=t0p",
        "--lr=3",
        "postgres://ada:pw@db/x",
        "y" * 500,
    ]
    shown = roles.shown(words)
    for secret in ("a b", "t0p", "pw@", "y" * 300):
        assert secret not in shown
    for kept in ("x.py", "--lr=3", "db/x", "--password ***"):
        assert kept in shown


def test_stat_lines_with_brackets_and_spaces_in_the_name() -> None:
    line = b"7 (a) b (c)) R 1 7 7 0 -1 4194560 1 0 0 0 30 12 0 0 20 0 5 0 999 1000 25 18446744073709551615 1 1 0\n"
    stat = parse_stat(line)
    assert (stat.name, stat.state, stat.parent, stat.threads, stat.cpu, stat.start) == (
        "a) b (c)",
        "R",
        1,
        5,
        42,
        999,
    )
    assert stat.memory == 25 * PAGE
    with pytest.raises(ValueError, match=r"."):
        parse_stat(b"")
