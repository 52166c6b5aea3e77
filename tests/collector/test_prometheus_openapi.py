"""Any request that the description allows, and many that it does not, get an answer that it describes."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("schemathesis")

import schemathesis
import schemathesis.checks
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi import checks as openapi_checks

from misstep.collector.prometheus.description import document

SCHEMA = schemathesis.openapi.from_dict(document())
OPERATIONS = sorted((path, method) for path, item in document()["paths"].items() for method in item)


@pytest.mark.parametrize(("path", "method"), OPERATIONS, ids=lambda part: part)
def test_answers_are_as_described(collector: Any, path: str, method: str) -> None:
    operation = SCHEMA[path][method.upper()]

    @settings(
        max_examples=12,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.one_of(
            operation.as_strategy(),
            operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE),
        )
    )
    def ask(case: Any) -> None:
        url = collector.addresses["collector"]
        answer = case.call(base_url=url, timeout=60)
        case.validate_response(
            answer,
            checks=[
                schemathesis.checks.not_a_server_error,
                openapi_checks.status_code_conformance,
                openapi_checks.content_type_conformance,
                openapi_checks.response_schema_conformance,
            ],
        )

    ask()


def test_the_description_is_served(collector: Any) -> None:
    found = collector.request("GET", "/api/v1/openapi.json")
    assert found.status == 200 and found.json() == document()
