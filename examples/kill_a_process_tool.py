"""A tool in a process of its own and a shell command, both busy, both gone with the run: look for their pids.

A thread cannot be stopped; a process can. `isolation="process"` is for functions that compute, `run_process` for
commands. The functions of process tools are at the top level of a module, and agents start below the main guard.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from kern_async import Agent, RunContext, RunStatus, tool
from kern_async.models.openai import OpenAIResponses


@tool(isolation="process")
def count_for_ever(context: RunContext) -> str:
    """Count, and never come to an end."""
    context.report(os.getpid())
    number = 0
    while True:
        number += 1


async def sleep_in_a_shell(context: RunContext) -> str:
    """Sleep for an hour, in a shell's child."""
    done = await context.run_process("echo $$; sleep 3600 & echo $!; wait")
    return done.stdout


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")  # Linux; a process that has ended may still be listed, as a zombie
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


async def main() -> None:
    tools = [count_for_ever, sleep_in_a_shell]
    agent = Agent(
        name="Busy", model=OpenAIResponses(id="gpt-5.2"), tools=tools, instructions="Call both tools."
    )
    pids: list[int] = []
    async with agent.arun("Go.", stream=True, stream_events=True) as events:
        async for event in events:
            if event.event == "CustomEvent":  # progress: what a tool reports, or a command prints
                pids += map(int, str(event.content).split())
                if len(pids) == 3:
                    print(f"running: {[pid for pid in pids if alive(pid)] == pids}")
                    events.cancel()
    output = events.output
    assert output is not None
    print(f"{output.status}; left running: {[pid for pid in pids if alive(pid)]}")
    if output.status is RunStatus.cancelled:
        took = (output.settled_at or 0) - (output.requested_at or 0)
        print(
            f"interrupted: {', '.join(sorted(work.name for work in output.interrupted))}; {took * 1000:.0f} ms"
        )


if __name__ == "__main__":
    asyncio.run(main())
