"""CPU of a streamed delta, from the provider's HTTP response to the consumer of a run; the best of the rounds."""

from __future__ import annotations

from functools import partial

import httpx2
import openai

from benchmarks import readers
from benchmarks.figures import Figure
from benchmarks.measure import Cpu, Scale, Work, best
from benchmarks.provider import bare_client, model, provider
from kern_async.agent import Agent

LOOPS = ("asyncio", "uvloop")


async def measure(scale: Scale) -> list[Figure]:
    count = scale.of(4_000, 2_000)
    return [
        await compared("in bursts", f"burst {count}", 0.10, scale),
        await compared("a chunk per event", f"chunks {count}", 0.25, scale),
    ]


async def compared(what: str, name: str, goal: float, scale: Scale) -> Figure:
    with provider() as asked:
        async with bare_client(asked.url) as client, httpx2.AsyncClient() as http:
            work: dict[str, Work] = {
                "bare": partial(of_bare, client, name),
                "ours": partial(of_run, Agent(name="bench", model=model(name, asked.url))),
                "floor": partial(of_floor, http, asked.url, name),
            }
            costs = await best(work, scale.of(7, 4))
    return Figure(
        part="deltas",
        what=f"CPU of a streamed delta, {what}",
        unit="us",
        ours=costs["ours"] * 1e6,
        bare=costs["bare"] * 1e6,
        floor=costs["floor"] * 1e6,
        goal=goal,
        against="bare",
    )


async def of_bare(client: openai.AsyncOpenAI, model: str) -> float:
    with Cpu() as used:
        count, _ = await readers.bare(client, model)
    return used.seconds / count


async def of_floor(client: httpx2.AsyncClient, url: str, model: str) -> float:
    with Cpu() as used:
        count, _ = await readers.floor(client, url, model)
    return used.seconds / count


async def of_run(agent: Agent) -> float:
    count = 0
    with Cpu() as used:
        async with agent.arun("go", stream=True) as events:
            async for event in events:
                count += event.event == "RunContent"
    return used.seconds / count
