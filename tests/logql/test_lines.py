"""Selectors, filters and parsers over stored lines; what SQL selects by, Python shows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from misstep.core.errors import InputError
from misstep.store import loki


@pytest.fixture(scope="module")
def stored(lines: Any) -> Any:
    as_json = [
        {"ts": 1000 + i, "body": json.dumps({"a": {"b": i}, "c_d": f"x{i % 3}", "ok": True, "list": [{"n": i}], "é": 1}),
         "severity": 17 if i % 10 == 0 else 9, "attributes": {"process.pid": str(i % 4)}}
        for i in range(40)
    ]  # fmt: skip
    as_logfmt = [
        {"ts": 2000 + i, "body": f'level=warn took={i * 100}ms msg="say \\"hi\\" level=b" key.x={i} flag size={i}KiB',
         "attributes": {"log.file.path": "/x/y.log"}}
        for i in range(20)
    ]  # fmt: skip
    event = {
        "ts": 3000, "event": "ray.node.lifecycle",
        "attributes": {"misstep.session": "s/ray/x/1", "misstep.entity": "ray_node/aa", "misstep.state": "DEAD"},
    }  # fmt: skip
    lines.send(*as_json, *as_logfmt, event)
    lines.send({"ts": 4000, "body": "Plain text (1)\nsecond line"}, resource={"host.name": "n2"})
    return lines


@pytest.mark.parametrize(
    ("query", "number"),
    [
        ("{}", 62),
        ('{host_name="n2"}', 1),
        ('{host.name!="n2"}', 61),
        ('{host_name=~"n."}', 62),
        ('{host_name=~"n"}', 0),
        ('{service_name=""}', 1),
        ('{level="error"}', 4),
        ('{detected_level="error"}', 4),
        ('{level!~"error|info"}', 0),
        ('{event="ray.node.lifecycle", entity_kind="ray_node"}', 1),
        ('{event!=""}', 1),
        ('{session="s/ray/x/1"}', 1),
        ('{process_pid="3"}', 10),
        ('{nothing="x"}', 0),
        ('{} | entity="ray_node/aa" | state="DEAD"', 1),
        ('{} |= "took=" |= "00ms"', 19),
        ('{} |= "Plain" or "took=300ms"', 2),
        ('{} != "took" != "c_d"', 2),
        ('{} != "took" or "c_d"', 2),
        ('{} |~ "took=1[0-4]00ms"', 5),
        ('{} !~ "took|c_d"', 2),
        ('{} |~ "(?i)PLAIN"', 1),
        ('{} |~ "^second"', 0),
        ('{} |= ""', 62),
        ('{} | json | a_b > 37', 2),
        ('{} | json | a_b >= 1e1 and a_b != 12 | a_b < 20', 9),
        ('{} | json | c_d="x1"', 13),
        ('{} | json | (c_d="x1" or c_d="x2") and ok="true"', 26),
        ('{} | json | list="x"', 0),
        ('{} | json | a=~".+"', 0),
        ('{} | json n="list[0].n", b="a.b" | n = 5 | b="5"', 1),
        ('{} | json | __error__=""', 40),
        ('{} | json | __error__!=""', 22),
        ('{} | logfmt | took > 1.5s', 4),
        ('{} | logfmt | took <= 200ms', 3),
        ('{} | logfmt | size > 18000B', 2),
        ('{} | logfmt | key_x="7"', 1),
        ('{} | logfmt | level_extracted="warn"', 20),
        ('{} | logfmt | level="warn"', 0),
        ('{} | logfmt | level="b"', 0),
        ('{} | logfmt m="msg" | m="say \\"hi\\" level=b"', 20),
        ('{} | logfmt | missing > 5', 0),
        ('{} | regexp "took=(?P<n>[0-9]+)ms" | n > 1800', 1),
        ('{} | pattern "level=<lv> took=<t> <_>" | t="300ms" | lv="warn"', 1),
        ('{} | line_format "{{.process_pid}}-{{.level}}" |= "2-error"', 2),
        ('{} | label_format who=host_name, x="{{.host_name}}!" | who="n2" | x="n2!"', 1),
        ('{} | drop process_pid | process_pid!=""', 0),
        ('{} | keep process_pid | host_name!=""', 0),
        ('{} | json | drop c_d | c_d != ""', 0),
        ('{event="ray.node.lifecycle"} |= "ray.node.lifecycle DEAD"', 1),
    ],
)  # fmt: skip
def test_what_is_selected(stored: Any, query: str, number: int) -> None:
    assert len(stored.ask(query)) == number


def test_labels_of_a_line(stored: Any) -> None:
    (line,) = stored.ask('{event="ray.node.lifecycle"}')
    assert line.stream == {
        "session": "s/ray/x/1", "event": "ray.node.lifecycle", "entity_kind": "ray_node", "level": "info",
        "host_name": "n1", "service_name": "web",
    }  # fmt: skip
    assert line.metadata == {"entity": "ray_node/aa", "state": "DEAD", "os_type": "linux"}
    (line,) = stored.ask('{} | logfmt | key_x="7"')
    assert line.parsed == {
        "level_extracted": "warn", "took": "700ms", "msg": 'say "hi" level=b', "key_x": "7", "size": "7KiB",
    }  # fmt: skip
    (line,) = stored.ask('{} | json | a_b=5 | line_format "{{.c_d}}"')
    assert (line.line, line.parsed["a_b"], line.parsed["ok"]) == ("x2", "5", "true")


def test_order_and_limit(stored: Any) -> None:
    newest = stored.ask("{}", limit=3, newest=True)
    assert [entry.ts // 10**9 for entry in newest] == [4000, 3000, 2019]
    oldest = stored.ask("{}", limit=3)
    assert [entry.ts // 10**9 for entry in oldest] == [1000, 1001, 1002]
    with pytest.raises(InputError, match="limit"):
        stored.ask("{}", limit=100_000)


def test_labels_values_streams_and_sizes(stored: Any) -> None:
    view, whole = stored.view(), {"start": 0, "end": 10**13}
    assert loki.label_names(view, "", **whole) == [
        "entity_kind", "event", "host_name", "level", "log_file_path", "service_name", "session",
    ]  # fmt: skip
    assert loki.label_values(view, "host.name", "", **whole) == ["n1", "n2"]
    assert loki.label_values(view, "process_pid", '{level="error"}', **whole) == ["0", "2"]
    assert loki.label_values(view, "none", "", **whole) == []
    assert len(loki.streams(view, '{host_name="n1"}', **whole)) == 4
    found = loki.stats(view, '{host_name="n2"}', **whole)
    assert found == (1, 1, len("Plain text (1)\nsecond line"))
    fields = {field.name: (field.kind, field.parsers) for field in loki.fields(view, "{}", **whole)}
    assert fields["a_b"] == ("int", ("json",))
    assert fields["took"] == ("string", ("logfmt",))
    assert fields["process_pid"] == ("int", ())


@pytest.mark.parametrize(
    "query",
    [
        '{} |~ "("',
        '{} |~ "a{2000}"',
        '{x=~"*"}',
        '{} | regexp "(?P<a>x"',
        "{} " + '| label_format a="{{.a}}{{.a}}{{.a}}{{.a}}"' * 20,
    ],
)
def test_what_explodes_is_refused_and_the_next_is_served(stored: Any, query: str) -> None:
    with pytest.raises(InputError):
        stored.ask(query)
    assert len(stored.ask('{host_name="n2"}')) == 1


def test_quotes_and_braces_are_data(stored: Any) -> None:
    for text in ("'; DROP TABLE logs; --", "{logs}", "{}", "$1", "%s", "\\", "\x00"):
        quoted = json.dumps(text) if text != "\x00" else '"\\x00"'
        assert stored.ask(f"{{a={quoted}}}") == []
        stored.ask(f"{{}} |= {quoted} | json | x={quoted} | line_format {quoted}")
    assert len(stored.ask("{}")) == 62


NAMES = st.text(st.sampled_from("ab_"), min_size=1, max_size=4).filter(lambda n: n.strip("_") == n)
VALUES = (
    st.integers(-5, 5)
    | st.booleans()
    | st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=5)
)
TREES = st.recursive(VALUES, lambda inner: st.dictionaries(NAMES, inner, max_size=3), max_leaves=5)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(NAMES, TREES, min_size=1, max_size=3), min_size=1, max_size=4))
def test_json_is_filtered_by_what_is_shown(lines: Any, trees: list[dict[str, Any]]) -> None:
    """Every label that a line shows selects that line."""
    global _number
    _number += 1
    key = f"json{_number}"
    lines.send(*({"ts": 1000, "body": json.dumps(tree), "attributes": {"case": key}} for tree in trees))
    for shown in lines.ask(f'{{case="{key}"}} | json'):
        for name, value in shown.parsed.items():
            if name.count("_") > 5:
                continue  # the manual says that nesting is not looked for beyond that
            same = lines.ask(f'{{case="{key}"}} | json | {name}={json.dumps(value, ensure_ascii=False)}')
            assert shown.line in [entry.line for entry in same]


PAIRS = st.dictionaries(
    NAMES, st.text(st.sampled_from('a b="\\x'), min_size=1, max_size=6), min_size=1, max_size=4
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PAIRS)
def test_logfmt_is_filtered_by_what_is_shown(lines: Any, pairs: dict[str, str]) -> None:
    global _number
    _number += 1
    key = f"logfmt{_number}"
    body = " ".join(
        '{}="{}"'.format(k, v.replace("\\", "\\\\").replace('"', '\\"')) for k, v in pairs.items()
    )
    lines.send({"ts": 1000, "body": body, "attributes": {"case": key}})
    (shown,) = lines.ask(f'{{case="{key}"}} | logfmt')
    assert shown.parsed == pairs
    for name, value in shown.parsed.items():
        assert (
            len(lines.ask(f'{{case="{key}"}} | logfmt | {name}={json.dumps(value, ensure_ascii=False)}')) == 1
        )


_number = 0
