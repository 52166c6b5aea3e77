"""The encoder against opentelemetry-proto: what we write, the reference implementation reads back the same."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from misstep.agent import otlp
from misstep.agent.series import Series, Sheet, declared

TEXT = st.text(max_size=300)
VALUE = st.one_of(
    TEXT, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.integers(120, 140)
)
NANOS = st.integers(0, 2**63 - 1)
RECORD = st.tuples(NANOS, NANOS, st.integers(0, 24), TEXT, st.dictionaries(TEXT, VALUE, max_size=6), TEXT)
ENVELOPE = otlp.Envelope({"host.name": "n1", "process.pid": 7}, "misstep.agent", "1")


def plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return getattr(value, kind) if kind else ""


def scrub(value: Any) -> Any:
    """Lone surrogates cannot travel; everything else has to."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


@given(st.lists(RECORD, max_size=4))
def test_log_records_read_back_the_same(records: Any) -> None:
    payload = b"".join(
        otlp.log_record(time, observed, severity, otlp.utf8(body), otlp.record_attributes(attributes), event)
        for time, observed, severity, body, attributes, event in records
    )
    request = ExportLogsServiceRequest.FromString(ENVELOPE.request(payload))
    [held] = request.resource_logs
    assert {a.key: plain(a.value) for a in held.resource.attributes} == {"host.name": "n1", "process.pid": 7}
    [scope] = held.scope_logs
    assert (scope.scope.name, scope.scope.version) == ("misstep.agent", "1")
    assert len(scope.log_records) == len(records)
    for read, (time, observed, severity, body, attributes, event) in zip(
        scope.log_records, records, strict=True
    ):
        assert (read.time_unix_nano, read.observed_time_unix_nano) == (time, observed)
        assert read.severity_number == severity
        assert read.body.string_value == scrub(body)
        assert read.event_name == scrub(event)
        assert [(a.key, plain(a.value)) for a in read.attributes] == [
            (scrub(k), scrub(v)) for k, v in attributes.items()
        ]
        for a, value in zip(read.attributes, attributes.values(), strict=True):
            assert type(plain(a.value)) is type(value)


SERIES = st.builds(
    Series,
    st.sampled_from(["a", "b.c", "ray_tasks", "ü"]),
    st.sampled_from(["gauge", "sum"]),
    st.sampled_from(["", "By", "s"]),
    st.dictionaries(st.sampled_from(["x", "y", "z"]), TEXT, max_size=3),
    NANOS,
)
VALUES = st.floats(allow_nan=False)


def read_points(payload: Any) -> Any:
    request = ExportMetricsServiceRequest.FromString(ENVELOPE.request(payload))
    found = []
    for metric in request.resource_metrics[0].scope_metrics[0].metrics:
        kind = metric.WhichOneof("data")
        data = getattr(metric, kind)
        if kind == "sum":
            assert data.is_monotonic
            assert data.aggregation_temporality == 2
        for point in data.data_points:
            attributes = tuple((a.key, plain(a.value)) for a in point.attributes)
            found.append(
                (
                    metric.name,
                    kind,
                    metric.unit,
                    attributes,
                    point.start_time_unix_nano,
                    point.time_unix_nano,
                    point.as_double,
                )
            )
    return found


@given(st.lists(SERIES, min_size=1, max_size=8), st.data())
@settings(max_examples=60)
def test_a_sheet_says_each_tick_what_a_fresh_one_says(series: Any, data: Any) -> None:
    """Three ticks, with the series of the second one shuffled or shortened: patching never shows through."""
    sheet = Sheet()
    for now in (1, 2, 2**60):
        if data.draw(st.booleans()):
            series = data.draw(st.permutations(series))[: data.draw(st.integers(1, len(series)))]
        values = data.draw(st.lists(VALUES, min_size=len(series), max_size=len(series)))
        payload = sheet.encode(now, series, values)
        assert payload == Sheet().encode(now, series, values)
        read = read_points(payload)
        assert len(read) == len(series)
        assert {point[5] for point in read} == {now}
        expected = sorted((one.name, one.kind, value) for one, value in zip(series, values, strict=True))
        assert sorted((point[0], point[1], point[6]) for point in read) == expected


def test_a_stable_sheet_changes_in_times_and_values_only() -> None:
    series = [declared("system.memory.limit"), declared("process.cpu.time", {"process.pid": 7}, start=9)]
    sheet = Sheet()
    first, second = sheet.encode(1, series, [1.0, 2.0]), sheet.encode(2, series, [3.0, 4.0])
    assert len(first) == len(second)
    assert sum(a != b for a, b in zip(first, second, strict=True)) <= 2 * 16
    assert read_points(second) == [
        ("system.memory.limit", "gauge", "By", (), 0, 2, 3.0),
        ("process.cpu.time", "sum", "s", (("process.pid", 7),), 9, 2, 4.0),
    ]


@given(st.integers(0, 2**31), TEXT)
def test_partial_success_is_understood(count: Any, message: Any) -> None:
    message = scrub(message)
    answer = ExportLogsServiceResponse(
        partial_success=ExportLogsPartialSuccess(rejected_log_records=count, error_message=message)
    )
    assert otlp.rejected(answer.SerializeToString()) == (count, message)


@given(st.binary(max_size=200))
def test_any_answer_can_be_read(answer: Any) -> None:
    count, message = otlp.rejected(answer)
    assert count >= 0 or message is not None


def test_foreign_keys_do_not_pile_up() -> None:
    for number in range(10_000):
        otlp.attribute(0x32, f"label-{number}", "x")
    assert len(otlp._KEYS) <= otlp._KEYS_LIMIT
