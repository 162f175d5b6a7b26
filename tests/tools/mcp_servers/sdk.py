"""An MCP server made with the SDK: `python sdk.py stdio`, or `sse`, `streamable-http` on a port that it prints."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import anyio
from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("sdk")


def note(path: str, state: str) -> None:
    Path(path).write_text(state)


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
async def hang(path: str, context: Context) -> str:
    """Wait until it is cancelled; say in the file what happens."""
    await context.report_progress(1, 2, "half of it")
    note(path, "begun")
    try:
        await anyio.sleep_forever()
    finally:
        note(path, "cancelled")
    return ""


@server.tool()
async def grow(context: Context) -> str:
    """Have one tool more."""
    server.add_tool(add, "grown")
    await context.notify_tools_changed()
    return "grown"


@server.tool()
def pid() -> int:
    """The server's process."""
    return os.getpid()


def main() -> None:
    transport = sys.argv[1]
    if transport == "stdio":
        server.run()
        return
    import uvicorn

    app = server.sse_app() if transport == "sse" else server.streamable_http_app()
    listening = socket.create_server(("127.0.0.1", int(sys.argv[2]) if len(sys.argv) > 2 else 0))
    print(listening.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1)).run([listening])


main()
