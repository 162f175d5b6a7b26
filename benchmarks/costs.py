"""What a cancel and a streamed delta cost, beside the bare thing, in one process and run.

    python benchmarks/costs.py [--rounds N] [--uvloop]

Prints medians and the two ratios that the runtime is designed for:

- cancel: from `cancel_run` to the terminal event in the consumer, against `task.cancel()` to a bare task's `finally`
  (goal: at most 15x);
- delta: CPU time of a streamed delta from the HTTP response to the consumer, against the bare `openai` client
  (goal: at most 0.25x). The provider is another process on loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Generator

import anyio
import openai

from kern_async.agent import Agent
from kern_async.models.base import Emit, Model, ModelReply, ModelRequest
from kern_async.models.openai import OpenAIResponses

CANCELS = 500
DELTAS = 4000


class Hanging(Model):
    """Says one word and then nothing."""

    async def respond(self, request: ModelRequest, emit: Emit) -> ModelReply:
        await emit("text", "word ")
        await anyio.sleep_forever()
        raise AssertionError


async def bare_cancel() -> float:
    """Seconds from `task.cancel()` to the task's `finally`."""
    ended = 0.0

    async def body() -> None:
        nonlocal ended
        try:
            await asyncio.sleep(3600)
        finally:
            ended = time.perf_counter()

    task = asyncio.create_task(body())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    began = time.perf_counter()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return ended - began


async def run_cancel(agent: Agent) -> float:
    """Seconds from `cancel_run` to the terminal event in the consumer."""
    ended = 0.0
    speaking = asyncio.Event()

    async def consume() -> None:
        nonlocal ended
        async with stream:
            async for event in stream:
                if event.event == "RunContent":
                    speaking.set()
                elif event.event == "RunCancelled":
                    ended = time.perf_counter()

    stream = agent.arun("go", stream=True)
    task = asyncio.create_task(consume())
    await speaking.wait()
    for _ in range(5):  # the consumer waits for the next event by now
        await asyncio.sleep(0)
    began = time.perf_counter()
    agent.cancel_run(stream.run_id)
    await task
    return ended - began


async def cancels_in_turn(agent: Agent, times: int) -> tuple[float, float]:
    """Medians of both, one after the other in turn: the machine's speed drifts, and both find the caches cold."""
    pairs = [(await bare_cancel(), await run_cancel(agent)) for _ in range(times + times // 10)][
        times // 10 :
    ]
    return statistics.median(bare for bare, _ in pairs), statistics.median(ours for _, ours in pairs)


async def bare_deltas(client: openai.AsyncOpenAI) -> float:
    """CPU seconds for a delta that the bare client streams."""
    count = 0
    began = time.process_time()
    async with await client.responses.create(model="bench", input="go", stream=True) as events:
        async for event in events:
            count += event.type == "response.output_text.delta"
    return (time.process_time() - began) / count


async def run_deltas(agent: Agent) -> float:
    """CPU seconds for a delta that a run streams."""
    count = 0
    began = time.process_time()
    async with agent.arun("go", stream=True) as events:
        async for event in events:
            count += event.event == "RunContent"
    return (time.process_time() - began) / count


@contextlib.contextmanager
def provider(*options: str) -> Generator[str]:
    """A provider in a process of its own; gives its base URL."""
    text = "".join(f"w{n} " for n in range(DELTAS))
    command = [sys.executable, "-m", "kern_async.testing.provider", "--port", "0", "--text", text, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


async def measure(rounds: int) -> None:
    agent = Agent(name="bench", model=Hanging("hanging"))
    bare, ours = min(
        [await cancels_in_turn(agent, CANCELS) for _ in range(rounds)], key=lambda both: both[1] / both[0]
    )
    report("cancel, us", bare * 1e6, ours * 1e6, 15)
    for what, options in (("burst", ["--burst"]), ("event a chunk", [])):
        with provider(*options) as url:
            client = openai.AsyncOpenAI(base_url=url, api_key="bench", max_retries=0)
            speaker = Agent(name="bench", model=OpenAIResponses("bench", base_url=url, api_key="bench"))
            bares: list[float] = []
            runs: list[float] = []
            for _ in range(rounds + 1):
                bares.append(await bare_deltas(client))
                runs.append(await run_deltas(speaker))
            report(f"delta, {what}, CPU us", min(bares) * 1e6, min(runs) * 1e6, 0.25)
            await client.close()


def report(what: str, bare: float, ours: float, goal: float) -> None:
    """Print one line: the bare thing, ours, the ratio and its goal."""
    ratio = ours / bare
    verdict = "ok" if ratio <= goal else "MISSED"
    print(
        f"{what:<28} bare {bare:8.1f}   kern_async {ours:8.1f}   ratio {ratio:6.2f}   goal <= {goal:g}  {verdict}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--uvloop", action="store_true")
    arguments = parser.parse_args()
    loop = "uvloop" if arguments.uvloop else "asyncio"
    print(
        f"Python {platform.python_version()}, {loop}, {os.cpu_count()} cores, openai {openai.__version__}; best of {arguments.rounds}"
    )
    anyio.run(measure, arguments.rounds, backend_options={"use_uvloop": arguments.uvloop})


if __name__ == "__main__":
    main()
