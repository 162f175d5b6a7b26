"""The gate that CI runs: has something become half as dear again? `python -m benchmarks.gate [--update]`.

It compares ratios, ours to something bare that is done in turn with it in the same process, by the processor's time and the
best of many rounds; so it sees little of how fast or how busy the machine is. A ratio may be `MARGIN` times the one in
`gate.json`, which `--update` writes after a change that was meant; ten times as much may cost `MOST` times. What fails is
measured once more before it counts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from uuid import uuid4

from benchmarks.measure import Cpu, Work, in_turn
from benchmarks.models import Counting, Hanging, Speaking
from benchmarks.parts import deltas, imports, length, one_token, team_cancel
from benchmarks.provider import bare_client, model, provider
from kern_async.agent import Agent
from kern_async.team import Team, TeamMode

FILE = Path(__file__).with_suffix(".json")
MARGIN = 1.3
MOST = 18.0
"""What ten times as much may cost at most: a square would be dearer, and short work is measured badly."""
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

Check = Callable[[], Awaitable[float]]
"""Gives a ratio."""


async def ratio(bare: Work, ours: Work, rounds: int) -> float:
    costs = await in_turn({"bare": bare, "ours": ours}, rounds)
    return min(costs["ours"]) / min(costs["bare"])


def cpu_of(do: Callable[[], Awaitable[object]]) -> Work:
    async def work() -> float:
        with Cpu() as used:
            await do()
        return used.seconds

    return work


async def over_http(what: str) -> float:
    """A delta, or a run of one token, beside the bare client."""
    with provider() as asked:
        async with bare_client(asked.url) as client:
            if what == "token":
                agent = Agent(name="bench", model=model("burst 1", asked.url))
                bare = partial(client.responses.create, model="burst 1", input="go")
                return await ratio(
                    one_token.each(bare, 20), one_token.each(partial(agent.arun, "go"), 20), 12
                )
            name = f"{what} 1000"
            agent = Agent(name="bench", model=model(name, asked.url))
            return await ratio(partial(deltas.of_bare, client, name), partial(deltas.of_run, agent), 12)


async def events() -> float:
    """An event from a model without a socket to the consumer, beside a hop through `asyncio.Queue`."""
    agent = Agent(name="bench", model=Speaking(2_000))

    async def ours() -> None:
        async with agent.arun("go", stream=True) as stream:
            async for _ in stream:
                pass

    async def bare() -> None:
        queue = asyncio.Queue[int](1)

        async def put() -> None:
            for number in range(2_000):
                await queue.put(number)

        task = asyncio.create_task(put())
        for _ in range(2_000):
            await queue.get()
        await task

    return await ratio(cpu_of(bare), cpu_of(ours), 20)


async def cancels() -> float:
    """A streamed run that is begun, cancelled and read to its end, beside a task."""
    agent = Agent(name="bench", model=Hanging("hanging"))

    async def ours() -> None:
        for _ in range(50):
            async with agent.arun("go", stream=True) as stream:
                async for event in stream:
                    if event.event == "RunContent":
                        stream.cancel()

    async def bare() -> None:
        for _ in range(500):
            task = asyncio.create_task(asyncio.Event().wait())
            await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    return await ratio(cpu_of(bare), cpu_of(ours), 20)


async def teams() -> float:
    """A team of 100 cancelled, beside as many tasks."""
    waiting = Counting("counting")
    members = [Agent(name=f"member {number}", model=waiting) for number in range(100)]
    team = Team(name="bench", model=waiting, members=members, mode=TeamMode.broadcast)
    return await ratio(
        partial(team_cancel.bare, 1_000), partial(team_cancel.cancelled, team, waiting, 100), 12
    )


async def making() -> float:
    """An Agent, beside an id."""
    silent = Hanging("hanging")

    async def ours() -> None:
        for _ in range(2_000):
            Agent(name="bench", model=silent)

    async def bare() -> None:
        for _ in range(4_000):
            uuid4().hex  # noqa: B018  making it is the work

    return await ratio(cpu_of(bare), cpu_of(ours), 20)


async def importing() -> float:
    async def seconds(statement: str) -> float:
        return await asyncio.to_thread(imports.seconds, statement)

    return await ratio(partial(seconds, imports.BARE), partial(seconds, imports.OURS), 5)


async def growing(make: length.Make, unit: int) -> float:
    """Ten times as much, beside the single amount."""
    short, long = await make(unit), await make(10 * unit)
    return await ratio(partial(length.seconds_of, short), partial(length.seconds_of, long), 5)


CHECKS: dict[str, Check] = {
    "a delta in bursts": partial(over_http, "burst"),
    "a delta in a chunk of its own": partial(over_http, "chunks"),
    "a run of one token": partial(over_http, "token"),
    "an event without a socket": events,
    "a run begun and cancelled": cancels,
    "a team of 100 cancelled": teams,
    "an Agent made": making,
    "import": importing,
}
GROWTH: dict[str, Check] = {
    "ten times the deltas": partial(growing, length.deltas, 1_000),
    "ten times the members": partial(growing, length.members, 10),
    "ten times the turns": partial(growing, partial(length.turns, None), 10),
}


async def gate(limits: dict[str, float]) -> list[str]:
    """Those that are over their limit, twice."""
    failed: list[str] = []
    for name, check in {**CHECKS, **GROWTH}.items():
        limit = limits.get(name, MOST)
        found = await check()
        if found > limit:
            print(f"{name}: {found:.3g} is over {limit:.3g}; once more", flush=True)
            found = min(found, await check())
        print(
            f"{name:<32} {found:8.3g}   limit {limit:8.3g}   {'ok' if found <= limit else 'FAILED'}",
            flush=True,
        )
        if found > limit:
            failed.append(name)
    return failed


async def update() -> dict[str, float]:
    """The medians of three measurements of each."""
    return {name: sorted([await check() for _ in range(3)])[1] for name, check in CHECKS.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--update", action="store_true", help="take what is measured now as what it may cost")
    arguments = parser.parse_args()
    known: dict[str, dict[str, float]] = json.loads(FILE.read_text()) if FILE.exists() else {}
    if arguments.update:
        known[PYTHON] = {name: round(value, 4) for name, value in asyncio.run(update()).items()}
        FILE.write_text(json.dumps(known, indent=2) + "\n")
    elif PYTHON not in known:
        print(f"nothing is known of Python {PYTHON}: `python -m benchmarks.gate --update` measures it")
    elif failed := asyncio.run(gate({name: value * MARGIN for name, value in known[PYTHON].items()})):
        sys.exit(f"dearer than they were: {', '.join(failed)}")


if __name__ == "__main__":
    main()
