"""A member's tool waits for a person: the whole team pauses, and goes on with the answer.

Asks in the terminal; `--yes` and `--no` answer for you.
"""

from __future__ import annotations

import asyncio
import sys

from kern_async import Agent, Team, tool
from kern_async.models.openai import OpenAIResponses


@tool(requires_confirmation=True)
def send_mail(to: str, text: str) -> str:
    """Send a mail.

    Args:
        to: Who gets it.
        text: What it says.
    """
    print(f"(sent to {to})")
    return f"The mail to {to} was sent."


def allowed(question: str) -> bool:
    if "--yes" in sys.argv or "--no" in sys.argv:
        print(question, "yes" if "--yes" in sys.argv else "no")
        return "--yes" in sys.argv
    return input(f"{question} [y/n] ").startswith("y")


async def main() -> None:
    model = OpenAIResponses(id="gpt-5.2")
    clerk = Agent(name="Clerk", model=model, tools=[send_mail], instructions="Write and send the mail.")
    team = Team(name="Office", model=model, members=[clerk], instructions="Delegate mails to the clerk.")

    output = await team.arun("Tell ann@example.org that the meeting is at ten.")
    while output.is_paused:
        for requirement in output.active_requirements:
            call = requirement.tool_execution
            who = requirement.member_agent_name or "the leader"
            question = f"{who} wants {call.tool_name}({call.tool_args}). Allow it?"
            if await asyncio.to_thread(allowed, question):
                requirement.confirm()
            else:
                requirement.reject("the user does not want this mail to be sent")
        output = await team.acontinue_run(output)
    print(f"{output.status}: {output.content}")


if __name__ == "__main__":
    asyncio.run(main())
