"""The README's picture is drawn from terminal output, the same bytes each time."""

import json
import xml.etree.ElementTree as xml
from datetime import UTC
from pathlib import Path
from types import ModuleType

import pytest

from misstep.cli.verdict import render

ROOT = Path(__file__).parents[2]
INCIDENT = json.loads((ROOT / "tests" / "data" / "cli" / "incident.json").read_text())


@pytest.fixture
def picture() -> ModuleType:
    import importlib.util

    spec = importlib.util.spec_from_file_location("docs_make_picture", ROOT / "docs" / "make_picture.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_verdict_is_whole_and_the_same_each_time(picture: ModuleType) -> None:
    text = render(INCIDENT, color=True, width=96, zone=UTC)
    drawn = picture.svg(text)
    assert drawn == picture.svg(text)
    root = xml.fromstring(drawn)
    words = " ".join(" ".join(root.itertext()).split())
    for part in ("task tokenize ran out of memory", "killed by the memory monitor, 6.1 GB", "Do now"):
        assert part in words
    assert root.get("aria-label", "").startswith("✗ demo")


def test_colors_and_places(picture: ModuleType) -> None:
    drawn = picture.svg("\x1b[31;1m✗\x1b[0m a  \x1b[2mb\x1b[0m", "t")
    assert 'x="18.0" y="52" textLength="8.4" font-weight="bold" fill="#ff6b68">✗</text>' in drawn
    assert f'fill="{picture.FAINT}">b</text>' in drawn
    assert f'x="{18 + 5 * 8.43:.1f}"' in drawn


def test_nothing_of_the_text_becomes_markup(picture: ModuleType) -> None:
    drawn = picture.svg('<script>"&\x1b]0;t\x07\x1b[2J\x00')
    assert "<script" not in drawn
    xml.fromstring(drawn)
