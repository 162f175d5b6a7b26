"""A team in a team is cancelled as one: the innermost runs end first, the root's end is the last event."""

from __future__ import annotations

import asyncio
import os

from kern_async import Agent, RunOutput, Team, TeamMode, TeamRunOutput
from kern_async.models.openai import OpenAIResponses

SECONDS = float(os.environ.get("SECONDS", "3"))


def tree(output: TeamRunOutput | RunOutput, depth: int = 0) -> None:
    """Print a run and, below it, those of its members."""
    name = output.team_name if isinstance(output, TeamRunOutput) else output.agent_name
    by = f" by {output.cancelled_by}" if output.cancelled_by else ""
    print(f"{'  ' * depth}{name}: {output.status}{by}, {len(output.content or '')} characters")
    if isinstance(output, TeamRunOutput):
        for member in output.member_responses:
            tree(member, depth + 1)


async def main() -> None:
    model = OpenAIResponses(id="gpt-5.2")
    writers = Team(
        name="Writers",
        members=[Agent(name="Poet", model=model), Agent(name="Novelist", model=model)],
        model=model,
        mode=TeamMode.broadcast,
    )
    house = Team(
        name="Publishing House",
        members=[writers, Agent(name="Illustrator", model=model)],
        model=model,
        mode=TeamMode.broadcast,
    )
    speaking: set[str] = set()
    stop: asyncio.TimerHandle | None = None
    async with house.arun("Make a very long book about the sea.", stream=True) as events:
        async for event in events:
            if event.event == "RunContent":
                speaking.add(event.run_id)
                if len(speaking) == 3 and stop is None:
                    # cancel_run is no coroutine and never blocks: a timer may call it, or a signal handler.
                    stop = asyncio.get_running_loop().call_later(SECONDS, house.cancel_run, events.run_id)
            elif event.event == "RunCancelled":
                print(f"cancelled: {event.agent_name}")
            elif event.event == "TeamRunCancelled":
                print(f"cancelled: {event.team_name}")
    if stop is not None:
        stop.cancel()
    assert events.output is not None
    tree(events.output)


if __name__ == "__main__":
    asyncio.run(main())
