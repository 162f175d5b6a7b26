"""A team of many members that wait for their models, cancelled, beside as many bare tasks; the best of the rounds.

The processor's time: nothing is waited for between the cancel and the end.
"""

from __future__ import annotations

import asyncio
from functools import partial
from uuid import uuid4

from benchmarks.figures import Figure
from benchmarks.machine import loop_name
from benchmarks.measure import Cpu, Scale, Work, best
from benchmarks.models import Counting
from kern_async.agent import Agent
from kern_async.run.base import RunStatus
from kern_async.team import Team, TeamMode

LOOPS = ("asyncio", "uvloop")
GOALS = {100: 9.0, 1_000: 5.0, 10_000: 7.0}


async def measure(scale: Scale) -> list[Figure]:
    figures: list[Figure] = []
    for count, goal in GOALS.items():
        if scale.quick and count > 1_000:
            continue
        model = Counting("counting")
        members = [Agent(name=f"member {n}", model=model) for n in range(count)]
        team = Team(name="bench", model=model, members=members, mode=TeamMode.broadcast)
        work: dict[str, Work] = {"bare": partial(bare, count), "ours": partial(cancelled, team, model, count)}
        costs = await best(work, 7 if count <= 1_000 else 3)
        figures.append(
            Figure(
                part="team_cancel",
                what=f"a team of {count:,} members cancelled",
                unit="ms",
                ours=costs["ours"] * 1e3,
                bare=costs["bare"] * 1e3,
                goal=goal if loop_name() == "asyncio" else None,
                against="bare",
            )
        )
    return figures


async def bare(count: int) -> float:
    """CPU seconds until so many tasks that are cancelled have ended."""
    tasks = [asyncio.create_task(asyncio.Event().wait()) for _ in range(count)]
    await asyncio.sleep(0)
    with Cpu() as used:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    return used.seconds


async def cancelled(team: Team, model: Counting, count: int) -> float:
    """CPU seconds until a run of the team has ended, with all of its members."""
    waiting = model.until(count)
    run_id = uuid4().hex
    task = asyncio.create_task(team.arun("go", run_id=run_id))
    await waiting.wait()
    await asyncio.sleep(0)
    with Cpu() as used:
        team.cancel_run(run_id)
        output = await task
    assert output.status is RunStatus.cancelled
    assert len(output.member_responses) == count
    return used.seconds
