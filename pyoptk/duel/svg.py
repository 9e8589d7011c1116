"""Bar charts as SVG text, with no package at all; bench/pictures.py adds lines.

A picture brings its own background and, where the reader's system is dark, turns dark itself. One
is as wide as a README shows without shrinking it. Colours are after Okabe and Ito, which
colour-blind readers can tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from xml.sax.saxutils import escape

WIDTH, ROW = 860, 20
TOP, BOTTOM = 74, 50
LIGHT = ("#0072b2", "#d55e00", "#009e73", "#b5548a", "#8a6d00", "#3f8fc4", "#6f6f6f", "#7a4fb5")
DARK = ("#56b4e9", "#ff8a4c", "#3dd6a3", "#e79ac6", "#e0b93a", "#9cc9e8", "#a8a8a8", "#b99cf0")
LIGHT_RULES, DARK_RULES = (
    "".join(f".s{i}{{stroke:{color}}}.f{i}{{fill:{color}}}" for i, color in enumerate(palette))
    for palette in (LIGHT, DARK)
)
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1f2328}.title{font-size:15px;font-weight:600}"
    ".quiet{fill:#59636e}.back{fill:#fff}.grid{stroke:#d8dee4}.line{fill:none;stroke-width:1.6}"
    f".ours{{stroke-width:3}}{LIGHT_RULES}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.quiet{fill:#9198a1}.back{fill:#0d1117}"
    f".grid{{stroke:#30363d}}{DARK_RULES}}}"
)


def page(title: str, height: float, parts: Sequence[str], note: str) -> str:
    """The whole picture: background, title, the note under it, and the parts."""
    size = f'viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    style = f"<title>{escape(title)}</title><style>{STYLE}</style>"
    back = f'<rect class="back" width="{WIDTH}" height="{height:g}"/>'
    words = text(14, 24, title, "start", "title"), text(14, 42, note, "start", "quiet")
    return "\n".join([head, style, back, *words, *parts, "</svg>\n"])


def text(x: float, y: float, words: str, anchor: str = "middle", kind: str = "") -> str:
    """One line of text."""
    how = f'text-anchor="{anchor}" class="{kind}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {how}>{escape(words)}</text>'


def key(x: float, y: float, color: int, name: str) -> list[str]:
    """An entry of a legend."""
    box = f'<rect class="f{color}" x="{x:.1f}" y="{y - 9:.1f}" width="10" height="10"/>'
    return [box, text(x + 14, y, name, "start")]


def grid(line: str) -> str:
    return f'<path class="grid" d="{line}"/>'


def short(value: float) -> str:
    """1 k, 10 M, 0.5: a number as an axis shows it."""
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


class Axis:
    """Values to places from `start` to `end`, and the ticks between them."""

    def __init__(self, values: Sequence[float], start: float, end: float, log: bool) -> None:
        least, most = min(values) / 1.2, max(values)
        self.start, self.end = start, end
        self.scale: Callable[[float], float] = math.log if log else float
        self.ticks = log_ticks(least, most * 1.2) if log else ticks(most)
        self.least, self.most = (least, most * 1.2) if log else (0.0, max(self.ticks[-1], most))

    def __call__(self, value: float) -> float:
        value, least, most = (self.scale(x) for x in (value, self.least, self.most))
        return self.start + (value - least) / (most - least) * (self.end - self.start)


def ticks(most: float) -> list[float]:
    """From 0 to at least `most`, at most seven steps of 1, 2 or 5 times a power of ten."""
    power = 10 ** math.floor(math.log10(most / 7)) if most > 0 else 1.0
    step = next(k * power for k in (1, 2, 5, 10) if most <= 7 * k * power)
    return [k * step for k in range(math.ceil(most / step - 1e-9) + 1)]


def log_ticks(least: float, most: float) -> list[float]:
    """Powers of ten between the two; 1, 2 and 5 times those where they are few."""
    tens = [10.0**k for k in range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)]
    every = tens if most / least > 1e3 else [k * ten for ten in tens for k in (1, 2, 5)]
    return [tick for tick in every if least <= tick <= most]


def bars(
    title: str, groups: Sequence[tuple[str, Sequence[tuple[str, float, str]]]], *,
    palette: Sequence[str], x_title: str, log: bool = False, note: str = "",
) -> str:  # fmt: skip
    """Horizontal bars in groups; each bar has the name of its series, a value and words behind it.

    `palette` lists the names in the order of their colours. On a logarithmic scale bars begin at 1.
    """
    label, right = 20 + 7 * max(len(name) for name, _ in groups), WIDTH - 150
    height = TOP + 8 + ROW * sum(len(bars) + 0.5 for _, bars in groups) + BOTTOM
    values = [value for _, bars in groups for _, value, _ in bars]
    x = Axis([*values, 1.0] if log else values, label, right, log)
    parts = [text((label + right) / 2, height - 12, x_title, kind="quiet")]
    for tick in x.ticks:
        parts += [grid(f"M{x(tick):.1f} {TOP + 4}V{height - BOTTOM + 4:.1f}")]
        parts += [text(x(tick), height - BOTTOM + 18, short(tick))]
    shown = [name for name in palette if name]
    for k, name in enumerate(shown):
        place = 14 + k * (WIDTH - 20) / max(6, len(shown))
        parts += key(place, TOP - 7, palette.index(name), name)
    y, zero = TOP + 10.0, x(1.0 if log else 0.0)
    for group, members in groups:
        parts.append(text(label - 8, y + ROW * len(members) / 2 + 2, group, "end"))
        for name, value, words in members:
            a, b = sorted((zero, x(value)))
            where = f'x="{a:.1f}" y="{y:.1f}" width="{max(b - a, 1):.1f}" height="{ROW - 5}"'
            parts.append(f'<rect class="f{palette.index(name)}" {where}/>')
            parts.append(text(b + 5, y + ROW - 9, words, "start"))
            y += ROW
        y += ROW / 2
    return page(title, height, parts, note)
