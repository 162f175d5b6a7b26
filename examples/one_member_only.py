"""Cancel one member of a team. Its leader is told, gets what there is, and answers without the rest."""

from __future__ import annotations

import asyncio

from kern_async import Agent, Team, TeamMode
from kern_async.models.openai import OpenAIResponses

ENOUGH = 200  # characters


async def main() -> None:
    model = OpenAIResponses(id="gpt-5.2")
    team = Team(
        name="Panel",
        members=[
            Agent(name="Talker", model=model, instructions="Never come to an end."),
            Agent(name="Thinker", model=model, instructions="Answer in one sentence."),
        ],
        model=model,
        mode=TeamMode.broadcast,
        instructions="Sum up what the members said, in one sentence.",
    )
    said = 0
    async with team.arun("What is time?", stream=True) as events:
        async for event in events:
            if event.event == "RunContent" and event.agent_name == "Talker":
                said += len(event.content)
                if said >= ENOUGH and team.cancel_run(event.run_id, reason="it talks too much"):
                    said = -1_000_000
                    print(f"cancelling the Talker after {ENOUGH} characters")
            elif event.event == "RunCancelled":
                print(f"{event.agent_name} was cancelled: {event.reason}")
            elif event.event == "RunCompleted":
                print(f"{event.agent_name} completed: {event.content}")
            elif event.event == "TeamRunCompleted":
                print(f"The team completed: {event.content}")


if __name__ == "__main__":
    asyncio.run(main())
