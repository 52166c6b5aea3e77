"""PromQL beside Prometheus and VictoriaMetrics: the same data in each, the same questions, in turn, several times.

run: python -m bench.query [--runs N] [--only TEXT] [--json FILE]

Loaded as OTLP, all ending at the same time: 16,000 series (50 nodes, 40 metrics, 8 GPUs) and 400 histograms, 250 points
15 s apart; 10,000 series over 24 h, a point every 240 s; 100,000 series, three points 60 s apart. Asked first of what has
just come in, then once more after a restart of each server, Misstep with nothing kept in memory. Cold is the first answer,
warm the median of the rest. The time is the asker's, from request to last byte.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from bench import load, peers
from bench.ingest import run
from bench.load import Fleet, Shape

STEP, POINTS, STEPS = 15, 250, 240
_FIRST = load.START // load.SECOND
_LAST = _FIRST + (POINTS - 1) * STEP
_END = _LAST + STEP // 2
"""No step falls on a sample: the peers round its time to milliseconds, and then it may lie on the other side."""
_START = _END - (STEPS - 1) * STEP
_DAY_STEP, _DAY_POINTS = 240, 360
_DAY = Fleet("bench_day", 25, (_LAST - (_DAY_POINTS - 1) * _DAY_STEP) * load.SECOND)
_WIDE = Fleet("bench_wide", 250, (_LAST - 120) * load.SECOND)


_ROUNDED = 1e-5
"""By what answers may differ: the peers round times to milliseconds, which shows in a rate over five minutes."""


class Question(NamedTuple):
    """A query and the range that it is asked for; `span` 0 asks for an instant."""

    name: str
    text: str
    span: int = (STEPS - 1) * STEP
    step: int = STEP


_ALL = '{__name__=~"bench_metric_.*"}'
_ELEVEN = '{__name__=~"bench_metric_(1|5|9|13|17|21|25|29|33|37|2)(_total)?"}'
QUESTIONS = (
    Question("rate of 400 series", 'sum by (node) (rate({__name__=~"bench_metric_1(_total)?"}[5m]))'),
    Question("quantile of 16,000 series", f"quantile by (gpu) (0.95, {_ALL})"),
    Question("max of 16,000 series", f"max by (__name__) ({_ALL})"),
    Question("topk of 4,400 series", f"topk(5, avg_over_time({_ELEVEN}[5m]))"),
    Question(
        "histogram_quantile", "histogram_quantile(0.9, sum by (le, node) (rate(bench_latency_bucket[5m])))"
    ),
    Question(
        "24 h of 10,000 series",
        'avg by (node) ({__name__=~"bench_day_.*"})',
        (_DAY_POINTS - 1) * _DAY_STEP,
        _DAY_STEP,
    ),
    Question("one series, 1 h", 'bench_metric_0{node="node-0007",gpu="3"}'),
    Question("instant of 16,000 series", f"sum by (gpu) ({_ALL})", 0),
    Question("instant of 100,000 series", 'sum by (gpu) ({__name__=~"bench_wide_.*"})', 0),
)


def bodies() -> Iterator[list[bytes]]:
    """What is loaded, one part after the other: the longest range first, for who takes late points unwillingly."""
    yield load.otlp(Shape(10), _DAY.series * _DAY_POINTS, _DAY_STEP, _DAY)
    yield load.otlp(Shape(10), load.SERIES * POINTS, STEP)
    yield list(load.histograms(POINTS, STEP))
    yield load.otlp(Shape(1), _WIDE.series * 3, 60, _WIDE)


def ask(server: peers.Server, question: Question) -> tuple[float, Any]:
    """Seconds to the last byte, and the answer."""
    if question.span:
        times = {"start": _END - question.span, "end": _END, "step": question.step}
        path = "/api/v1/query_range?" + urlencode({"query": question.text, **times, "nocache": 1})
    else:
        path = "/api/v1/query?" + urlencode({"query": question.text, "time": _END})
    started = time.perf_counter()
    status, body = peers.get(server.query_port, path)
    took = time.perf_counter() - started
    if status != 200:
        return took, f"refused ({status}): {body[:200].decode('utf-8', 'replace')}"
    return took, json.loads(body)["data"]["result"]


def agree(one: Any, other: Any) -> bool:
    """Whether two answers have as many series and, summed up, the same values."""
    if isinstance(one, str) or isinstance(other, str):
        return False
    return len(one) == len(other) and abs(_sum(one) - _sum(other)) <= _ROUNDED * max(1.0, abs(_sum(one)))


def _sum(result: list[Any]) -> float:
    return sum(float(v) for series in result for _, v in series.get("values", [series.get("value")]))


def measure(servers: list[peers.Server], runs: int, only: str) -> dict[str, dict[str, list[float]]]:
    """Ask each server each question, in turn."""
    found: dict[str, dict[str, list[float]]] = {}
    for question in QUESTIONS:
        if only not in question.name:
            continue
        times: dict[str, list[float]] = {server.name: [] for server in servers}
        answers: dict[str, Any] = {}
        for _ in range(runs + 1):
            for server in servers:
                took, answers[server.name] = ask(server, question)
                times[server.name].append(took)
        found[question.name] = times
        _print(question, times, answers)
    return found


def _print(question: Question, times: dict[str, list[float]], answers: dict[str, Any]) -> None:
    warm = {name: statistics.median(own[1:]) for name, own in times.items()}
    base = warm.get(peers.VICTORIA)
    print(f"  {question.name}: {question.text}")
    for name, own in times.items():
        answer = answers[name]
        if isinstance(answer, str):
            print(f"    {name:17} {answer}")
            continue
        told = f", {warm[name] / base:.2f} of VictoriaMetrics" if base and name != peers.VICTORIA else ""
        other = answers.get(peers.PROMETHEUS)
        same = "" if name == peers.PROMETHEUS or other is None or isinstance(other, str) else ", same answer as Prometheus" if agree(answer, other) else ", ANOTHER ANSWER than Prometheus"  # fmt: skip
        print(f"    {name:17} cold {own[0] * 1e3:.0f} ms, warm {warm[name] * 1e3:.1f} ms (min {min(own[1:]) * 1e3:.1f}{told}){same}", flush=True)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--only", default="", help="questions whose name contains this")
    parser.add_argument("--servers", default=f"{peers.MISSTEP},{peers.VICTORIA},{peers.PROMETHEUS}")
    parser.add_argument("--json", type=Path, help="write all raw figures to this file")
    options = parser.parse_args()
    head = b"Content-Type: application/x-protobuf\r\n"
    raw: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="misstep-bench-") as held:
        folder = Path(held)
        binaries = peers.find(folder)
        names = [n for n in options.servers.split(",") if n == peers.MISSTEP or n in binaries]
        print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; {peers.versions(binaries)}")
        for phase, kept in (("in memory", "1073741824"), ("sealed, after a restart", "0")):
            environment = {"MISSTEP_STORE_HOT_BYTES": kept}
            with ExitStack() as stack:
                servers = [
                    stack.enter_context(
                        peers.start(name, binaries, folder / name, environment, again=phase != "in memory")
                    )
                    for name in names
                ]
                if phase == "in memory":
                    for part in bodies():
                        for server in servers:
                            run(server, server.otlp, part, head, 1)
                print(f"\n{phase}")
                raw[phase] = measure(servers, options.runs, options.only)
    if options.json:
        options.json.write_text(json.dumps(raw, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
