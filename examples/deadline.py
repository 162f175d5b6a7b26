"""A deadline for a run and everything below it: no exception, but an output that says how far it came."""

from __future__ import annotations

import asyncio
import os

from kern_async import Agent, Team, TeamMode
from kern_async.models.openai import OpenAIResponses

SECONDS = float(os.environ.get("SECONDS", "5"))


async def main() -> None:
    model = OpenAIResponses(id="gpt-5.2")
    team = Team(
        name="Reviewers",
        members=[Agent(name="Optimist", model=model), Agent(name="Pessimist", model=model)],
        model=model,
        mode=TeamMode.broadcast,
    )
    output = await team.arun("Is it wise to settle on Mars? Argue at great length.", timeout=SECONDS)

    print(f"{output.status}", f"by {output.cancelled_by}: {output.reason}" if output.is_cancelled else "")
    for member in output.member_responses:
        print(f"  {member.status}: {len(member.content or '')} characters")
    cut = ", ".join(f"{work.kind} {work.name}" for work in output.interrupted)
    print(f"interrupted: {cut or 'nothing'}")
    print(f"tokens: {output.metrics.total_tokens}{' (estimated)' if output.metrics.estimated else ''}")


if __name__ == "__main__":
    asyncio.run(main())
