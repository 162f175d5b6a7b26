"""Cancel a run from another task of the same event loop, and wait until it has settled.

The task that reads is not cancelled: its loop ends after the terminal event, like that of any other run.
"""

from __future__ import annotations

import asyncio
import os

from kern_async import Agent, acancel_run
from kern_async.models.openai import OpenAIResponses
from kern_async.run.cancel import get_active_runs

SECONDS = float(os.environ.get("SECONDS", "3"))


async def main() -> None:
    agent = Agent(name="Storyteller", model=OpenAIResponses(id="gpt-5.2"))
    begun = asyncio.Event()

    async def stop(run_id: str) -> None:
        await begun.wait()
        await asyncio.sleep(SECONDS)
        stopped = await acancel_run(run_id, reason="the user pressed stop", wait=True)
        print(f"\n\nacancel_run returned {stopped}; the run is live: {run_id in get_active_runs()}")

    async with agent.arun("Tell a very long story.", stream=True) as events:
        stopper = asyncio.create_task(stop(events.run_id))
        async for event in events:
            if event.event == "RunContent":
                print(event.content, end="", flush=True)
                begun.set()
    output = events.output
    assert output is not None
    if output.is_cancelled:
        await stopper
    else:
        stopper.cancel()
    print(f"{output.status}, by {output.cancelled_by}: {output.reason}")
    print(f"kept: {len(output.content or '')} characters")


if __name__ == "__main__":
    asyncio.run(main())
