"""Turns terminal output into an SVG: the same text gives the same bytes, on every machine.

    FORCE_COLOR=1 COLUMNS=96 misstep demo | python docs/make_picture.py "make demo" > docs/verdict.svg

Input is text with the ANSI styles that `misstep` uses (bold, dim, four colors); other escape sequences
are dropped. The picture carries no script, font or link, so that every host of a README shows it.
"""

from __future__ import annotations

import re
import sys
from html import escape

WIDTH, HEIGHT = 8.43, 19
"""Pixels of one character and one line, for 14 px of a common monospace font."""
MARGIN = 18
BAR = 34
COLORS = {"31": "#ff6b68", "32": "#7ec87e", "33": "#e5c07b", "36": "#56b6c2"}
INK, PAPER, FRAME, FAINT = "#d7dae0", "#1b1e24", "#2b303b", "#858b98"

_CODE = re.compile(r"\x1b\[([\d;]*)m")
_OTHER = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[^\[]?|[\x00-\x09\x0b-\x1f\x7f]")


def spans(line: str) -> list[tuple[str, frozenset[str]]]:
    """A line as pieces of text, each with the codes that hold for it."""
    found: list[tuple[str, frozenset[str]]] = []
    active: set[str] = set()
    end = 0
    for match in _CODE.finditer(line):
        if match.start() > end:
            found.append((line[end : match.start()], frozenset(active)))
        for code in match[1].split(";"):
            active = set() if code in ("", "0") else active | {code}
        end = match.end()
    if end < len(line):
        found.append((line[end:], frozenset(active)))
    cleaned = [(_OTHER.sub("", text), codes) for text, codes in found]
    return [(text, codes) for text, codes in cleaned if text]


def svg(text: str, title: str = "misstep diagnose") -> str:
    """The picture of `text` in a window called `title`."""
    lines = [spans(line) for line in text.strip("\n").split("\n")]
    columns = max((sum(len(piece) for piece, _ in line) for line in lines), default=0)
    width = round(2 * MARGIN + columns * WIDTH)
    height = BAR + MARGIN + len(lines) * HEIGHT + MARGIN // 2
    body = [_line(line, BAR + MARGIN + i * HEIGHT) for i, line in enumerate(lines)]
    buttons = "".join(
        f'<circle cx="{MARGIN + 18 * i}" cy="{BAR // 2}" r="5.5" fill="{FRAME}"/>' for i in range(3)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(_plain(lines))}">\n'
        f'<rect width="{width}" height="{height}" rx="8" fill="{PAPER}"/>\n{buttons}\n'
        f'<text x="{width / 2:g}" y="{BAR // 2 + 5}" text-anchor="middle" fill="{FAINT}" '
        f'font-family="monospace" font-size="13">{escape(title)}</text>\n'
        f"<g font-family=\"ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace\" "
        f'font-size="14" fill="{INK}" xml:space="preserve">\n'
        + "\n".join(filter(None, body))
        + "\n</g>\n</svg>\n"
    )


def _line(pieces: list[tuple[str, frozenset[str]]], y: int) -> str:
    shown, column = [], 0
    for text, codes in pieces:
        if text.strip():
            # Each piece has its own place: a fallback font of another width cannot push the rest aside.
            lead = len(text) - len(text.lstrip())
            x, words = MARGIN + (column + lead) * WIDTH, text.strip()
            shown.append(
                f'<text x="{x:.1f}" y="{y}" textLength="{len(words) * WIDTH:.1f}"{_style(codes)}>{escape(words)}</text>'
            )
        column += len(text)
    return "".join(shown)


def _style(codes: frozenset[str]) -> str:
    style = ' font-weight="bold"' if "1" in codes else ""
    color = next((COLORS[code] for code in sorted(codes) if code in COLORS), FAINT if "2" in codes else "")
    return style + (f' fill="{color}"' if color else "")


def _plain(lines: list[list[tuple[str, frozenset[str]]]]) -> str:
    return "\n".join("".join(text for text, _ in line).rstrip() for line in lines)


if __name__ == "__main__":
    sys.stdout.write(svg(sys.stdin.read(), *sys.argv[1:2]))
