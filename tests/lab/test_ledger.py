from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from misstep.core.errors import SettingsError
from misstep.core.identity import ENTITY_KINDS
from misstep.lab import pipeline, scenarios, training
from misstep.lab.cases.ledger import CASES, SCRIPTS
from misstep.lab.scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]
RUNBOOKS = {path.stem for path in (ROOT / "docs" / "causes").glob("*.md")}


@pytest.mark.parametrize("name", [name for name, s in SCENARIOS.items() if s.blame])
def test_the_cause_of_each_scenario_has_a_runbook(name: str) -> None:
    blame = SCENARIOS[name].blame
    assert blame is not None
    assert blame.cause in RUNBOOKS
    assert blame.kind in ENTITY_KINDS


def test_the_causes_of_the_corpus_have_runbooks() -> None:
    assert {case.cause for case in CASES.values() if case.cause} <= RUNBOOKS


def test_every_script_stands_in_the_ledger_and_every_entry_has_its_script() -> None:
    assert {path.stem for path in SCRIPTS.glob("*.py")} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_a_case_is_sound(name: str) -> None:
    case = CASES[name]
    ast.parse(case.script.read_text())
    assert bool(case.cause) == bool(case.entities), "a cause needs somebody to blame, silence nobody"
    assert all(kind in ENTITY_KINDS for kind, _ in case.entities)
    assert not (case.hangs and case.interrupt)


def test_an_unknown_scenario_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="oom, crash"):
        scenarios.find("flood")


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_recipe_has_only_what_the_pipeline_knows_and_does_not_name_the_fault(name: str) -> None:
    scenario = SCENARIOS[name]
    script = training.TRAIN if scenario.ranks else pipeline.PIPELINE
    assert set(scenario.recipe) <= set(_defaults(script))
    if scenario.blame is not None:
        seen = f"{script} {dict(scenario.recipe)}"
        assert name not in seen and scenario.blame.cause not in seen


@pytest.mark.parametrize("script", [pipeline.PIPELINE, training.TRAIN], ids=lambda path: path.name)
def test_the_workloads_do_not_speak_of_faults(script: Path) -> None:
    words = set(re.findall(r"[a-z-]+", script.read_text().lower()))
    causes = {scenario.blame.cause for scenario in SCENARIOS.values() if scenario.blame}
    assert not words & {"fault", "inject", "injected", "scenario", *causes}


def _defaults(script: Path) -> dict[str, object]:
    tree = ast.parse(script.read_text())
    (values,) = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "DEFAULTS"
    ]
    return dict(ast.literal_eval(values))
