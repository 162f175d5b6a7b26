"""One connection to an MCP server, on one event loop.

The SDK's client opens task groups. They are entered and left in one task of the session's own, which nobody encloses:
neither a run nor a caller's `async with` has a scope of the SDK's open while its own code runs. A request is a child
task in there. Who asked for it only waits; when that one is cancelled it leaves at once, and the request's own scope
is cancelled, which has the SDK tell the server.
"""

from __future__ import annotations

import contextvars
import importlib.metadata
import math
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Generic, Literal, TypeVar, cast

import anyio
import httpx2
from anyio.abc import TaskGroup
from mcp.client.client import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import ListenNotSupportedError, SubscriptionLost
from mcp.shared.exceptions import MCPError
from mcp_types import CONNECTION_CLOSED, Implementation, Tool, ToolListChangedNotification

from kern_async.backend import EventLoop, current_loop
from kern_async.exceptions import ToolError

from .function import Function
from .mcp_process import Command, ServerProcess

T = TypeVar("T")

LEAVE = 2.0
"""Seconds that a session has to take its leave of a server; a process then has its own time to end."""
CLOSE = 6.0
"""Seconds that closing waits for a session's end at most: more than LEAVE and all that a process gets."""
_CONNECT = 30.0
_LISTEN = 1.0
_PAGES = 1000


@dataclass(frozen=True)
class Address:
    """Where a server is, and how it is spoken to."""

    url: str
    headers: dict[str, str] = field(default_factory=dict[str, str], repr=False)
    transport: Literal["sse", "streamable-http"] = "streamable-http"

    def __str__(self) -> str:
        return self.url


class _Ended(Exception):
    """The server's process ended before the connection stood."""


@dataclass(eq=False)
class _Request(Generic[T]):
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    done: anyio.Event = field(default_factory=anyio.Event)
    result: list[T] = field(default_factory=list[T])
    error: Exception | None = None


class Session:
    """A connection: it is made when `start` is called, and lives until it is stopped, the server's end or the loop's.

    `ready` is set when it stands, as `stood` says then, or has failed, as `error` says. `closing`: it takes no new
    requests. `tools` are the server's, and `functions` what was made of them; `stale`: the server has announced
    others. `on_end` is called when nothing is left.
    """

    def __init__(
        self, server: Command | Address, *, name: str, timeout: float, on_end: Callable[[Session], None]
    ) -> None:
        self.ready = anyio.Event()
        self.error: ToolError | None = None
        self.stood = False
        self.closing = False
        self.ended = False
        self.tools: list[Tool] = []
        self.functions: dict[str, Function] | None = None
        self.stale = False
        self._server = server
        self._name = name
        self._timeout = timeout
        self._on_end = on_end
        self._loop = current_loop()
        self._asked = False
        self._leave = anyio.Event()
        self._life = anyio.CancelScope()
        self._waiters: list[tuple[EventLoop, anyio.Event]] = []
        self._requests = 0
        self._group: TaskGroup | None = None
        self._client: Client | None = None
        self._process: ServerProcess | None = None

    def start(self) -> None:
        """Begin to connect, in a task of the session's own; does not wait."""
        # In an empty context: what is current in the run that happens to be the first is not the session's.
        self._loop.spawn(
            self._host, name=f"kern-mcp {self._name}", on_lost=self._finish, context=contextvars.Context()
        )

    def ask_to_stop(self) -> None:
        """Have it end, from any thread; does not wait."""
        self.closing = True
        try:
            self._loop.soon(self._stop)
        except RuntimeError:
            self._bury()

    def notice_closed_loop(self) -> None:
        """End the server of an event loop that was closed without ending its tasks; from any thread."""
        try:
            self._loop.soon(bool)
        except RuntimeError:
            self._bury()

    def _bury(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.release()
        self._finish()

    def _stop(self) -> None:
        self._asked = True
        self._leave.set()
        if not self.ready.is_set():
            self._life.cancel()

    async def wait_ended(self) -> None:
        """Wait for its end on the caller's own loop, under a shield, no longer than it may take."""
        loop, woken = current_loop(), anyio.Event()
        self._waiters.append((loop, woken))
        if not self.ended:  # looked at when the waiter is there to be woken
            with anyio.move_on_after(CLOSE, shield=True):
                await woken.wait()
            if not self.ended and self._process is not None:  # its loop does not run
                self._process.kill()

    async def request(self, send: Callable[[Client], Awaitable[T]]) -> T:
        """Make one request; a cancel leaves at once and is passed on to the server.

        Raises:
            TimeoutError: no answer in time; the server is told that it is not waited for.
            ToolError: the server has ended.
            Exception: what the SDK raises.
        """
        if self._group is None or self._client is None:
            raise self.lost()
        request: _Request[T] = _Request()
        self._requests += 1
        self._group.start_soon(self._perform, request, send, self._client, name=f"kern-mcp-call {self._name}")
        try:
            with anyio.fail_after(self._timeout):
                await request.done.wait()
        except GeneratorExit:  # of a loop that is gone: there is nobody to tell
            raise
        except BaseException:
            request.scope.cancel()
            raise
        if request.result:
            return request.result[0]
        raise request.error or self.lost()

    async def _perform(
        self, request: _Request[T], send: Callable[[Client], Awaitable[T]], client: Client
    ) -> None:
        try:
            with request.scope:
                request.result.append(await send(client))
        except Exception as exc:  # noqa: BLE001 - carried to the caller
            request.error = self._understood(exc)
        finally:
            request.done.set()
            self._requests -= 1
            if self.closing and not self._requests:
                self._leave.set()

    async def refresh(self) -> None:
        """List the server's tools anew."""
        self.stale = False
        try:
            self.tools = await self.request(_list_tools)
            self.functions = None
        except BaseException:
            self.stale = True
            raise

    def lost(self) -> ToolError:
        """The error of who talks to a server that is not there any more."""
        return ToolError(
            f"MCP server {self._name!r} has ended or cut the connection; the next call tries to start it again"
        )

    def _understood(self, error: Exception) -> Exception:
        if not isinstance(error, MCPError):
            return error
        if isinstance(self._server, Command):  # its code may be a server's own; the end of a process is seen
            return self.lost() if self._leave.is_set() else error
        if error.code == CONNECTION_CLOSED or error.message == "Session terminated":
            self.closing = True  # others on it may still get their answers; new requests get a new session
            return self.lost()
        return error

    async def _host(self) -> None:
        deadline = anyio.current_time() + self._timeout
        try:
            reason = await self._attempt("auto", deadline)
            if reason and self._leave.is_set() and not self._asked:
                # There are servers that leave when the first message is not `initialize`, as it was before 2026.
                reason = await self._attempt("legacy", deadline)
            if reason:
                self.error = ToolError(f"MCP server {self._name!r} ({self._server}) {reason}")
        finally:
            self._finish()

    def _finish(self) -> None:
        self.closing = self.ended = True
        self._group = self._client = self._process = None
        if self.error is None:
            self.error = self.lost()
        with suppress(RuntimeError):  # who waited for it has gone with its loop
            self.ready.set()
        self._on_end(self)
        for loop, woken in self._waiters:
            with suppress(RuntimeError):  # that loop is closed: nobody waits there
                loop.soon(woken.set)

    async def _attempt(self, mode: Literal["auto", "legacy"], deadline: float) -> str:
        """Connect and serve to the end; if it did not come to that, say why."""
        reason = ""
        if self._asked:
            return "was closed"
        self._leave = anyio.Event()
        try:
            with anyio.CancelScope(deadline=deadline) as self._life:
                if isinstance(self._server, Command):
                    await self._run_process(self._server, mode)
                else:
                    await self._connect(self._server, mode)
            if self._asked:
                reason = "was closed"
            elif self._life.cancelled_caught:
                reason = f"did not answer within {self._timeout:g} seconds (timeout_seconds)"
        except Exception as exc:  # noqa: BLE001 - told to who waits for the connection
            reason = _reason(exc)
        return "" if self.ready.is_set() else reason

    async def _run_process(self, command: Command, mode: Literal["auto", "legacy"]) -> None:
        process = self._process = ServerProcess(command, on_eof=self._leave.set)
        try:
            async with anyio.create_task_group() as pumps:
                pumps.start_soon(process.pump_in)
                pumps.start_soon(process.pump_out)
                try:
                    await self._talk(process, mode)
                except Exception as exc:
                    if not self._leave.is_set() or self._asked:
                        raise
                    raise _Ended(await process.epitaph()) from exc
                finally:
                    pumps.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):  # `stop` has its own deadlines
                await process.stop()

    async def _connect(self, address: Address, mode: Literal["auto", "legacy"]) -> None:
        if address.transport == "sse":

            def client_of_ours(*_: object, **_options: object) -> httpx2.AsyncClient:
                return _http_client(address)

            await self._talk(sse_client(address.url, httpx_client_factory=client_of_ours), mode)
        else:
            async with _http_client(address) as client:
                await self._talk(streamable_http_client(address.url, http_client=client), mode)

    async def _talk(self, transport: Any, mode: Literal["auto", "legacy"]) -> None:
        async with Client(
            transport, mode=mode, cache=None, message_handler=self._heard, client_info=_who_we_are()
        ) as client:
            try:
                async with anyio.create_task_group() as group:
                    await self._listen_in(group, client)
                    self.tools = await _list_tools(client)
                    self._group, self._client = group, client
                    self._life.deadline = math.inf
                    self.stood = True
                    self.ready.set()
                    await self._leave.wait()
                    self.closing = True
                    group.cancel_scope.cancel()
            finally:
                self.closing = True
                self._life.deadline = anyio.current_time() + LEAVE

    async def _heard(self, message: object) -> None:
        if isinstance(message, ToolListChangedNotification):
            self.stale = True

    async def _listen_in(self, group: TaskGroup, client: Client) -> None:
        """Since 2026 a server announces changes only to who asks for them: ask before the tools are listed."""
        tools = client.server_capabilities.tools
        if tools is None or not tools.list_changed:
            return
        heard = anyio.Event()

        async def listen() -> None:
            try:
                async with client.listen(tools_list_changed=True) as changes:
                    heard.set()
                    async for _ in changes:
                        self.stale = True
            except (MCPError, SubscriptionLost, ListenNotSupportedError):
                pass  # an older server announces them to everybody
            finally:
                heard.set()

        group.start_soon(listen, name=f"kern-mcp-listen {self._name}")
        with anyio.move_on_after(_LISTEN):  # without it the tools are those of the connection's begin
            await heard.wait()


def _http_client(address: Address) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        headers=address.headers,
        timeout=httpx2.Timeout(_CONNECT, read=None),  # an answer has its request's own time
        limits=httpx2.Limits(max_connections=None),
        verify=_tls(),
    )


@cache
def _tls() -> ssl.SSLContext:
    """One for the process: reading the trust store takes up to 0.2 s, with the loop blocked."""
    return httpx2.create_ssl_context()


@cache
def _who_we_are() -> Implementation:
    return Implementation(name="kern-async", version=importlib.metadata.version("kern-async"))


async def _list_tools(client: Client) -> list[Tool]:
    tools: list[Tool] = []
    cursor: str | None = None
    for _ in range(_PAGES):  # a server whose list has no end does not hang us
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if cursor is None:
            break
    return tools


def _reason(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    if isinstance(error, _Ended):
        return str(error)
    if isinstance(error, MCPError):
        return f"refused: {error}"
    return f"cannot be reached: {str(error) or type(error).__name__}"
