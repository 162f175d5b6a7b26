"""Cost against length: ten times the deltas, members, turns, history or sessions; CPU, also of the writer's thread.

The least of several rounds at each size; the goal is for the tenfold size beside the single one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from itertools import count
from pathlib import Path

import anyio

from benchmarks.figures import Figure
from benchmarks.measure import Cpu, Scale, Work, best
from benchmarks.models import Speaking
from kern_async.agent import Agent
from kern_async.db.database import BaseDb
from kern_async.db.in_memory import InMemoryDb
from kern_async.db.sqlite import SqliteDb
from kern_async.team import Team, TeamMode
from kern_async.testing.scripted import ScriptedModel, call

LOOPS = ("asyncio",)
SIZES = (1, 2, 5, 10)
GOAL = 11.0

Do = Callable[[], Awaitable[object]]
Make = Callable[[int], Awaitable[Do]]
"""Prepares what is to be done at a size."""


async def measure(scale: Scale) -> list[Figure]:
    rounds = scale.of(7, 5)
    short = scale.of(20, 10)
    figures = [
        await growth("deltas", 1_000, deltas, rounds),
        await growth("members", short, members, rounds),
        await growth("turns, without a database", short, partial(turns, None), rounds),
    ]
    with tempfile.TemporaryDirectory() as name:
        numbers = count(1)

        def sqlite() -> BaseDb:
            return SqliteDb(Path(name) / f"{next(numbers)}.db")

        kinds: list[tuple[str, Callable[[], BaseDb]]] = [("SQLite", sqlite), ("in memory", InMemoryDb)]
        for where, make in kinds:
            async with AsyncExitStack() as opened:

                def open_db(make: Callable[[], BaseDb] = make, opened: AsyncExitStack = opened) -> BaseDb:
                    db = make()
                    opened.push_async_callback(db.aclose)
                    return db

                db = open_db()
                for what, unit, do in (
                    ("turns", short, partial(turns, db)),
                    ("earlier runs told", 5 * short, partial(history, db)),
                    ("sessions listed", 5 * short, partial(sessions, open_db)),
                ):
                    figures.append(await growth(f"{what}, {where}", unit, do, rounds))
    return figures


async def growth(what: str, unit: int, make: Make, rounds: int) -> Figure:
    """What it costs at each size; all sizes in turn."""
    work = {str(size): partial(seconds_of, await make(unit * size)) for size in SIZES}
    costs = await best(dict[str, Work](work), rounds)
    points = [(float(unit * size), costs[str(size)] * 1e3) for size in SIZES]
    return Figure(
        part="length",
        what=f"{what}: {unit * SIZES[-1]:,} beside {unit:,}",
        unit="ms",
        ours=points[-1][1],
        bare=points[0][1],
        goal=GOAL,
        against="bare",
        points=points,
    )


async def seconds_of(do: Do) -> float:
    with Cpu() as used:
        await do()
    return used.seconds


async def deltas(count: int) -> Do:
    agent = Agent(name="bench", model=Speaking(count))

    async def do() -> None:
        async with agent.arun("go", stream=True) as events:
            async for _ in events:
                pass

    return do


async def members(count: int) -> Do:
    model = Speaking(1)
    agents = [Agent(name=f"member {number}", model=model) for number in range(count)]
    team = Team(name="bench", model=model, members=agents, mode=TeamMode.broadcast)

    async def do() -> None:
        assert len((await team.arun("go")).member_responses) == count

    return do


async def turns(db: BaseDb | None, count: int) -> Do:
    """A run whose model calls a tool so many times."""

    def look() -> str:
        return "nothing"

    script = [*(call("look") for _ in range(count)), "done"]

    async def do() -> None:
        agent = Agent(name="bench", model=ScriptedModel("bench", script), tools=[look], db=db)
        assert len((await agent.arun("go")).tools) == count

    return do


async def history(db: BaseDb, count: int) -> Do:
    """A run that is told of so many earlier ones of its session."""
    session_id = f"history of {count}"
    await fill(db, [session_id] * count)
    agent = Agent(name="bench", model=Speaking(1), db=db, add_history_to_context=True, num_history_runs=count)
    return partial(agent.arun, "go", session_id=session_id)


async def sessions(open_db: Callable[[], BaseDb], count: int) -> Do:
    """A list of so many sessions, which are alone in their database."""
    db = open_db()
    agent = Agent(name="bench", model=Speaking(1), db=db)
    await fill(db, [f"session {number}" for number in range(count)])

    async def do() -> None:
        assert len(await agent.alist_sessions()) == count

    return do


async def fill(db: BaseDb, session_ids: Sequence[str]) -> None:
    """A run in each, in portions none of which can take longer than a run waits for its database."""
    agent = Agent(name="bench", model=Speaking(1), db=db)
    for start in range(0, len(session_ids), 50):
        async with anyio.create_task_group() as group:
            for session_id in session_ids[start : start + 50]:
                group.start_soon(partial(agent.arun, "What does it cost?", session_id=session_id))
