"""Ray's own Prometheus ports: what raylets, GCS, dashboard and autoscaler of this machine say in ``ray_*`` families.

Where they are is found in the session's folder: ``prom_metrics_service_discovery.json`` (written by the dashboard, all
nodes of the cluster) and ``metrics_export_port_<node>``. Each agent reads its own machine's. Buckets and sums of
histograms stay out: Ray rebuilds sums from the middles of buckets, so averages from them are false.
"""

from __future__ import annotations

import json
import os
import re
import threading
from math import isnan
from typing import NamedTuple

from misstep.agent.context import Context
from misstep.agent.otlp import Value
from misstep.agent.probe import OK, SourceState, failing
from misstep.agent.ray.session import RaySession
from misstep.agent.ray.sessions import RaySessions
from misstep.agent.records import Records
from misstep.agent.series import Series
from misstep.agent.watched_thread import WatchedThread
from misstep.agent.web import HTTPException, connection
from misstep.core import names

PAGE_LIMIT = 16 * 1024 * 1024
SERIES_LIMIT = 5000
"""Of one page. What is beyond is counted as lost."""

_LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")
_LEFT_OUT = ("_bucket", "_sum", "_created")
_NOT_LABELS = ("SessionName", "Version")  # constant, and told by the session


class Target(NamedTuple):
    """A port to read, and what its points belong to."""

    address: str
    session: str
    node: str


class Page:
    """Parses one port's page again and again; series that stay are found by their text.

    Args:
        attributes: put on every point.
    """

    def __init__(self, attributes: dict[str, Value]) -> None:
        self._attributes = attributes
        self._series: dict[str, Series | None] = {}
        self.lost = 0

    def parse(self, text: str) -> list[tuple[Series, float]]:
        """The points of a page in the text format of Prometheus 0.0.4; only families whose names begin with ``ray_``."""
        points: list[tuple[Series, float]] = []
        kinds: dict[str, str] = {}
        seen: dict[str, Series | None] = {}
        held, self.lost = self._series, 0
        for line in text.split("\n"):
            if line.startswith("ray_"):
                key, _, number = line.rpartition(" ")
                series = held[key] if key in held else self._make(key, kinds)
                seen[key] = series
                if series is None:
                    continue
                try:
                    value = float(number)
                except ValueError:
                    self.lost += 1
                    continue
                if not isnan(value):
                    points.append((series, value))
                    if len(points) > SERIES_LIMIT:
                        points.pop()
                        self.lost += 1
            elif line.startswith("# TYPE ray_"):
                parts = line.split(" ")
                if len(parts) == 4:
                    kinds[parts[2]] = parts[3]
        self._series = seen
        return points

    def _make(self, key: str, kinds: dict[str, str]) -> Series | None:
        name, _, labels = key.partition("{")
        family = kinds.get(name, "")
        if not family and name.endswith(_LEFT_OUT):
            return None
        attributes: dict[str, Value] = dict(self._attributes)
        for label, value in _LABEL.findall(labels):
            if label not in _NOT_LABELS and value:
                attributes[label] = _ESCAPE.sub(_unescaped, value) if "\\" in value else value
        counts = family == "counter" or (not family and name.endswith(("_total", "_count")))
        return Series(name, "sum" if counts else "gauge", "", attributes)


def _unescaped(match: re.Match[str]) -> str:
    return "\n" if match.group(1) == "n" else match.group(1)


class RayMetrics:
    """Probe of the ports. A thread of its own does the reading; a check hands over what it brought."""

    source = "ray_metrics"
    follows_events = False

    def __init__(self, context: Context, sessions: RaySessions) -> None:
        self.interval = max(1.0, context.settings.agent.ray_scrape_interval)
        self._context = context
        self._sessions = sessions
        self._pages: dict[Target, Page] = {}
        self._ready: list[tuple[Series, float]] = []
        self._lost = 0
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        self._thread = WatchedThread("ray_metrics", self._work, context.clock)

    def supported(self) -> SourceState:
        """Always; which session's ports answer is told per session."""
        return OK

    def check(self, now: int, out: Records) -> SourceState | None:
        """Hand over the last scrape and ask for the next."""
        with self._lock:
            ready, self._ready = self._ready, []
            lost, self._lost = self._lost, 0
        for series, value in ready:
            out.point(series, value)
        out.gap(
            "metric", lost, f"a Ray metrics page with more than {SERIES_LIMIT} series, or malformed numbers"
        )
        if any(not one.ended for one in self._sessions.all()):
            state = self._thread.watch()
            self._wanted.set()
            return state
        return None

    def close(self) -> None:
        """Stop the thread; a read under way is left to its timeout."""
        self._thread.stopping.set()
        self._wanted.set()
        self._thread.close(1.0)

    def _work(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._thread.stopping.is_set():
                return
            self.scrape()

    def scrape(self) -> None:
        """Read every port once."""
        live = [one for one in self._sessions.all() if not one.ended]
        current: set[Target] = set()
        for one in live:
            found = targets(one)
            current.update(found)
            errors = [error for error in (self._read(target) for target in found) if error]
            if errors and len(errors) == len(found):
                self._context.coverage.report(self.source, failing(errors[0]), one.session)
            elif found:
                self._context.coverage.report(self.source, OK, one.session)
        for target in [target for target in self._pages if target not in current]:
            del self._pages[target]

    def _read(self, target: Target) -> str:
        page = self._pages.get(target)
        if page is None:
            attributes: dict[str, Value] = {names.SESSION: target.session}
            if target.node:
                attributes[names.RAY_NODE] = target.node
            page = self._pages[target] = Page(attributes)
        host, _, port = target.address.rpartition(":")
        link = connection("http", host, int(port), 3.0)
        try:
            link.request("GET", "/metrics")
            response = link.getresponse()
            body = response.read(PAGE_LIMIT + 1)
            if response.status != 200 or len(body) > PAGE_LIMIT:
                return f"Ray's metrics port {target.address} answers {response.status}"
        except (OSError, HTTPException) as error:
            return f"Ray's metrics port {target.address} does not answer ({error})"
        finally:
            link.close()
        points = page.parse(body.decode("utf-8", "replace"))
        with self._lock:
            self._ready += points
            self._lost += page.lost
        return ""


def targets(one: RaySession) -> list[Target]:
    """The ports of a session on this machine: one per raylet, and on the head dashboard and autoscaler."""
    found: dict[str, Target] = {}
    hosts = {"127.0.0.1", "localhost"}
    for raylet in one.nodes:
        port = _text(os.path.join(one.folder, f"metrics_export_port_{raylet.node}"))
        if port.isdecimal() and raylet.address:
            hosts.add(raylet.address)
            address = f"{raylet.address}:{port}"
            found[address] = Target(address, one.session, raylet.node)
    if one.head:
        try:
            groups = json.loads(
                _text(os.path.join(one.folder, "prom_metrics_service_discovery.json")) or "[]"
            )
            for address in [str(target) for group in groups for target in group["targets"]]:
                host, _, port = address.rpartition(":")
                if host in hosts and port.isdecimal():
                    found.setdefault(address, Target(address, one.session, ""))
        except (ValueError, KeyError, TypeError):
            pass
    return list(found.values())


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 20).strip()
    except OSError:
        return ""
