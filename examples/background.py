"""A run that nobody waits for: begun, followed from elsewhere, left, followed again from there, and cancelled.

`arun(..., background=True)` is back as soon as the run is stored. Whoever has its id and the database finds it, in
this process or another one. CHARACTERS says how many are read before it is cancelled.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from kern_async import Agent
from kern_async.db.sqlite import SqliteDb
from kern_async.models.openai import OpenAIResponses

CHARACTERS = int(os.environ.get("CHARACTERS", "1000"))


async def follow(agent: Agent, run_id: str, characters: int, after: int = -1) -> int:
    """Show so much of what the run says; return the index of the last event that was read."""
    async for event in agent.run_events(run_id, after=after):
        after = event.event_index
        if event.event == "RunContent":
            print(event.content, end="", flush=True)
            characters -= len(event.content)
            if characters <= 0:
                break  # leaving changes nothing for the run
    print()
    return after


async def main(db_file: str | Path) -> None:
    db = SqliteDb(db_file)
    agent = Agent(name="Writer", model=OpenAIResponses(id="gpt-5.2"), db=db, store_events=True)

    begun = await agent.arun("Tell a very long story.", background=True)
    print(f"begun: {begun.status}")

    last = await follow(agent, begun.run_id, CHARACTERS // 2)
    print("(looking away)")
    await follow(agent, begun.run_id, CHARACTERS // 2, after=last)

    cancelled = await agent.acancel_run(begun.run_id, reason="long enough", wait=True)
    output = await agent.aget_run_output(begun.run_id)
    assert output is not None
    print(f"acancel_run returned {cancelled}")
    print(f"{output.status}" + (f" by {output.cancelled_by}: {output.reason}" if output.is_cancelled else ""))
    print(f"kept: {len(output.content or '')} characters")
    await db.aclose()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(main(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as directory:
            asyncio.run(main(Path(directory) / "runs.db"))
