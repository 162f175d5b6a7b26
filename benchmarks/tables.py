"""Figures as lines of a terminal and as a page of tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from benchmarks.figures import Figure, goal_of, number, verdict

TITLES = {
    "deltas": "A streamed delta",
    "one_token": "A run of one token",
    "streams": "A thousand streams",
    "cancel": "A cancel",
    "cancel_many": "A thousand cancels",
    "team_cancel": "A team that is cancelled",
    "made": "Making agents and keeping runs",
    "imports": "Importing",
    "facade": "The synchronous facade",
    "fan_out": "A hundred readers of a run",
    "store": "Keeping runs",
    "length": "Cost against length",
    "peer_costs": "The peers, beside the bare client in their own process",
}
INTRODUCTION = """# What it costs

Written by `python -m benchmarks{arguments}`; {facts}{busy}.

*floor* is the least that we know how to do the same work with, *bare* what a user has without a runtime: the `openai`
client, a task, plain aiosqlite. Both are measured in turn with ours, in the same process or, where one would change the
other, in fresh processes one after the other. CPU is the process's own time and the best of several rounds. A peer's column
is its own value for the same work with the same provider.
"""


def line(figure: Figure) -> str:
    """One line for a terminal."""
    cells = [f"{figure.what} ({figure.loop})".ljust(72), f"{number(figure.ours):>8} {figure.unit}"]
    for name, value in (("bare", figure.bare), ("floor", figure.floor), ("ratio", figure.ratio)):
        if value is not None:
            cells.append(f"{name} {number(value)}")
    cells += [f"{name} {cell(value)}" for name, value in figure.peers.items()]
    if figure.goal is not None:
        cells.append(f"goal {goal_of(figure)}: {'ok' if figure.met else 'MISSED'}")
    return "  ".join([*cells, figure.note] if figure.note else cells)


def markdown(about: dict[str, str], figures: Sequence[Figure], arguments: str = "", load: float = 0.0) -> str:
    """All of it, as a page."""
    facts = ", ".join(f"{name} {value}" for name, value in about.items())
    busy = f"; the machine was busy with other work (load {load:.1f} before)" if load > 0.7 else ""
    lines = [INTRODUCTION.format(arguments=arguments, facts=facts, busy=busy)]
    held = [figure for figure in figures if figure.met is not None]
    missed = [figure for figure in held if not figure.met]
    lines.append(f"{len(held) - len(missed)} of {len(held)} goals are met.")
    lines += [""] * bool(missed)
    lines += [
        f"- missed: {figure.what}, {figure.loop}: {number(figure.held)}, goal {goal_of(figure)}"
        for figure in missed
    ]
    for part, group in groupby(figures, key=lambda figure: figure.part):
        lines += ["", f"## {TITLES.get(part, part)}", "", *table(list(group))]
    ahead = where_peers_are_ahead(figures)
    if ahead:
        lines += ["", "## Where a peer is ahead", "", *ahead]
    return "\n".join(lines) + "\n"


def table(figures: Sequence[Figure]) -> list[str]:
    """Columns without a value in any row are left out."""
    peers = list(dict.fromkeys(name for figure in figures for name in figure.peers))
    columns: dict[str, list[str]] = {
        "what": [figure.what + (f" ({figure.note})" if figure.note else "") for figure in figures],
        "loop": [figure.loop for figure in figures],
        "unit": [figure.unit for figure in figures],
        "kern_async": [f"**{number(figure.ours)}**" for figure in figures],
        "floor": [number(figure.floor) for figure in figures],
        "bare": [number(figure.bare) for figure in figures],
        **{peer: [cell(figure.peers.get(peer)) for figure in figures] for peer in peers},
        "ratio": [number(figure.ratio) for figure in figures],
        "goal": [goal_of(figure) for figure in figures],
        "met": [verdict(figure) for figure in figures],
    }
    shown = {head: cells for head, cells in columns.items() if any(cells)}
    rules = ["---" if head in {"what", "loop", "unit", "goal", "met"} else "---:" for head in shown]
    rows = [" | ".join(row) for row in zip(*shown.values(), strict=True)]
    return [f"| {' | '.join(shown)} |", f"|{'|'.join(rules)}|", *(f"| {row} |" for row in rows)]


def where_peers_are_ahead(figures: Sequence[Figure]) -> list[str]:
    found: list[str] = []
    for figure in figures:
        for name, value in figure.peers.items():
            if isinstance(value, str) or figure.what.endswith("streams: correct"):
                continue
            if value > figure.ours if figure.at_least else value < figure.ours:
                found.append(
                    f"- {name}: {figure.what}: {number(value)} {figure.unit}, ours {number(figure.ours)}"
                )
    return found


def cell(value: float | str | None) -> str:
    return value if isinstance(value, str) else number(value)
