"""What an Agent and a Team cost to make, and a streamed run to keep; times are the best of the rounds."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

from benchmarks.figures import Figure
from benchmarks.machine import loop_name
from benchmarks.measure import Scale, Work, best, resident
from benchmarks.models import Hanging
from kern_async.agent import Agent
from kern_async.engine.stream import RunStream
from kern_async.team import Team

LOOPS = ("asyncio", "uvloop")
KIB = 1024


async def measure(scale: Scale) -> list[Figure]:
    # Memory first: later on there is some that is free, and what is made goes there unseen.
    task, run = await kept(scale.of(5_000, 2_000))
    figures = [
        Figure(
            part="made",
            what="memory of an idle streamed run",
            unit="KiB",
            ours=run / KIB,
            bare=task / KIB,
            goal=8,
        )
    ]
    if loop_name() == "uvloop":
        return figures
    model = Hanging("hanging")
    members = [Agent(name=f"member {n}", model=model) for n in range(3)]

    def agent() -> object:
        return Agent(name="bench", model=model)

    def team() -> object:
        return Team(name="bench", model=model, members=members)

    def team_and_members() -> object:
        return Team(
            name="bench", model=model, members=[Agent(name=f"member {n}", model=model) for n in range(3)]
        )

    times = scale.of(20_000, 5_000)
    makers = {"agent": agent, "team": team, "team and members": team_and_members}
    costs = await best({name: seconds_of(make, times) for name, make in makers.items()}, scale.of(7, 4))
    return [
        *figures,
        Figure(part="made", what="an Agent, to make", unit="us", ours=costs["agent"] * 1e6, goal=5),
        Figure(part="made", what="an Agent, memory", unit="KiB", ours=bytes_of(agent) / KIB, goal=2),
        Figure(part="made", what="a Team of three, to make", unit="us", ours=costs["team"] * 1e6, goal=15),
        Figure(
            part="made",
            what="a Team of three and its members, to make",
            unit="us",
            ours=costs["team and members"] * 1e6,
        ),
    ]


async def kept(count: int) -> tuple[float, float]:
    """Bytes of a bare task that waits, and of a streamed run whose model waits after its first word."""
    before = resident()
    tasks = [asyncio.create_task(asyncio.Event().wait()) for _ in range(count)]
    await asyncio.sleep(0)
    of_task = (resident() - before) / count
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    tasks.clear()

    agent = Agent(name="bench", model=Hanging("hanging"))
    await started(agent, 10)  # what is only made once
    before = resident()
    streams = await started(agent, count)
    of_run = (resident() - before) / count
    for stream in streams:
        await stream.aclose()
    return of_task, of_run


async def started(agent: Agent, count: int) -> list[RunStream[Any, Any]]:
    streams = [agent.arun("go", stream=True) for _ in range(count)]
    for stream in streams:
        async for event in stream:
            if event.event == "RunContent":
                break
    return streams


def seconds_of(make: Callable[[], object], times: int) -> Work:
    async def work() -> float:
        began = time.process_time()
        for _ in range(times):
            make()
        return (time.process_time() - began) / times

    return work


def bytes_of(make: Callable[[], object], count: int = 1_000) -> float:
    make()
    tracemalloc.start()
    things = [make() for _ in range(count)]
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size / len(things)
