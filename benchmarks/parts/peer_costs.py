"""What a delta and a run of one token cost with each peer, beside the bare client in the same process; best of rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.children import case
from benchmarks.figures import Figure
from benchmarks.measure import Scale
from benchmarks.provider import provider

LOOPS = ("asyncio",)
WHAT = {
    "burst": "a streamed delta in bursts, times the bare client",
    "chunks": "a streamed delta, a chunk per event, times the bare client",
    "word": "a run of one token, awaited, times the bare client",
}


async def measure(scale: Scale) -> list[Figure]:
    found: dict[str, dict[str, Any]] = {}
    made: dict[str, float] = {}
    systems: dict[str, Path | None] = {"ours": None, **scale.peers}
    for name, python in systems.items():
        with provider() as asked:
            numbers = (scale.of(5, 3), scale.of(2_000, 1_000), scale.of(50, 20))
            found[name] = case(name, asked, "costs", *numbers, python=python)
            made[name] = case(name, asked, "made", scale.of(1_000, 300), python=python)["seconds"] * 1e6
    figures = [
        Figure(
            part="peer_costs",
            what=f"CPU of {what}",
            unit="x",
            ours=times(found["ours"][key]),
            peers={name: times(found[name][key]) for name in scale.peers},
        )
        for key, what in WHAT.items()
    ]
    peers: dict[str, float | str] = {name: made[name] for name in scale.peers}
    figures.append(
        Figure(part="peer_costs", what="an agent, to make", unit="us", ours=made["ours"], peers=peers)
    )
    return figures


def times(costs: dict[str, float]) -> float:
    return costs["it"] / costs["bare"]
