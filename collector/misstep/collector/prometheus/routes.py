"""The routes of Prometheus' API."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from misstep.collector.api.operation import Context
from misstep.collector.dialect import Answer, Dialect, Question, Route
from misstep.collector.prometheus import catalog, render
from misstep.collector.prometheus.errors import OUT_OF_TIME, PrometheusRefusal, refused, shape
from misstep.collector.prometheus.parameters import duration, limit, moment, now, query_text, warnings
from misstep.core.clock import SECOND
from misstep.store.promql import query
from misstep.store.promql.errors import QueryError
from misstep.store.promql.evaluate import Options
from misstep.store.promql.parse import parse

PREFIX = "/api/v1"
SECONDS_LIMIT = 120.0
"""Of one query, as in Prometheus."""
AT_ONCE = 20
"""Queries that are answered at the same time, as in Prometheus; more wait."""


def dialect(context: Context, *, seconds: float = SECONDS_LIMIT) -> Dialect:
    """Prometheus' API over what the context has."""
    both = {
        "query": _timed(_query),
        "query_range": _timed(_query_range),
        "query_exemplars": catalog.exemplars,
        "series": catalog.series,
        "labels": catalog.labels,
        "format_query": _format,
    }
    reads = {
        "label/{name}/values": catalog.label_values,
        "metadata": catalog.metadata,
        "rules": catalog.rules,
        "alerts": catalog.alerts,
        "status/buildinfo": catalog.buildinfo,
    }
    allowed = _allowed(seconds)
    routes = [Route(f"{PREFIX}/{path}", _guarded(handler), seconds=allowed) for path, handler in both.items()]
    routes += [Route(f"{PREFIX}/{path}", _guarded(handler), ("GET",)) for path, handler in reads.items()]
    routes.append(Route(f"{PREFIX}/openapi.json", catalog.description, ("GET",)))
    return Dialect(
        [f"{PREFIX}/"], routes, context, shape, seconds=seconds, threads=AT_ONCE, timeout_status=503
    )


def _query(question: Question, options: Options) -> Iterator[bytes]:
    most = limit(question)
    time = moment(question, "time", now(question))
    found = query.instant(question.view(), query_text(question), time, options)
    return render.answer(found, most, warnings(question))


def _query_range(question: Question, options: Options) -> Iterator[bytes]:
    most = limit(question)
    start, end, step = moment(question, "start"), moment(question, "end"), duration(question, "step")
    found = query.range_(question.view(), query_text(question), start, end, step, options)
    return render.answer(found, most, warnings(question))


def _format(question: Question) -> Answer:
    import promql_parser

    text = query_text(question)
    parse(text)
    return Answer(render.document(promql_parser.parse(text).prettify()))


def _timed(run: Callable[[Question, Options], Iterator[bytes]]) -> Callable[[Question], Answer]:
    """A query that can be ended: DuckDB is interrupted, and numpy is asked between its steps."""

    def handle(question: Question) -> Answer:
        def check() -> None:
            if question.expired:
                raise QueryError("timeout", OUT_OF_TIME)

        options = Options(
            lookback=max(duration(question, "lookback_delta", Options.lookback), 1), check=check
        )
        with np.errstate(all="ignore"):
            return Answer(run(question, options))

    return handle


def _allowed(most: float) -> Callable[[Question], float]:
    """Seconds that a query may take: those that it says itself, up to a limit."""

    def allowed(question: Question) -> float:
        asked = duration(question, "timeout", round(most * SECOND)) / SECOND
        if asked <= 0:
            raise PrometheusRefusal("timeout", OUT_OF_TIME)
        return min(asked, most)

    return allowed


def _guarded(handler: Callable[[Question], Answer]) -> Callable[[Question], Answer]:
    """Errors of queries in this API's words."""

    def handle(question: Question) -> Answer:
        try:
            return handler(question)
        except QueryError as error:
            raise refused(error) from error
        except (MemoryError, RecursionError) as error:
            raise PrometheusRefusal("execution", "the query needs more memory than there is") from error

    return handle
