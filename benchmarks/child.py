"""One case of one system in a fresh process, in whatever environment: `python -m benchmarks.child SYSTEM LOOP URL CASE ...`.

It prints one line of JSON. Cases: `streams COUNT WORDS SECONDS`, `cancel COUNT`, `costs ROUNDS DELTAS TIMES`,
`made TIMES`.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from benchmarks.machine import loop_factory, many_files
from benchmarks.measure import Cpu, best, resident
from benchmarks.servers import wire
from benchmarks.systems import System, system

DEADLINE = 20.0
"""Seconds after which what was cancelled counts as never ended."""
PATIENCE = 120.0


def nothing(_: str) -> None:
    pass


async def streams(asked: System, count: int, words: int, seconds: float) -> dict[str, Any]:
    """So many streams at once; how many gave the whole text and nothing else."""
    model, expected = f"paced {words} {seconds:g}", wire.text(words)
    texts = [list[str]() for _ in range(count)]
    await asked.stream(model="burst 1", told=nothing)[0]  # what is only done once
    before = resident()
    began = time.perf_counter()
    with Cpu() as used:
        tasks = [asyncio.ensure_future(asked.stream(model, text.append)[0]) for text in texts]
        _, late = await asyncio.wait(tasks, timeout=PATIENCE)
    wall = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for task in late:
        task.cancel()
    await asyncio.wait(tasks, timeout=DEADLINE)
    failures = {
        type(e).__name__ for task in tasks if task.done() and not task.cancelled() and (e := task.exception())
    }
    return {
        "correct": sum("".join(text) == expected for text in texts),
        "late": len(late),
        "wall": wall,
        "cpu": used.seconds,
        "memory": peak - before,
        "failures": sorted(failures),
    }


async def cancel(asked: System, count: int) -> dict[str, Any]:
    """So many live streams cancelled at once; the parent asks the provider when their connections have closed."""
    heard, everyone = set[int](), asyncio.Event()

    def told(number: int, _: str) -> None:
        heard.add(number)
        if len(heard) == count:
            everyone.set()

    works = [asked.stream("speaks 1", partial(told, number)) for number in range(count)]
    tasks = [asyncio.ensure_future(work) for work, _ in works]
    async with asyncio.timeout(PATIENCE):
        await everyone.wait()
    await asyncio.sleep(0.2)
    gc.collect()
    began = time.monotonic()
    with Cpu() as used:
        for _, stop in works:
            done = stop()
            if isinstance(done, Awaitable):
                await done
        _, pending = await asyncio.wait(tasks, timeout=DEADLINE)
    ended = time.monotonic()
    answer = {"began": began, "took": ended - began, "pending": len(pending), "cpu": used.seconds}
    print(json.dumps(answer), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    for task in pending:
        task.cancel()
    return answer


async def costs(asked: System, url: str, rounds: int, deltas: int, times: int) -> dict[str, Any]:
    """CPU seconds of a delta in bursts, of one in a chunk of its own, and of an answer of one word; the bare client's, too."""
    bare = system("bare", url)

    async def of_delta(asked: System, model: str) -> float:
        heard: list[str] = []
        with Cpu() as used:
            await asked.stream(model, heard.append)[0]
        assert "".join(heard) == wire.text(deltas), (len(heard), "".join(heard)[:100])
        return used.seconds / deltas

    async def of_word(asked: System) -> float:
        with Cpu() as used:
            for _ in range(times):
                assert await asked.once("burst 1") == "w0 "
        return used.seconds / times

    found: dict[str, Any] = {}
    for what, work in (
        ("burst", partial(of_delta, model=f"burst {deltas}")),
        ("chunks", partial(of_delta, model=f"chunks {deltas}")),
        ("word", of_word),
    ):
        found[what] = await best({"it": partial(work, asked), "bare": partial(work, bare)}, rounds)
    await bare.close()
    return found


async def made(asked: System, times: int) -> dict[str, Any]:
    asked.make()
    found: list[float] = []
    for _ in range(5):
        with Cpu() as used:
            for _ in range(times):
                asked.make()
        found.append(used.seconds / times)
    return {"seconds": min(found)}


async def run(name: str, url: str, case: str, numbers: list[str]) -> None:
    asked = system(name, url)
    works: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {
        "streams": lambda: streams(asked, int(numbers[0]), int(numbers[1]), float(numbers[2])),
        "cancel": lambda: cancel(asked, int(numbers[0])),
        "costs": lambda: costs(asked, url, *map(int, numbers)),
        "made": lambda: made(asked, int(numbers[0])),
    }
    answer = await works[case]()
    print(json.dumps(answer), flush=True)
    await asked.close()


def main() -> None:
    name, loop, url, case, *numbers = sys.argv[1:]
    many_files()
    with asyncio.Runner(loop_factory=loop_factory(uvloop=loop == "uvloop")) as runner:
        runner.run(run(name, url, case, numbers))


if __name__ == "__main__":
    main()
