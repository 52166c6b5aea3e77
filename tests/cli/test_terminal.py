import io
from typing import Any

import pytest

from misstep.cli.terminal import clean, plain, terminal


class Tty(io.TextIOWrapper):
    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding)

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def test_colors_only_on_a_terminal() -> None:
    assert terminal(Tty()).color
    assert not terminal(io.StringIO()).color


@pytest.mark.parametrize(
    ("variables", "color"),
    [
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": ""}, True),
        ({"TERM": "dumb"}, False),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
    ],
)
def test_environment_decides(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], color: bool) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert terminal(Tty()).color is color


def test_force_color_reaches_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert terminal(io.StringIO()).color


def test_encoding_decides_about_glyphs() -> None:
    assert terminal(Tty("utf-8")).unicode
    assert not terminal(Tty("latin-1")).unicode


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07a", "a"),
        ("\x1b]52;c;c2VjcmV0\x1b\\a", "a"),
        ("\x1bP1;2q\x1b\\a", "a"),
        ("a\x1b]0;never closed", "a"),
        ("\x9b31ma", "a"),
        ("a\u202egnp.exe", "agnp.exe"),
        ("zero\u200bwidth", "zerowidth"),
        ("over\rwritten", "overwritten"),
        ("a\tb", "a    b"),
        ("two\nlines", "two lines"),
        ("größer als 你好 ✓", "größer als 你好 ✓"),
    ],
)
def test_clean(raw: str, shown: str) -> None:
    assert clean(raw) == shown


def test_clean_keeps_lines_where_asked() -> None:
    assert clean("two\r\nlines\n", lines=True) == "two\nlines\n"


@pytest.mark.parametrize("text", ["✗ a · b", "▲ ● ≤ 3 µs …", "汉"])
def test_plain_is_ascii(text: str) -> None:
    assert plain(text).isascii()


def test_say_is_narration(capsys: Any) -> None:
    from misstep.cli.terminal import say

    say("hello\x1b[2J")
    assert capsys.readouterr() == ("", "hello\n")
