"""MCP servers behind a URL: the SDK's own, over both of its HTTP transports."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest

from kern_async.exceptions import ToolError
from kern_async.tools.mcp import MCPTools

from .conftest import HttpServer, is_stale, until, use


def tools_of(server: HttpServer, **options: Any) -> MCPTools:
    return MCPTools(url=server.url, transport=None if server.transport != "sse" else "sse", **options)


async def test_the_tools_behind_a_url_are_listed_and_called(http: HttpServer) -> None:
    async with tools_of(http) as tools:
        assert list(tools.functions) == ["add", "hang", "grow", "pid"]
        assert await use(tools, "add", '{"a": 1, "b": 2}') == "3"
        assert await use(tools, "grow") == "grown"
        await until(lambda: is_stale(tools))
        assert "grown" in await tools.load()


async def test_a_cancel_reaches_the_server_and_the_connection_stays(http: HttpServer, tmp_path: Path) -> None:
    path = tmp_path / "state"
    reports: list[Any] = []

    async def state(expected: str) -> None:
        await until(lambda: path.exists() and path.read_text() == expected)

    async with tools_of(http) as tools:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: use(tools, "hang", f'{{"path": "{path}"}}', reports=reports))
            await state("begun")
            assert await use(tools, "add", '{"a": 1, "b": 2}') == "3"
            group.cancel_scope.cancel()
        await state("cancelled")
        assert reports == ["half of it"]
        assert await use(tools, "add", '{"a": 1, "b": 2}') == "3"


async def test_a_server_that_dies_in_mid_call_is_a_tool_error_until_it_is_back(
    http: HttpServer, tmp_path: Path
) -> None:
    path = tmp_path / "state"

    async def hang() -> None:
        with pytest.raises(ToolError, match="ended or cut the connection"):
            await use(tools, "hang", f'{{"path": "{path}"}}')

    async with tools_of(http) as tools:
        async with anyio.create_task_group() as group:
            group.start_soon(hang)
            await until(path.exists)
            http.kill()
        functions = await tools.load()
        assert "add" in functions
        with pytest.raises(ToolError, match="cannot be reached"):
            await use(tools, "add", '{"a": 1, "b": 2}')
        http.start()
        assert await use(tools, "add", '{"a": 1, "b": 2}') == "3"


async def test_a_server_that_was_started_anew_between_two_calls_is_found_again(http: HttpServer) -> None:
    async with tools_of(http) as tools:
        await use(tools, "pid")
        http.kill()
        http.start()
        with suppress(ToolError):  # which says that the connection was cut
            await use(tools, "pid")
        assert (await use(tools, "pid")).isdigit()


async def test_a_url_where_nobody_listens_is_a_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        tools = MCPTools(url=f"http://127.0.0.1:{taken.getsockname()[1]}/mcp", name="files")
        with pytest.raises(ToolError, match=r"MCP server 'files' \(http://127.* cannot be reached"):
            await tools.load()


async def test_a_url_that_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        tools = MCPTools(url=f"http://127.0.0.1:{listening.getsockname()[1]}/mcp", timeout_seconds=0.3)
        with pytest.raises(ToolError, match=r"did not answer within 0\.3 seconds"):
            await tools.load()


async def test_headers_are_sent_with_every_request() -> None:
    heads: list[bytes] = []

    async def answer(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            heads.append(await stream.receive())

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, answer)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        with pytest.raises(ToolError):
            await MCPTools(url=f"http://127.0.0.1:{port}/mcp", headers={"Authorization": "Bearer key"}).load()
        group.cancel_scope.cancel()
    assert heads
    assert all(b"authorization: bearer key" in head.lower() for head in heads)
    assert "key" not in repr(MCPTools(url="http://x/mcp", headers={"Authorization": "Bearer key"})._server)
