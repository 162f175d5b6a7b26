"""The server that the reference's client talks to: `serve.py DIRECTORY`; its address is the first line it prints."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from kern_async import Agent, Team, tool
from kern_async.db.sqlite import SqliteDb
from kern_async.models.openai import OpenAIResponses
from kern_async.os import AgentOS
from kern_async.testing import ProviderServer, Reply, Request, Stall, Step, Text, ToolCall


@tool(requires_confirmation=True)
def pay(amount: int) -> str:
    """Pay an amount."""
    return f"paid {amount}"


def answer(request: Request) -> Step | Sequence[Step]:
    """Who asks says by its model's name what it does; after a tool call it says what came of it."""
    first, _, argument = request.model.partition(" ")
    results = [str(item["output"]) for item in request.input if item.get("type") == "function_call_output"]
    if results:
        return Text(f"It says: {results[-1]}")
    match first:
        case "delegates":
            return ToolCall("delegate_task_to_member", {"member_id": argument, "task": "Do it."})
        case "pays":
            return ToolCall("pay", {"amount": 7})
        case "hangs":
            return [Text("Once upon"), Stall()]
        case _:
            return Text("Once upon a time.")


def main(directory: Path) -> None:
    """Serve until SIGTERM."""
    with ProviderServer() as provider:
        reply: Reply = answer
        provider.reply(reply, times=None)

        def model(what: str) -> OpenAIResponses:
            return OpenAIResponses(id=what, base_url=provider.base_url, api_key="key", max_retries=0)

        writer = Agent(name="Writer", model=model("writes"), description="Writes stories.", role="writer")
        payer = Agent(name="Payer", model=model("pays"), tools=[pay])
        slow = Agent(name="Slow", model=model("hangs"))
        teams = [
            Team([writer], name="Authors", model=model("delegates writer"), description="They write."),
            Team([payer], name="Buyers", model=model("delegates payer")),
            Team([slow], name="Slow Team", model=model("delegates slow")),
        ]
        agent_os = AgentOS(
            name="For the reference",
            agents=[writer, payer, slow],
            teams=teams,
            db=SqliteDb(directory / "kern.db"),
        )
        agent_os.serve(port=0, on_ready=lambda url: print(url, flush=True), log_level="warning")
        if provider.open_requests:
            raise SystemExit("a request to the provider was left open")


main(Path(sys.argv[1]))
