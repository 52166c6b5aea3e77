"""The names are a contract: these hold what everything else relies on."""

import pytest

from misstep.core import names
from misstep.core.identity import ENTITY_KINDS


def test_names_are_declared_once() -> None:
    for declared in (names.EVENTS, names.METRICS):
        found = [each.name for each in declared]
        assert len(found) == len(set(found))


@pytest.mark.parametrize("event", names.EVENTS, ids=lambda e: e.name)
def test_events(event: names.Event) -> None:
    assert event.subject in (*ENTITY_KINDS, "")
    assert event.meaning
    assert event.name == event.name.lower()
    assert set(event.ends) <= set(event.states)
    assert names.event(event.name) is event


@pytest.mark.parametrize("metric", names.METRICS, ids=lambda m: m.name)
def test_metrics(metric: names.Metric) -> None:
    assert metric.kind in ("gauge", "sum")
    assert metric.unit
    assert metric.meaning
    assert names.metric(metric.name) is metric


def test_nobody_declared_it() -> None:
    with pytest.raises(KeyError):
        names.event("ray.nothing")
    with pytest.raises(KeyError):
        names.metric("system.nothing")
