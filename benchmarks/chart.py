"""Cost against length as an SVG, to be read on light and on dark: both scales are logarithmic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from benchmarks.figures import Figure, number

WIDTH, HEIGHT = 800, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 280, 40, 48
COLOURS = ("#3b82f6", "#e11d48", "#16a34a", "#d97706", "#9333ea", "#0891b2", "#db2777", "#65a30d", "#6b7280")
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f }
.grid { stroke: #d0d7de; stroke-width: 1 }
.linear { stroke: #6e7781; stroke-width: 1.5; stroke-dasharray: 5 4; fill: none }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .grid { stroke: #30363d }
  .linear { stroke: #8b949e }
}
"""
TICKS = (1, 2, 5, 10)


def chart(figures: Sequence[Figure]) -> str:
    """Of those that have points: cost at a size beside the cost at the smallest one."""
    shown = [figure for figure in figures if figure.points]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>Cost against length</title><style>{STYLE}</style>",
        text(LEFT, 22, "Cost against length: times the cost of the smallest, both scales logarithmic"),
    ]
    for tick in TICKS:
        across, up = x(tick), y(tick)
        parts += [line([(across, TOP), (across, HEIGHT - BOTTOM)]), line([(LEFT, up), (WIDTH - RIGHT, up)])]
        parts += [
            text(across, HEIGHT - BOTTOM + 18, f"{tick}x", "middle"),
            text(LEFT - 8, up + 4, f"{tick}x", "end"),
        ]
    parts += [
        text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, "as long", "middle"),
        line([(x(TICKS[0]), y(TICKS[0])), (x(TICKS[-1]), y(TICKS[-1]))], "linear"),
        line([(WIDTH - RIGHT + 16, TOP + 6), (WIDTH - RIGHT + 36, TOP + 6)], "linear"),
        text(WIDTH - RIGHT + 42, TOP + 10, "linear"),
    ]
    for place, figure in enumerate(shown):
        colour = COLOURS[place % len(COLOURS)]
        (size, cost), *_ = figure.points
        points = [(x(at / size), y(value / cost)) for at, value in figure.points]
        parts.append(
            f'<polyline points="{coordinates(points)}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        parts += [f'<circle cx="{across:.1f}" cy="{up:.1f}" r="3" fill="{colour}"/>' for across, up in points]
        row = TOP + 10 + 22 * (place + 1)
        parts += [
            f'<rect x="{WIDTH - RIGHT + 20}" y="{row - 9}" width="12" height="10" fill="{colour}"/>',
            text(WIDTH - RIGHT + 42, row, f"{figure.what.partition(':')[0]} ({number(figure.ratio)}x)"),
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def x(size: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * math.log(size) / math.log(TICKS[-1])


def y(cost: float) -> float:
    height = HEIGHT - TOP - BOTTOM
    return HEIGHT - BOTTOM - height * math.log(max(cost, 0.7)) / math.log(TICKS[-1] * 1.3)


def line(points: Sequence[tuple[float, float]], style: str = "grid") -> str:
    return f'<polyline class="{style}" points="{coordinates(points)}"/>'


def coordinates(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{across:.1f},{up:.1f}" for across, up in points)


def text(across: float, up: float, said: str, anchor: str = "start") -> str:
    return f'<text x="{across:.0f}" y="{up:.0f}" text-anchor="{anchor}">{escape(said)}</text>'
