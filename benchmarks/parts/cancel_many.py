"""A thousand live HTTP streams cancelled at once, in a fresh process for each system; the best of the rounds.

From the first cancel until every consumer has its end, and until the provider has seen every connection close.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.child import DEADLINE
from benchmarks.children import answer, child
from benchmarks.figures import Figure
from benchmarks.machine import loop_name
from benchmarks.measure import Scale
from benchmarks.provider import provider

LOOPS = ("asyncio", "uvloop")
HELD = 5
"""Seconds after which a connection that is still open counts as never closed."""


async def measure(scale: Scale) -> list[Figure]:
    count = scale.of(1_000, 300)
    loop = loop_name()
    peers = scale.peers if loop == "asyncio" else {}
    systems: dict[str, Path | None] = {"ours": None, "floor": None, "bare": None, **peers}
    best: dict[str, tuple[float, float]] = {}
    for number in range(scale.of(5, 2)):
        for name, python in systems.items():
            if number and name in peers:
                continue
            ended, closed = cancelled(name, count, loop, python)
            before = best.get(name, (float("inf"), float("inf")))
            best[name] = (min(ended, before[0]), min(closed, before[1]))
    return [
        Figure(
            part="cancel_many",
            what=f"{count:,} live streams cancelled: {what}",
            unit="ms",
            ours=best["ours"][place] * 1e3,
            bare=best["bare"][place] * 1e3,
            floor=best["floor"][place] * 1e3,
            goal=1.2,
            against="bare",
            peers={name: in_ms(best[name][place]) for name in peers},
        )
        for place, what in enumerate(("all ended", "all connections closed"))
    ]


def cancelled(name: str, count: int, loop: str, python: Path | None) -> tuple[float, float]:
    """Seconds until all have ended, and until all connections are closed; infinite if they never are."""
    with provider() as asked, child(name, asked, "cancel", count, loop=loop, python=python) as process:
        try:
            told = answer(process)
        except RuntimeError:  # not all could even be begun
            if python is None:
                raise
            return float("inf"), float("inf")
        state = asked.tell(f"idle {HELD}")
        ended = told["took"] if not told["pending"] else float("inf")
        # They may also have closed before the cancel: what ended the stream was something else.
        closed = state["changed_at"] - told["began"] if not state["open"] else float("inf")
        return ended, closed


def in_ms(seconds: float) -> float | str:
    return seconds * 1e3 if seconds != float("inf") else f"never ({DEADLINE:g} s)"
