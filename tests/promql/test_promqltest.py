"""The Prometheus project's own scripts, read where they lie beside the repository, and one of ours."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.promql.runner import EXPERIMENTAL, run
from tests.promql.script import NATIVE, read

HERE = Path(__file__).parent
SUITE = HERE.parents[1].parent / "shared" / "promqltest"
SCRIPTS = sorted(SUITE.glob("*.test")) if SUITE.is_dir() else []


def test_language() -> None:
    found = run(read(HERE / "data" / "basics.test"))
    assert [(o.line, o.text, o.failure) for o in found if o.failure] == []
    assert len(found) == 17 and not any(o.skipped for o in found)


@pytest.mark.skipif(
    not SCRIPTS, reason="the scripts of the Prometheus project are not beside this repository"
)
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_suite(script: Path) -> None:
    found = run(read(script))
    skipped = Counter(o.skipped for o in found if o.skipped)
    failed = [(o.line, o.text, o.failure) for o in found if o.failure]
    passed = len(found) - skipped.total() - len(failed)
    print(f"{script.name}: {passed} passed, {len(failed)} failed, skipped {dict(skipped)}")
    assert failed == []
    assert set(skipped) <= {NATIVE, EXPERIMENTAL}
    assert passed > skipped.total() or script.stem == "histograms"
