"""The namespace is spread over several folders; these keep it whole, in a checkout and in the wheel."""

import ast
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from misstep.cli.main import COMMANDS, EXTRAS

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HATCH = PROJECT["tool"]["hatch"]["build"]
ROOTS = HATCH["dev-mode-dirs"]


def test_no_portion_claims_the_namespace() -> None:
    assert not list(ROOT.glob("*/misstep/__init__.py"))


def test_every_portion_ships_in_wheel_and_editable() -> None:
    on_disk = sorted(p.parent.name for p in ROOT.glob("*/misstep") if p.is_dir())
    assert sorted(ROOTS) == on_disk
    assert sorted(HATCH["targets"]["wheel"]["packages"]) == [f"{r}/misstep" for r in on_disk]
    assert set(HATCH["targets"]["sdist"]["only-include"]) >= set(on_disk)


def test_every_portion_is_known_to_the_tools() -> None:
    tool = PROJECT["tool"]
    assert tool["mypy"]["mypy_path"] == ROOTS
    assert set(tool["mypy"]["files"]) >= set(ROOTS)
    assert tool["ruff"]["src"] == ROOTS


@pytest.mark.parametrize("room", ROOTS)
def test_every_portion_is_typed_and_holds_one_room(room: str) -> None:
    portion = ROOT / room / "misstep"
    assert (portion / room / "py.typed").is_file()
    assert [p.name for p in portion.iterdir() if p.name != "__pycache__"] == [room]


@pytest.mark.parametrize("room", ROOTS)
def test_every_room_says_what_does_not_belong_in_it(room: str) -> None:
    package = ROOT / room / "misstep" / room / "__init__.py"
    docstring = ast.get_docstring(ast.parse(package.read_text())) or ""
    assert len(docstring) > 60
    assert any(word in docstring.lower() for word in ("no ", "never", "nothing", "not ")), docstring


def test_a_stray_init_would_be_fatal(tmp_path: Path) -> None:
    """What the first test guards against, shown on two portions of a namespace of its own."""
    for room in ("one", "two"):
        (tmp_path / room / "portions" / room).mkdir(parents=True)
        (tmp_path / room / "portions" / room / "__init__.py").touch()
    code = f"import sys; sys.path[:0] = [{str(tmp_path / 'one')!r}, {str(tmp_path / 'two')!r}]\nimport portions.one, portions.two"
    run = [sys.executable, "-c", code]
    assert subprocess.run(run, check=False).returncode == 0
    (tmp_path / "one" / "portions" / "__init__.py").touch()
    assert subprocess.run(run, check=False, stderr=subprocess.DEVNULL).returncode == 1


def test_the_agent_installs_no_module_that_it_imports() -> None:
    assert PROJECT["project"]["dependencies"] == ["py-spy>=0.4.1"]  # a program


def test_every_extra_that_is_named_exists() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    assert {*EXTRAS.values(), "all"} <= set(extras)
    for module, extra in EXTRAS.items():
        assert _brings(extras, extra, module.replace("_", "-")), f"misstep[{extra}] does not bring {module}"


def test_the_command_is_installed_under_its_name() -> None:
    assert PROJECT["project"]["scripts"] == {"misstep": "misstep.cli.main:main"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_module(command: str) -> None:
    source = ROOT / "cli" / "misstep" / "cli" / "commands" / f"{command}.py"
    tree = ast.parse(source.read_text())
    functions = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
    assert {"prepare", "run"} <= functions
    assert ast.get_docstring(tree)


@pytest.mark.parametrize("room", ROOTS)
def test_no_file_is_too_long(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 500, f"split {path.relative_to(ROOT)}"


def _brings(extras: dict[str, list[str]], extra: str, package: str) -> bool:
    for line in extras[extra]:
        name = line.partition(" ")[0]
        if name.startswith("misstep["):
            inner = name.removeprefix("misstep[").rstrip("]").split(",")
            if any(_brings(extras, i, package) for i in inner):
                return True
        elif name.lower().startswith(package):
            return True
    return False


def test_the_wheel_holds_every_room(tmp_path: Path) -> None:
    """Built as pip builds it; what lies beside the packages (the hook, runbooks of the lab) must be in it too."""
    wheel = pytest.importorskip("hatchling.builders.wheel")
    built = next(wheel.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    with zipfile.ZipFile(built) as file:
        shipped = set(file.namelist())
    assert "misstep/__init__.py" not in shipped
    for room in ROOTS:
        folder = ROOT / room
        sources = {
            str(p.relative_to(folder))
            for p in folder.rglob("*")
            if p.is_file() and p.suffix in (".py", ".typed")
        }
        assert sources <= shipped


def test_the_makefile_installs_every_test_tool() -> None:
    # pip learnt to read dependency groups in 25.1, and a fresh Python 3.11 brings an older one.
    named = [tool.split(">=")[0] for tool in PROJECT["dependency-groups"]["dev"]]
    makefile = (ROOT / "Makefile").read_text()
    assert [name for name in named if f"'{name}>=" not in makefile] == []
