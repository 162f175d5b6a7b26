"""The tools of an MCP server (extra `mcp`), which this file is too: `mcp_server.py serve` is the server.

The server is started when the block is entered and has ended when it is left. A cancel of the run reaches the call.
"""

from __future__ import annotations

import asyncio
import os
import sys

from mcp.server.mcpserver import Context, MCPServer

from kern_async import Agent
from kern_async.models.openai import OpenAIResponses
from kern_async.tools.mcp import MCPTools


def server_pid() -> int:
    """The server's process id."""
    return os.getpid()


async def wait(seconds: float, context: Context) -> str:
    """Wait for some seconds."""
    await context.report_progress(0, seconds, f"waiting for {seconds:g} s")
    await asyncio.sleep(seconds)
    return f"waited for {seconds:g} s"


def serve() -> None:
    server = MCPServer("clock", log_level="ERROR")
    server.add_tool(server_pid)
    server.add_tool(wait)
    server.run("stdio")


async def main() -> None:
    async with MCPTools([sys.executable, __file__, "serve"], tool_name_prefix="clock") as clock:
        print(f"the server has: {', '.join(clock.functions)}")
        agent = Agent(name="Waiter", model=OpenAIResponses(id="gpt-5.2"), tools=[clock])
        async with agent.arun("Wait for an hour.", stream=True, stream_events=True) as events:
            async for event in events:
                if event.event == "CustomEvent":  # the server's progress
                    print(event.content)
                    events.cancel(reason="nobody waits that long")
        output = events.output
        assert output is not None
        print(f"{output.status}: {output.reason or output.content}")
        for call in output.tools:
            print(f"  {call.tool_name} {call.tool_args}: {call.result}")


if __name__ == "__main__":
    if "serve" in sys.argv:
        serve()
    else:
        asyncio.run(main())
