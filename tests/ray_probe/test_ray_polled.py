"""What Ray answers when asked becomes the same events that its stream would have sent."""

from __future__ import annotations

import http.server
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from misstep.agent.context import Context
from misstep.agent.ray import api, demand, scrape, submissions
from misstep.agent.ray.cluster import RayProcess
from misstep.agent.ray.dashboard import RayDashboard
from misstep.agent.ray.polled import Polled
from misstep.agent.ray.scrape import Page, RayMetrics
from misstep.agent.ray.session import RaySession
from misstep.agent.records import Records
from misstep.core import names

SESSION = "local/ray/ray/1"


@pytest.fixture
def poll(sample: Callable[[str], Any], read: Any) -> Callable[[str, str], list[Any]]:
    def run(method: str, name: str) -> list[Any]:
        out, polled = Records(5), Polled(SESSION)
        for _ in range(2):  # the same answer twice is told once
            for row in api.rows(sample(name)):
                getattr(polled, method)(row, out, 1795168400 * 10**9)
        found: list[Any] = read(out.events)
        for record in found:
            assert record.attributes[names.SOURCE] == "ray_api"
            assert record.attributes[names.SESSION] == SESSION
            event = names.event(record.name)
            assert record.attributes.get(names.STATE, "") in ("", *event.states)
        assert len({r.attributes[names.EVENT_ID] for r in found}) == len(found)
        return found

    return run


def test_tasks(poll: Callable[[str, str], list[Any]]) -> None:
    found = poll("task", "api_v0_tasks_detail_1_limit_100.json")
    finished = next(
        r for r in found if r.attributes.get(names.STATE) == "FINISHED" and names.RAY_WORKER in r.attributes
    )
    assert [t["state"] for t in finished.json["stateTransitions"]][:3] == [
        "PENDING_ARGS_AVAIL",
        "PENDING_NODE_ASSIGNMENT",
        "SUBMITTED_TO_WORKER",
    ]
    assert finished.time == 1795168308383 * 10**6
    failed = [r for r in found if r.attributes.get(names.STATE) == "FAILED"]
    assert failed
    for record in failed:
        assert record.attributes[names.RAY_ERROR_TYPE]
        assert record.json["rayErrorInfo"]["errorMessage"]
    definitions = [r for r in found if r.name == "ray.task.definition"]
    assert {r.attributes[names.RAY_TASK_NAME] for r in definitions} >= {"on_a"}
    assert 'HOLD":"***' in next(
        r.json["serializedRuntimeEnv"] for r in definitions if r.json["serializedRuntimeEnv"]
    )
    assert any(r.name == "ray.actor_task.definition" and r.attributes[names.RAY_ACTOR] for r in found)


def test_workers(poll: Callable[[str, str], list[Any]]) -> None:
    found = poll("worker", "api_v0_workers_detail_1_limit_100.json")
    dead = next(r for r in found if r.attributes.get(names.RAY_EXIT_TYPE) == "SYSTEM_ERROR")
    assert (dead.attributes[names.STATE], dead.severity) == ("DEAD", 17)
    assert "connection error code 2" in dead.json["stateTransitions"][0]["deathInfo"]["exitDetail"]
    assert all(1795168000 < r.time / 1e9 < 1795169000 for r in found)


def test_nodes_actors_and_groups(poll: Callable[[str, str], list[Any]]) -> None:
    node = next(r for r in poll("node", "api_v0_nodes_detail_1.json") if r.name == "ray.node.lifecycle")
    assert node.json["stateTransitions"][0]["resources"]["A"] == 10.0
    actors = poll("actor", "api_v0_actors_detail_1.json")
    dead = [r for r in actors if r.attributes.get(names.STATE) == "DEAD"]
    assert {r.attributes[names.RAY_ERROR_TYPE] for r in dead} == {"ACTOR_DIED"}
    assert "actorDiedErrorContext" in dead[0].json["stateTransitions"][0]["deathCause"]
    group = next(
        r
        for r in poll("group", "api_v0_placement_groups_detail_1_limit_10000.json")
        if r.name == "ray.placement_group"
    )
    assert group.attributes[names.ENTITY] == "group/4276a6cd61b596a9dbabafdab23f02000000"


def test_submissions(sample: Callable[[str], Any], read: Any) -> None:
    out = Records(5)
    ids = [
        submissions.add(job, out, session=SESSION, source="ray_api", now=7) for job in sample("api_jobs.json")
    ]
    running, failed = read(out.events)
    assert len(set(ids)) == 2
    assert (running.attributes[names.ENTITY], running.attributes[names.RAY_SUBMISSION]) == (
        "job/02000000",
        "my-named-job2",
    )
    assert (failed.attributes[names.ENTITY], failed.attributes[names.EXIT_CODE]) == ("job/my-named-job", 1)
    assert failed.severity == 17
    assert failed.time == 1795168231833 * 10**6


def test_demands(sample: Callable[[str], Any]) -> None:
    status = sample("api_cluster_status_format_1.json")["data"]["clusterStatus"]
    demands, usage = demand.parse(status)
    assert demands == [demand.Demand({"CPU": 0.2, "NOPE": 1.0}, 1, "", 1, "tasks_or_actors")]
    assert usage["A"] == (0.0, 10.0)
    assert usage["memory"][1] == pytest.approx(45.19 * 2**30)
    nodes = [
        {
            "node_id": "n1",
            "state": "ALIVE",
            "node_name": "a",
            "resources_total": {"CPU": 2.0, "node:192.0.2.2": 1.0},
        },
        {"node_id": "n2", "state": "DEAD", "resources_total": {"NOPE": 4.0}},
    ]
    body = json.loads(demand.body(demands, usage, nodes))
    (pending,) = body["pending"]
    assert (pending["fits"], pending["lacking"]) == (False, {"NOPE": {"asked": 1.0, "most": 0.0}})
    assert body["nodes"] == [{"id": "n1", "name": "a", "resources": {"CPU": 2.0}}]


def test_demands_of_groups_and_held_resources() -> None:
    text = "Pending Demands:\n {'CPU': 1.0} * 2 (STRICT_PACK): 3+ pending placement groups\n {'CPU': 2.0}: 1+ pending tasks/actors\n"
    demands, _ = demand.parse(text)
    assert demands[0] == demand.Demand({"CPU": 1.0}, 2, "STRICT_PACK", 3, "placement_groups")
    pending = json.loads(demand.body(demands, {}, [{"state": "ALIVE", "resources_total": {"CPU": 2.0}}]))[
        "pending"
    ]
    assert [one["fits"] for one in pending] == [True, True]


def test_a_metrics_page(sample: Callable[[str], Any]) -> None:
    page = Page({names.SESSION: SESSION})
    text = sample("metrics.txt")
    first, second = page.parse(text), page.parse(text)
    assert [value for _, value in first] == [value for _, value in second]
    assert all(a is b for (a, _), (b, _) in zip(first, second, strict=True))
    wanted = {line.split("{")[0] for line in text.split("\n") if line.startswith("ray_")}
    assert {series.name for series, _ in first} == {n for n in wanted if not n.endswith(("_bucket", "_sum"))}
    assert {series.kind for series, _ in first} <= {"sum", "gauge"}


def test_labels_and_numbers_of_a_page() -> None:
    page = Page({})
    points = page.parse(
        '# TYPE ray_x counter\nray_x{a="b\\"c\\\\d\\ne",SessionName="s",empty=""} 2.5e3\nray_x{a="f"} nonsense\n'
        '# TYPE ray_y gauge\nray_y NaN\nray_y{z="1"} -1\nother 5\nray_z_bucket{le="1"} 4\n'
    )
    assert [(s.name, s.kind, value) for s, value in points] == [
        ("ray_x", "sum", 2500.0),
        ("ray_y", "gauge", -1.0),
    ]
    assert b'b"c\\d\ne' in points[0][0].tail
    assert b"SessionName" not in points[0][0].tail
    assert page.lost == 1
    many = "".join(f'ray_m{{n="{n}"}} 1\n' for n in range(scrape.SERIES_LIMIT + 3))
    assert len(page.parse(many)) == scrape.SERIES_LIMIT
    assert page.lost == 3


class Dashboard:
    """Answers captured bodies, with a token or without."""

    def __init__(self, sample: Callable[[str], Any], token: str = "") -> None:
        self.asked: list[str] = []
        self.broken = False
        pages = {
            "/api/jobs/": "api_jobs.json", "/api/v0/nodes": "api_v0_nodes_detail_1.json", "/api/v0/workers": "api_v0_workers_detail_1_limit_100.json",
            "/api/v0/actors": "api_v0_actors_detail_1.json", "/api/v0/tasks": "api_v0_tasks_detail_1_limit_100.json",
            "/api/v0/placement_groups": "api_v0_placement_groups_detail_1_limit_10000.json",
            "/api/cluster_status": "api_cluster_status_format_1.json", "/metrics": "metrics.txt",
        }  # fmt: skip
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                outer.asked.append(self.path)
                allowed = (
                    not token or self.headers.get("Authorization") == f"Bearer {token}" or path == "/metrics"
                )
                held = sample(pages[path])
                body = (
                    b"{" if outer.broken else (held if isinstance(held, str) else json.dumps(held)).encode()
                )
                self.send_response(200 if allowed else 401)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def dashboard(sample: Callable[[str], Any]) -> Iterator[Dashboard]:
    held = Dashboard(sample, token="t0ken")
    yield held
    held.close()


class Sessions:
    """One session with its head here."""

    def __init__(self, process: RayProcess, streams: bool) -> None:
        self.one = RaySession("session_1", SESSION, 0)
        self.one.head = True
        self.one.processes[process.pid] = (process, 1)
        self._streams = streams

    def all(self) -> list[RaySession]:
        return [self.one]

    def streams(self, one: RaySession) -> bool:
        return self._streams

    def locate(self, *where: Any) -> str:
        return ""


def process(dashboard: Dashboard, folder: Path, token: str = "t0ken") -> RayProcess:
    (folder / "auth_token").write_text(token)
    (folder / "metrics_export_port_abc").write_text(str(dashboard.port))
    groups = [{"labels": {}, "targets": [f"127.0.0.1:{dashboard.port}", "203.0.113.9:1"]}]
    (folder / "prom_metrics_service_discovery.json").write_text(json.dumps(groups))
    return RayProcess(
        os.getpid(), "abc", "127.0.0.1", "", "session_1", str(folder), "", f"http://127.0.0.1:{dashboard.port}", "", False, "found",
        ("", str(folder / "auth_token")), os.geteuid(), "2.60.0", "yes",
    )  # fmt: skip


def test_a_cluster_without_events_is_asked_for_everything(
    dashboard: Dashboard, context: Context, tmp_path: Path, spooled: Callable[[], list[Any]]
) -> None:
    probe = RayDashboard(context, Sessions(process(dashboard, tmp_path), False))  # type: ignore[arg-type]
    probe.ask()
    found = spooled()
    kinds = {record.name for record in found}
    assert kinds >= {
        "ray.submission", "ray.job.definition", "ray.job.lifecycle", "ray.node.lifecycle", "ray.worker.lifecycle", "ray.actor.lifecycle",
        "ray.task.definition", "ray.task.lifecycle", "ray.placement_group", "ray.demand",
    }  # fmt: skip
    state = context.coverage.state("ray_api", SESSION)
    assert state is not None
    assert state.name == "ok"
    probe.ask()
    assert spooled() == []  # nothing changed


def test_a_cluster_with_events_is_asked_for_little(
    dashboard: Dashboard, context: Context, tmp_path: Path, spooled: Callable[[], list[Any]]
) -> None:
    RayDashboard(context, Sessions(process(dashboard, tmp_path), True)).ask()  # type: ignore[arg-type]
    assert {r.name for r in spooled()} == {
        "ray.submission",
        "ray.placement_group",
        "ray.placement_group.definition",
        "ray.demand",
    }
    assert not any("tasks" in path or "workers" in path for path in dashboard.asked)


def test_workers_are_asked_where_the_stream_has_none(
    dashboard: Dashboard, context: Context, tmp_path: Path, spooled: Callable[[], list[Any]]
) -> None:
    old = process(dashboard, tmp_path)._replace(version="2.55.1")
    RayDashboard(context, Sessions(old, True)).ask()  # type: ignore[arg-type]
    assert "ray.worker.lifecycle" in {r.name for r in spooled()}


@pytest.mark.parametrize(("token", "reason"), [("wrong", "refuses the token"), ("", "asks for a token")])
def test_a_dashboard_that_refuses(
    dashboard: Dashboard, context: Context, tmp_path: Path, token: str, reason: str
) -> None:
    RayDashboard(context, Sessions(process(dashboard, tmp_path, token), False)).ask()  # type: ignore[arg-type]
    state = context.coverage.state("ray_api", SESSION)
    assert state is not None
    assert (state.name, reason in state.reason) == ("failing", True)


def test_a_dashboard_that_answers_nonsense(dashboard: Dashboard, context: Context, tmp_path: Path) -> None:
    dashboard.broken = True
    RayDashboard(context, Sessions(process(dashboard, tmp_path), False)).ask()  # type: ignore[arg-type]
    state = context.coverage.state("ray_api", SESSION)
    assert state is not None
    assert state.name == "failing"


def test_the_ports_of_this_machine_are_read(dashboard: Dashboard, context: Context, tmp_path: Path) -> None:
    probe = RayMetrics(context, Sessions(process(dashboard, tmp_path), True))  # type: ignore[arg-type]
    out = Records(1)
    probe.check(1, out)
    for _ in range(500):
        time.sleep(0.01)
        probe.check(1, out)
        if out.series:
            break
    probe.close()
    assert set(dashboard.asked) == {"/metrics"}
    assert b"abc" in out.series[0].tail
    state = context.coverage.state("ray_metrics", SESSION)
    assert state is not None
    assert state.name == "ok"
