"""Say something to a run that is at work: it is heard before the next model request, and nothing is cut.

A run whose answer is already complete goes on for it, so a message that was taken is always answered.
"""

from __future__ import annotations

import asyncio

from kern_async import Agent, RunContext, send_message
from kern_async.models.openai import OpenAIResponses


async def search(topic: str, context: RunContext) -> str:
    """Search the library.

    Args:
        topic: What for.
    """
    print(f"searching: {topic}")
    # A user who watches would say this from a web page or another thread; any thread may.
    taken = send_message(context.run_id, "Only books about sailing ships, please.")
    print(f"the message was taken: {taken}")
    return "The Sea (novel); Under Sail (sailing ships); Steam (steamers)"


async def main() -> None:
    agent = Agent(name="Librarian", model=OpenAIResponses(id="gpt-5.2"), tools=[search])
    output = await agent.arun("Which books about the sea do you have?", run_id="the-question")
    print(f"{output.status}: {output.content}")
    for message in output.messages:
        if message.role == "user":
            print(f"heard: {message.content}")
    print(f"a message after the end is taken: {send_message('the-question', 'Thank you!')}")


if __name__ == "__main__":
    asyncio.run(main())
