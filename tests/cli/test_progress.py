import io
from typing import Any

import pytest

from misstep.cli.progress import Progress


class Screen(io.StringIO):
    def __init__(self, live: bool) -> None:
        super().__init__()
        self.live = live

    def isatty(self) -> bool:
        return self.live


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> Any:
    def use(live: bool) -> Screen:
        screen = Screen(live)
        monkeypatch.setattr("sys.stderr", screen)
        return screen

    return use


def test_a_terminal_has_one_line_that_goes_away(stderr: Any) -> None:
    screen, times = stderr(True), iter([0.0, 0.5, 2.0, 3.0])
    with Progress(lambda: next(times)) as progress:
        for left in (3, 2, 1):
            progress.show(f"{left} left\x1b[2J")
    assert screen.getvalue() == "\r\x1b[K2 left 2 s\r\x1b[K1 left 3 s\r\x1b[K"


def test_a_file_gets_a_word_now_and_then(stderr: Any) -> None:
    screen, times = stderr(False), iter([0.0, 0.5, *map(float, range(1, 40))])
    with Progress(lambda: next(times)) as progress:
        for left in range(40):
            progress.show(f"at {left}")
    assert screen.getvalue() == "at 1\nat 16\nat 31\n"


def test_what_is_quick_says_nothing(stderr: Any) -> None:
    screen, times = stderr(True), iter([0.0, 0.3])
    with Progress(lambda: next(times)) as progress:
        progress.show("waiting")
    assert screen.getvalue() == ""
