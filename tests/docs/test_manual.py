"""The manual is held to the code: what exists is documented, and what is documented exists."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from misstep.cli.main import COMMANDS, main
from misstep.core import names, settings
from misstep.core.exits import Exit

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


def load(name: str) -> ModuleType:
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def page(name: str) -> str:
    return (DOCS / f"{name}.md").read_text()


def test_generated_parts_are_up_to_date() -> None:
    generate = load("generate")
    stale = [p.name for p in DOCS.glob("*.md") if generate.regenerate(p.read_text()) != p.read_text()]
    assert not stale, "run: python docs/generate.py"


@pytest.mark.parametrize("key", settings.keys())
def test_every_setting_is_documented(key: str) -> None:
    name = key.rpartition(".")[2]
    variable = "MISSTEP_" + key.upper().replace(".", "_")
    row = re.search(rf"^\| `{name}` \| .* \| `{variable}` \| (.+) \|$", page("configuration"), re.MULTILINE)
    assert row is not None
    assert len(row[1]) > 10


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented_with_its_arguments(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    section = page("commands").partition(f"### `misstep {command}`\n")[2].partition("\n### ")[0]
    main([command, "--help"])
    printed = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help"}
    assert section
    assert printed <= set(re.findall(r"--[a-z][a-z-]+", section))


@pytest.mark.parametrize("event", names.EVENTS, ids=lambda e: e.name)
def test_every_event_is_documented(event: names.Event) -> None:
    assert f"| `{event.name}` | {event.subject} |" in page("names")


@pytest.mark.parametrize("metric", names.METRICS, ids=lambda m: m.name)
def test_every_metric_is_documented(metric: names.Metric) -> None:
    assert f"| `{metric.name}` | {metric.kind} | `{metric.unit}` |" in page("names")


def test_every_exit_code_is_documented() -> None:
    table = page("commands").partition("## Exit codes")[2]
    assert all(f"| {code.value} | " in table for code in Exit)


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file) if file else path
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in headings]
            assert anchor in slugs, target


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_in_the_text_exist(path: Path) -> None:
    code = "\n".join(re.findall(r"`+[^`]+`+", path.read_text()))
    used = set(re.findall(r"(?:^|(?<!from)[`\s(])misstep ([a-z]+)\b", code))
    assert used <= {*COMMANDS, "collector", "agent"}, path


def test_the_two_commands_of_the_readme_are_targets() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for command in ("make demo", "make test"):
        assert f"\n{command} " in (ROOT / "README.md").read_text()
        assert f"\n{command.removeprefix('make ')}:" in makefile


def test_default_ports_are_the_documented_ones() -> None:
    default = settings.Settings()
    assert f"{default.collector.port} (API), {default.collector.otlp_port} (OTLP" in page("install")
    assert f"{default.agent.receiver_port} (agent)" in page("install")


def test_the_runbooks_are_those_of_the_catalogue() -> None:
    from misstep.diagnosis.entries import CAUSES

    written = {p.stem for p in (DOCS / "causes").glob("*.md")}
    assert {cause.id for cause in CAUSES} == written
    for cause in CAUSES:
        text = (ROOT / cause.runbook).read_text()
        for heading in ("Meaning", "Impact", "Diagnosis", "Mitigation"):
            assert f"\n## {heading}\n" in text, (cause.id, heading)
