"""A tool ends the run that called it: nothing further is asked of the model.

`cancel_run` may be called from anywhere, the run's own tools included. A tool gets to know its run by a parameter
that is annotated `RunContext`.
"""

from __future__ import annotations

import asyncio

from kern_async import Agent, RunContext, cancel_run
from kern_async.models.openai import OpenAIResponses

FROZEN = {"C-17"}


async def transfer(account: str, amount: float, context: RunContext) -> str:
    """Transfer money to an account.

    Args:
        account: The account's number, such as C-3.
        amount: How much, in euros.
    """
    if account in FROZEN:
        print(f"account {account} is frozen: stopping the run")
        cancel_run(context.run_id, reason=f"account {account} is frozen")
        await asyncio.sleep(0)  # the cancel arrives at this await, at the latest
    return f"{amount} euros were sent to {account}."


async def main() -> None:
    agent = Agent(
        name="Teller",
        model=OpenAIResponses(id="gpt-5.2"),
        instructions="Transfer money with the tool, then say what you did.",
        tools=[transfer],
    )
    output = await agent.arun("Send 100 euros to C-17, then 20 euros to C-3.")
    print(f"{output.status}: {output.reason or output.content}")
    for call in output.tools:
        print(f"  {call.tool_name} {call.tool_args}: {call.result}")
    print(f"model requests: {output.metrics.model_requests}")


if __name__ == "__main__":
    asyncio.run(main())
