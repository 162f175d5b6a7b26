"""CPU of a whole run of one token, awaited, beside `client.responses.create`; the best of the rounds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import httpx2
from pydantic_core import from_json

from benchmarks.figures import Figure
from benchmarks.measure import Cpu, Scale, Work, best
from benchmarks.provider import bare_client, model, provider
from kern_async.agent import Agent

LOOPS = ("asyncio", "uvloop")
MODEL = "burst 1"


async def measure(scale: Scale) -> list[Figure]:
    times = scale.of(200, 60)
    with provider() as asked:
        async with bare_client(asked.url) as client, httpx2.AsyncClient() as http:
            agent = Agent(name="bench", model=model(MODEL, asked.url))

            async def run() -> None:
                assert (await agent.arun("go")).content == "w0 "

            async def bare() -> None:
                response = await client.responses.create(model=MODEL, input="go")
                assert response.output_text == "w0 "

            async def floor() -> None:
                response = await http.post(f"{asked.url}/responses", json={"model": MODEL, "input": "go"})
                assert from_json(response.content)["output"][0]["content"][0]["text"] == "w0 "

            work = {"bare": each(bare, times), "ours": each(run, times), "floor": each(floor, times)}
            costs = await best(work, scale.of(9, 5))
    return [
        Figure(
            part="one_token",
            what="CPU of a run of one token, awaited",
            unit="us",
            ours=costs["ours"] * 1e6,
            bare=costs["bare"] * 1e6,
            floor=costs["floor"] * 1e6,
            goal=0.9,
            against="bare",
        )
    ]


def each(do: Callable[[], Awaitable[object]], times: int) -> Work:
    """The CPU of doing it once, out of so many."""

    async def work() -> float:
        with Cpu() as used:
            for _ in range(times):
                await do()
        return used.seconds / times

    return work
