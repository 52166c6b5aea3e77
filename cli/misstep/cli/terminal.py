"""What the terminal can show, and what must never reach it.

Log lines, labels and names come from the watched programs: an escape sequence in them could write to
the clipboard, change the window's title or hide text, so all control and direction characters go.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from typing import IO, NamedTuple

_SEQUENCES = re.compile(
    r"\x1b\][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # OSC: titles, clipboard, links
    r"|\x1b[PX^_][^\x1b\x9c]*(?:\x1b\\|\x9c)?"  # DCS, SOS, PM, APC
    r"|\x1b\[[0-?]*[ -/]*[@-~]?"  # CSI: colors, cursor
    r"|\x1b[ -/]*[0-~]?"
    r"|\x9b[0-?]*[ -/]*[@-~]?|\x9d[^\x07\x9c]*[\x07\x9c]?"
)
# C0 and C1 controls, direction marks and overrides, line separators, zero-width characters.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")

_ASCII = {
    "✗": "x", "✓": "+", "▲": "^", "●": "*", "·": "-", "…": "...", "—": "-", "–": "-", "−": "-", "≤": "<=", "≥": ">=",
    "×": "x", "→": "->", "“": '"', "”": '"', "‘": "'", "’": "'", "µ": "u", "°": "", "\u00a0": " ", "\u202f": " ",
}  # fmt: skip

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class Terminal(NamedTuple):
    """One output stream. `width` is in columns."""

    color: bool
    unicode: bool
    width: int
    interactive: bool


def terminal(stream: IO[str] | None = None) -> Terminal:
    """What `stream` (by default stdout) can show: NO_COLOR and TERM=dumb turn colors off, FORCE_COLOR on."""
    stream = stream or sys.stdout
    interactive = stream.isatty()
    color = interactive and os.environ.get("TERM") != "dumb"
    if os.environ.get("FORCE_COLOR"):
        color = True
    if os.environ.get("NO_COLOR"):
        color = False
    return Terminal(color, _shows(stream, "✗▲●"), shutil.get_terminal_size((100, 24)).columns, interactive)


def clean(text: str, *, lines: bool = False) -> str:
    """Strip escape sequences, controls and direction characters; newlines become spaces unless `lines`."""
    text = _CONTROLS.sub("", _SEQUENCES.sub("", text.replace("\r\n", "\n"))).replace("\t", "    ")
    return text if lines else " ".join(text.split("\n"))


def plain(text: str) -> str:
    """The text in ASCII, for terminals and files that know nothing else."""
    for wide, narrow in _ASCII.items():
        text = text.replace(wide, narrow)
    return text.encode("ascii", "replace").decode()


def paint(text: str, *styles: str, on: bool) -> str:
    """The text in a style (``bold``, ``dim``, ``red``, ``green``, ``yellow``, ``cyan``), if `on`."""
    if not on or not text or not styles:
        return text
    return f"\x1b[{';'.join(_CODES[s] for s in styles)}m{text}\x1b[0m"


def say(message: str) -> None:
    """Narrate on stderr."""
    print(clean(message, lines=True), file=sys.stderr, flush=True)


def _shows(stream: IO[str], text: str) -> bool:
    try:
        text.encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
