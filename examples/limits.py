"""Limits for a team and everything below it: what was begun finishes, the next is not begun, and the run ends."""

from __future__ import annotations

import asyncio

from kern_async import Agent, RunLimits, Team
from kern_async.models.openai import OpenAIResponses

PRICES = {"apple": 2, "pear": 3, "plum": 1}


async def price_of(fruit: str) -> int:
    """The price of a fruit, in euros."""
    print(f"looking up: {fruit}")
    return PRICES.get(fruit, 0)


async def main() -> None:
    model = OpenAIResponses(id="gpt-5.2")
    clerk = Agent(name="Clerk", model=model, tools=[price_of], instructions="Look every price up.")
    team = Team(
        name="Shop",
        model=model,
        members=[clerk],
        # Three calls: the leader's to the clerk counts, so two prices can be looked up.
        limits=RunLimits(model_requests=20, tool_calls=3, total_tokens=50_000),
    )
    output = await team.arun("What do an apple, a pear and a plum cost together? Ask the clerk.")

    print(f"{output.status}", f"by {output.cancelled_by}: {output.reason}" if output.is_cancelled else "")
    for member in output.member_responses:
        for call in member.tools:
            print(f"  {call.tool_name} {call.tool_args}: {call.result}")
    print(f"said: {output.content}")
    print(f"model requests: {output.metrics.model_requests}, tool calls: {output.metrics.tool_calls}")


if __name__ == "__main__":
    asyncio.run(main())
