"""What the synchronous facade adds to an event: CPU of both threads, the best of the rounds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from benchmarks.figures import Figure
from benchmarks.measure import Cpu, Scale, Work, best
from benchmarks.models import Speaking
from kern_async.agent import Agent

LOOPS = ("asyncio",)


async def measure(scale: Scale) -> list[Figure]:
    agent = Agent(name="bench", model=Speaking(scale.of(10_000, 4_000)))
    work: dict[str, Work] = {"async": partial(of_async, agent), "sync": in_thread(partial(of_sync, agent))}
    costs = await best(work, scale.of(7, 4))
    return [
        Figure(
            part="facade",
            what="CPU of an event through `run(stream=True)`, beside `arun(stream=True)`",
            unit="us",
            ours=costs["sync"] * 1e6,
            floor=costs["async"] * 1e6,
            goal=10,
        )
    ]


async def of_async(agent: Agent) -> float:
    count = 0
    with Cpu() as used:
        async with agent.arun("go", stream=True) as events:
            async for _ in events:
                count += 1
    return used.seconds / count


def of_sync(agent: Agent) -> float:
    count = 0
    with Cpu() as used, agent.run("go", stream=True) as events:
        for _ in events:
            count += 1
    return used.seconds / count


def in_thread(do: Callable[[], float]) -> Work:
    return partial(asyncio.to_thread, do)
