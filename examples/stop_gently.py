"""The first Ctrl-C lets the answer come to its end, the second one ends it at once. Both are kept.

`after_turn` waits for the model's current answer and for the tools that it calls; a later cancel may be more urgent.
"""

from __future__ import annotations

import asyncio
import signal
from types import FrameType

from kern_async import Agent, cancel_run
from kern_async.models.openai import OpenAIResponses

RUN = "the-story"


def on_ctrl_c(_number: int, _frame: FrameType | None) -> None:
    # `cancel_run` may be called by a signal handler: it takes no lock and waits for nothing.
    if not stopping:
        stopping.append(cancel_run(RUN, reason="Ctrl-C", mode="after_turn"))
        print("\n[finishing this answer; Ctrl-C again to stop at once]", flush=True)
    else:
        cancel_run(RUN)
        print("\n[stopping now]", flush=True)


stopping: list[bool] = []


async def main() -> None:
    agent = Agent(name="Writer", model=OpenAIResponses(id="gpt-5.2"))
    signal.signal(signal.SIGINT, on_ctrl_c)
    async with agent.arun("Tell a story in ten chapters.", stream=True, run_id=RUN) as events:
        async for event in events:
            if event.event == "RunContent":
                print(event.content, end="", flush=True)
    output = events.output
    assert output is not None
    print(f"\n{output.status}", f"by {output.cancelled_by}: {output.reason}" if output.is_cancelled else "")
    print(f"interrupted: {', '.join(work.kind for work in output.interrupted) or 'nothing'}")
    print(f"kept: {len(output.content or '')} characters")


if __name__ == "__main__":
    asyncio.run(main())
