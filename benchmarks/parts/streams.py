"""A thousand streams at once, 20 words each at ten a second: every system in a fresh process, one after the other.

Ideally it takes 2 s. `floor` is a bare reader: HTTP clients that share the streams, an own splitter, no runtime. A full run
also has the aiohttp transport of the `openai` client, and 5,000 streams.
"""

from __future__ import annotations

import statistics
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.children import case
from benchmarks.figures import Figure, number
from benchmarks.machine import loop_name
from benchmarks.measure import Scale
from benchmarks.provider import provider

LOOPS = ("asyncio", "uvloop")
WORDS, SECONDS = 20, 0.1
MIB = 1024 * 1024


async def measure(scale: Scale) -> list[Figure]:
    loop = loop_name()
    count = scale.of(1_000, 300)
    rounds = scale.of(3, 1)
    peers = scale.peers if loop == "asyncio" else {}
    systems: dict[str, Path | None] = {"ours": None, "floor": None, "bare": None, **peers}
    if aiohttp():
        systems["ours_aiohttp"] = None
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in systems}
    for turn in range(rounds):
        for name, python in systems.items():
            if turn and name in peers:
                continue
            with provider() as asked:
                try:
                    answer = case(name, asked, "streams", count, WORDS, SECONDS, loop=loop, python=python)
                except RuntimeError:
                    if name not in peers:
                        raise
                    continue
                answer["provider"] = asked.tell("state")["cpu"]
                found[name].append(answer)
    middle = {
        name: {
            key: statistics.median(a[key] for a in answers) for key in ("wall", "cpu", "memory", "correct")
        }
        for name, answers in found.items()
        if answers
    }
    figures = compared(count, middle, list(peers))
    figures.append(
        Figure(
            part="streams",
            what=f"{count:,} streams: CPU of the provider, which must not be what is waited for",
            unit="s",
            ours=statistics.median(a["provider"] for a in found["ours"]),
        )
    )
    if not scale.quick:
        figures.append(many(loop, 5_000))
    return figures


def compared(count: int, found: dict[str, dict[str, float]], peers: list[str]) -> list[Figure]:
    """The goals are for a thousand streams."""
    full = count == 1_000
    ours, floor, bare = found["ours"], found["floor"], found["bare"]
    what = f"{count:,} streams"

    def figure(of: str, unit: str, key: str, by: float = 1.0, **goal: Any) -> Figure:
        theirs: dict[str, float | str] = {}
        for name in peers:
            if name not in found:
                theirs[name] = "failed"
            elif key == "correct" or found[name]["correct"] == count:
                theirs[name] = found[name][key] / by
            else:  # it did less than the others
                theirs[name] = f"{number(found[name][key] / by)} ({found[name]['correct']:.0f} correct)"
        values = {"ours": ours[key] / by, "floor": floor[key] / by, "bare": bare[key] / by}
        return Figure(part="streams", what=f"{what}: {of}", unit=unit, peers=theirs, **values, **goal)

    figures = [
        figure("correct", "streams", "correct", goal=count, at_least=True),
        figure("CPU", "s", "cpu", goal=1.3, against="floor"),
        figure("memory, peak", "MiB", "memory", MIB, goal=1.3, against="floor"),
        figure("wall time", "s", "wall", goal=6.0 if full else None),
        figure("wall time beside the bare client", "s", "wall", goal=0.35 if full else None, against="bare"),
    ]
    if "ours_aiohttp" in found:
        with_aiohttp = found["ours_aiohttp"]
        figures += [
            Figure(
                part="streams",
                what=f"{what}, aiohttp transport: wall time",
                unit="s",
                ours=with_aiohttp["wall"],
                bare=bare["wall"],
                goal=5.0 if full else None,
            ),
            Figure(
                part="streams",
                what=f"{what}, aiohttp transport: CPU",
                unit="s",
                ours=with_aiohttp["cpu"],
                bare=bare["cpu"],
                floor=floor["cpu"],
            ),
        ]
    return figures


def many(loop: str, count: int) -> Figure:
    with provider() as asked:
        answer = case("ours", asked, "streams", count, WORDS, SECONDS, loop=loop)
    return Figure(
        part="streams",
        what=f"{count:,} streams: correct",
        unit="streams",
        ours=answer["correct"],
        goal=count,
        at_least=True,
        note=f"wall {answer['wall']:.1f} s, CPU {answer['cpu']:.1f} s, {answer['memory'] / MIB:.0f} MiB",
    )


def aiohttp() -> bool:
    return find_spec("aiohttp") is not None
