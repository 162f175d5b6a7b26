"""The tools of MCP servers (extra `mcp`)."""

from __future__ import annotations

import importlib
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, Self
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel

from kern_async.exceptions import ConfigurationError, ToolError
from kern_async.run.context import RunContext

from .function import Function
from .options import check_seconds
from .toolkit import Toolkit

if TYPE_CHECKING:
    from mcp import StdioServerParameters
    from mcp.client.client import Client
    from mcp_types import CallToolResult, Tool

    from .mcp_process import Command
    from .mcp_session import Address, Session

Transport = Literal["stdio", "sse", "streamable-http"]

_TRIES = 3


class MCPTools(Toolkit):
    """The tools of an MCP server: of a command that is started and spoken to through its pipes, or of a URL.

    As a tool of an agent it connects at the first run that needs it and stays connected, once for each event loop,
    until `close()`, the end of the loop, or the interpreter's exit. `async with MCPTools(...) as tools:` connects at
    once and ends the server with the block, also when the block is left by a cancel.

    A cancel of a run reaches the server, as the protocol's cancellation of that one request; the call is left at
    once and the connection stays for the others. A server that ends, hangs or cannot be reached makes tool errors,
    and the next call tries to start it again.

    Args:
        command: a program and its arguments, as a string or a list. It gets few variables of our environment
            (`HOME`, `PATH`, `USER`, ...), and `env`.
        url: an http(s) address.
        env: variables for the command, over those that it gets anyway.
        cwd: the command's directory.
        headers: HTTP headers for the URL, with keys for example.
        transport: "streamable-http" (a URL's default), "sse" (older servers), "stdio" (a command's).
        server_params: the SDK's own description of a command, instead of `command`, `env` and `cwd`.
        timeout_seconds: for connecting, and for each call.
        include_tools: only these, by the server's names.
        exclude_tools: all but these.
        tool_name_prefix: "x" makes "x_read" of "read".
        name: what messages call this server.

    Raises:
        ConfigurationError: the extra is not installed, the command does not exist, or the arguments contradict.
    """

    remote: ClassVar[bool] = True

    def __init__(
        self,
        command: str | Sequence[str] | None = None,
        *,
        url: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        headers: Mapping[str, str] | None = None,
        transport: Transport | None = None,
        server_params: StdioServerParameters | None = None,
        timeout_seconds: float = 10,
        include_tools: Sequence[str] | None = None,
        exclude_tools: Sequence[str] | None = None,
        tool_name_prefix: str | None = None,
        name: str | None = None,
        instructions: str | None = None,
    ) -> None:
        try:  # here, where it costs a second once, and not later on an event loop
            importlib.import_module(f"{__package__}.mcp_session")
        except ImportError as error:
            raise ConfigurationError(
                f"MCPTools needs the extra `mcp` ({error}); install it: pip install 'kern-async[mcp]'"
            ) from error

        if (command is not None) + (url is not None) + (server_params is not None) != 1:
            raise ConfigurationError("MCPTools needs exactly one of command=, url= and server_params=")
        check_seconds("timeout_seconds", timeout_seconds)
        if server_params is not None:
            if env is not None or cwd is not None:
                raise ConfigurationError("env and cwd belong into server_params, or give command=")
            command, env, cwd = (
                [server_params.command, *server_params.args],
                server_params.env,
                server_params.cwd,
            )
        self._server: Command | Address
        if url is not None:
            if env is not None or cwd is not None:
                raise ConfigurationError("env= and cwd= are for a command, not for a URL")
            self._server = _address(url, headers, transport)
        else:
            if headers is not None:
                raise ConfigurationError("headers= are for a URL, not for a command")
            self._server = _command(command, env, cwd, transport)
        super().__init__(
            name=name or tool_name_prefix or _short(self._server),
            instructions=instructions,
            include_tools=include_tools,
            exclude_tools=exclude_tools,
        )
        self.timeout_seconds = float(timeout_seconds)
        self.tool_name_prefix = tool_name_prefix
        self._sessions: dict[object, Session] = {}  # by event loop: the one that takes new requests
        self._alive: set[Session] = set()
        self._blocks: dict[object, int] = {}  # by event loop: how many `async with` are open
        self._functions: dict[str, Function] | None = None

    @property
    def functions(self) -> dict[str, Function]:
        """The tools by name, as they were listed last; none before the first connection."""
        return dict(self._functions or {})

    def register(self, tool: Any) -> NoReturn:
        """An MCP server's tools are its own."""
        raise ConfigurationError(
            f"{tool!r} cannot be added to an MCP server's tools; give it to the agent itself"
        )

    async def load(self) -> dict[str, Function]:
        """The tools by name; connects, and lists them anew if the server has announced others.

        When a server that was connected before cannot be reached, its tools are those that it had: a call of one
        says what is wrong. A cancel leaves at once; the connection is made all the same, for others.

        Raises:
            ToolError: the server cannot be reached, or does not answer within `timeout_seconds`.
            ConfigurationError: `include_tools` or `exclude_tools` names a tool that it does not have, or two
                tools have one name.
        """
        try:
            session = await self._session()
            if session.stale:
                await session.refresh()
        except ToolError:
            if self._functions is None:
                raise
            return self.functions
        except TimeoutError as error:
            raise self._too_slow("tools/list") from error
        except Exception as error:
            raise ToolError(f"MCP server {self.name!r} does not list its tools: {error}") from error
        if session.functions is None:
            session.functions = self._chosen(session.tools)
        self._functions = session.functions
        return self.functions

    async def connect(self) -> None:
        """Connect on this event loop and list the tools, if that was not done yet.

        A cancel leaves at once; the connection is made all the same, until `close()`.

        Raises:
            ToolError: the server cannot be reached, or does not answer within `timeout_seconds`.
            ConfigurationError: as `load`.
        """
        await self._session()
        await self.load()

    async def close(self) -> None:
        """End the connections of all event loops, and their servers; the next run makes a new one.

        Waits for that, a few seconds at most; a cancel does not cut it short.
        """
        await self._end(list(self._alive))

    async def __aenter__(self) -> Self:
        loop = anyio.lowlevel.current_token().native_token
        self._blocks[loop] = self._blocks.get(loop, 0) + 1
        try:
            await self.connect()
        except BaseException:
            await self._leave(loop)
            raise
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._leave(anyio.lowlevel.current_token().native_token)

    def __repr__(self) -> str:
        return f"MCPTools(name={self.name!r}, server={str(self._server)!r}, functions={list(self.functions)})"

    async def _leave(self, loop: object) -> None:
        self._blocks[loop] -= 1
        if not self._blocks[loop]:  # the last block of this loop
            del self._blocks[loop]
            await self._end([session for session in (self._sessions.get(loop),) if session is not None])

    async def _end(self, sessions: Sequence[Session]) -> None:
        for session in sessions:
            session.ask_to_stop()
        for session in sessions:
            await session.wait_ended()

    async def _session(self) -> Session:
        """The connection of this event loop, when it stands.

        Raises:
            ToolError: it could not be made.
        """
        from .mcp_session import Session

        loop = anyio.lowlevel.current_token().native_token
        for _ in range(_TRIES):
            session = self._sessions.get(loop)
            if session is None or session.closing:
                for other in list(self._alive):
                    other.notice_closed_loop()

                def forget(ended: Session) -> None:
                    self._alive.discard(ended)
                    if self._sessions.get(loop) is ended:
                        del self._sessions[loop]

                session = Session(self._server, name=self.name, timeout=self.timeout_seconds, on_end=forget)
                self._sessions[loop] = session
                self._alive.add(session)
                session.start()
            await session.ready.wait()
            if session.error is not None and not session.stood:
                raise ToolError(str(session.error))
            if not session.closing:
                return session
        raise ToolError(f"MCP server {self.name!r} ends as soon as it is connected")

    async def _call(self, tool: str, arguments: dict[str, Any], context: RunContext | None) -> CallToolResult:
        async def told(progress: float, total: float | None, message: str | None) -> None:
            if context is not None:
                context.report(message or (f"{progress:g}" if total is None else f"{progress:g}/{total:g}"))

        async def send(client: Client) -> CallToolResult:
            return await client.call_tool(tool, arguments, progress_callback=told)

        session = await self._session()
        try:
            return await session.request(send)
        except ToolError:
            raise
        except TimeoutError as error:
            raise self._too_slow(tool) from error
        except Exception as error:
            raise ToolError(f"MCP server {self.name!r}: {tool}: {error}") from error

    def _too_slow(self, what: str) -> ToolError:
        return ToolError(
            f"MCP server {self.name!r}: {what} did not answer within {self.timeout_seconds:g} seconds "
            "(timeout_seconds)"
        )

    def _chosen(self, tools: Sequence[Tool]) -> dict[str, Function]:
        from .mcp_tool import functions_of

        names = {tool.name for tool in tools}
        wanted = names if self._include is None else self._include
        if unknown := (wanted | self._exclude) - names:
            known = ", ".join(sorted(names)) or "none"
            raise ConfigurationError(
                f"the MCP server {self.name!r} has no tool {min(unknown)!r}, which include_tools or exclude_tools "
                f"names; it has {known}"
            )
        chosen = [tool for tool in tools if tool.name in wanted and tool.name not in self._exclude]
        return functions_of(self.name, chosen, prefix=self.tool_name_prefix, caller=self._call)


def _command(
    command: str | Sequence[str] | None,
    env: Mapping[str, str] | None,
    cwd: str | os.PathLike[str] | None,
    transport: Transport | None,
) -> Command:
    from .mcp_process import Command

    if transport not in (None, "stdio"):
        raise ConfigurationError(f'transport={transport!r} is for a URL; a command is spoken to by "stdio"')
    try:
        argv = shlex.split(command) if isinstance(command, str) else list(command or ())
    except ValueError as error:
        raise ConfigurationError(f"the MCP command {command!r} cannot be split: {error}") from error
    if not argv or not argv[0]:
        raise ConfigurationError(f"the MCP command is empty: {command!r}")
    if cwd is not None and not Path(cwd).is_dir():
        raise ConfigurationError(f"the MCP command's directory does not exist: {os.fspath(cwd)!r}")
    program = Path(cwd or ".", argv[0]) if os.sep in argv[0] else argv[0]
    found = shutil.which(program, path=(env or {}).get("PATH"))
    if found is None:
        raise ConfigurationError(
            f"the MCP command {argv[0]!r} does not exist, or cannot be executed; "
            "install it, or give its full path"
        )
    return Command(
        argv=(str(Path(found).absolute()), *argv[1:]),
        env=dict(env or {}),
        cwd=None if cwd is None else os.fspath(cwd),
    )


def _address(url: str, headers: Mapping[str, str] | None, transport: Transport | None) -> Address:
    from .mcp_session import Address

    if transport == "stdio":
        raise ConfigurationError('transport="stdio" is for a command, not for a URL')
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(f"the URL of an MCP server is http:// or https://, not {url!r}")
    if transport not in (None, "sse", "streamable-http"):
        raise ConfigurationError(f'transport is "stdio", "sse" or "streamable-http", not {transport!r}')
    return Address(url=url, headers=dict(headers or {}), transport=transport or "streamable-http")


def _short(server: Command | Address) -> str:
    text = str(server)
    return urlsplit(text).netloc or Path(text).name
