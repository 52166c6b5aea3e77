"""Resources that are asked for and not given, from what Ray's dashboard says of its cluster.

`/api/cluster_status?format=1` is read as text: the JSON form mangles resource names into camelCase.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_PENDING = re.compile(
    r"^ *(\{.*?\})(?: \* (\d+))?(?: \((\w+)\))?: (\d+)\+? (pending tasks/actors|pending placement groups|from request_resources.*)$"
)
_PAIR = re.compile(r"'((?:[^'\\]|\\.)*)': ([0-9.eE+-]+)")
_USAGE = re.compile(r"^ ([0-9.]+)([KMGT]?i?B?)/([0-9.]+)([KMGT]?i?B?) (\S+)")
_UNITS = {"": 1.0, "B": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40}
_INTERNAL = re.compile(r"^(?:node:|bundle_group_|\w+_group_)")


class Demand(NamedTuple):
    """Tasks, actors or bundles that wait for the same resources.

    Attributes:
        resources: what one of them asks for.
        bundles: how many such bundles one group asks for; 1 for tasks and actors.
        waiting: how many wait; Ray may say "N or more".
        what: ``tasks_or_actors``, ``placement_groups`` or ``request``.
    """

    resources: dict[str, float]
    bundles: int
    strategy: str
    waiting: int
    what: str


def parse(text: str) -> tuple[list[Demand], dict[str, tuple[float, float]]]:
    """Pending demands, and (used, total) by resource, from the text that `ray status` prints."""
    demands: list[Demand] = []
    usage: dict[str, tuple[float, float]] = {}
    for line in text.splitlines():
        match = _PENDING.match(line)
        if match:
            resources = {name: float(number) for name, number in _PAIR.findall(match.group(1))}
            what = {"t": "tasks_or_actors", "p": "placement_groups"}.get(match.group(5)[8:9], "request")
            demands.append(
                Demand(resources, int(match.group(2) or 1), match.group(3) or "", int(match.group(4)), what)
            )
            continue
        used = _USAGE.match(line)
        if used and used.group(2) in _UNITS and used.group(4) in _UNITS:
            usage[used.group(5)] = (
                float(used.group(1)) * _UNITS[used.group(2)], float(used.group(3)) * _UNITS[used.group(4)],
            )  # fmt: skip
    return demands, usage


def body(
    demands: Sequence[Demand], usage: Mapping[str, tuple[float, float]], nodes: Sequence[Mapping[str, Any]]
) -> str:
    """What a ``ray.demand`` event carries.

    Args:
        nodes: elements of ``/api/v0/nodes``; those that are not ALIVE do not count.

    Returns:
        JSON ``{"pending": [{"resources", "bundles", "strategy", "waiting", "what", "fits", "lacking"}], "nodes": [{"id",
        "name", "resources"}], "usage": {resource: [used, total]}}``. ``fits`` says whether some node could hold it if it
        were empty; ``lacking`` names per resource what was asked and the most that any node has.
    """
    alive = [node for node in nodes if node.get("state") == "ALIVE"]
    totals: list[dict[str, float]] = [dict(node.get("resources_total") or {}) for node in alive]
    pending = []
    for one in demands:
        lacking = {
            name: {"asked": asked, "most": max((total.get(name, 0.0) for total in totals), default=0.0)}
            for name, asked in one.resources.items()
            if all(total.get(name, 0.0) < asked for total in totals)
        }
        fits = any(
            all(total.get(name, 0.0) >= asked for name, asked in one.resources.items()) for total in totals
        )
        pending.append(one._asdict() | {"fits": fits, "lacking": lacking})
    shown = [
        {
            "id": node.get("node_id"),
            "name": node.get("node_name"),
            "resources": {k: v for k, v in total.items() if not _INTERNAL.match(k)},
        }
        for node, total in zip(alive, totals, strict=True)
    ]
    held = {name: list(pair) for name, pair in sorted(usage.items()) if not _INTERNAL.match(name)}
    return json.dumps(
        {"pending": pending, "nodes": shown, "usage": held}, separators=(",", ":"), sort_keys=True
    )
