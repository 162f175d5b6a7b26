"""An `asyncio.timeout` round a run: it is asyncio's own TimeoutError, and the run has ended when it comes.

The same holds for `task.cancel()`, `anyio.fail_after`, and a sibling that fails in a task group.
"""

from __future__ import annotations

import asyncio
import os

from kern_async import Agent
from kern_async.models.openai import OpenAIResponses

SECONDS = float(os.environ.get("SECONDS", "5"))


async def main() -> None:
    agent = Agent(name="Storyteller", model=OpenAIResponses(id="gpt-5.2"))
    events = agent.arun("Tell a very long story.", stream=True)
    try:
        async with asyncio.timeout(SECONDS), events:
            async for event in events:
                if event.event == "RunContent":
                    print(event.content, end="", flush=True)
    except TimeoutError:
        print("\n\nTimeoutError")
    output = events.output
    assert output is not None
    print(f"{output.status}, by {output.cancelled_by}")
    print(f"kept: {len(output.content or '')} characters")


if __name__ == "__main__":
    asyncio.run(main())
