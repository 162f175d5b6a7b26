"""A run's events as a response that stays open until the run ends, or pauses.

A reader never holds the run back. One that reads too slowly is closed; it may come again and go on where it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import anyio
import anyio.lowlevel
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from kern_async.engine.following import EventReader
from kern_async.engine.observe import log
from kern_async.exceptions import KernError
from kern_async.run.base import BaseEvent

from .frames import KEEPALIVE, AllFrames, notice
from .problems import words_of

_TRANSPORT = "kern_async.transport"
"""The extension of the ASGI scope that is the connection's transport."""

_BATCH = 256
"""Events in one write."""

_LOOK = 1.0
"""Seconds between two looks at whether the client still takes what it is sent."""

_LINGER = 0.1
"""Seconds between two looks at whether the last bytes have gone."""


@dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """How patient a stream is.

    Args:
        keepalive: seconds without an event after which a comment is sent.
        send_timeout: seconds that one write may wait for the client to take what was written before.
        most_behind: events that it may be behind.
    """

    keepalive: float = 15.0
    send_timeout: float = 30.0
    most_behind: int = 10_000


class _Transport(Protocol):
    """What streams need of asyncio's transports, and uvloop's."""

    def abort(self) -> None: ...

    def get_write_buffer_size(self) -> int: ...


class Abortable:
    """Middleware, the outermost, by which streams can drop the connection of a client that takes nothing.

    A server whose application has given up a response, or ended it, waits until the client has taken what was sent,
    for ever. Only uvicorn lets an application come at the connection; elsewhere such a client keeps its own.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        transport = getattr(getattr(receive, "__self__", None), "transport", None)
        if hasattr(transport, "abort") and hasattr(transport, "get_write_buffer_size"):
            scope.setdefault("extensions", {})[_TRANSPORT] = transport
        await self._app(scope, receive, send)


class EventStream(Response):
    """Sends what a reader reads, as server-sent events.

    `prelude` is sent first. `announce` is a frame before the first event whose index is not below `announce_at`.
    `wants` says which events the client wants, None for all. `on_leave` is called when the client goes before the end;
    not when the server closes a slow one. `closing` says that the server shuts down, so that a client that takes nothing
    is dropped at the next look.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        reader: EventReader,
        root_run_id: str,
        frames: AllFrames,
        settings: StreamSettings,
        *,
        prelude: bytes = b"",
        announce: bytes = b"",
        announce_at: int = 0,
        wants: Callable[[BaseEvent], bool] | None = None,
        on_leave: Callable[[], object] | None = None,
        closing: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._reader = reader
        self._root_run_id = root_run_id
        self._all_frames = frames
        self._settings = settings
        self._prelude = prelude
        self._announce = announce
        self._announce_at = announce_at
        self._wants = wants
        self._on_leave = on_leave
        self._closing = closing
        self._sending_since: float | None = None
        self._ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until the run ends, the client leaves, or it is too slow."""
        extensions: dict[str, Any] = scope.get("extensions") or {}
        transport: _Transport | None = extensions.get(_TRANSPORT)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        with self._all_frames.reading(self._root_run_id) as frames:
            async with anyio.create_task_group() as group:
                group.start_soon(self._listen, receive, group.cancel_scope)
                group.start_soon(self._watch, transport, group.cancel_scope)
                await self._deliver(send, frames.of)
                group.cancel_scope.cancel()
        if self._ended and transport is not None:
            await self._linger(transport)
        else:
            await anyio.lowlevel.checkpoint()  # an aborted connection is known to be gone a moment later

    async def _listen(self, receive: Receive, scope: anyio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if self._on_leave is not None and not self._ended:
            self._on_leave()
        scope.cancel()

    async def _watch(self, transport: _Transport | None, scope: anyio.CancelScope) -> None:
        """Give up a client that does not take what it is sent."""
        while True:
            await anyio.sleep(_LOOK)
            if self._sending_since is None:
                continue
            waited = anyio.current_time() - self._sending_since
            if (
                self._closing()
                or waited > self._settings.send_timeout
                or self._reader.behind > self._settings.most_behind
            ):
                self._on_leave = None  # it is the server that leaves
                if transport is not None:
                    transport.abort()
                scope.cancel()
                return

    async def _linger(self, transport: _Transport) -> None:
        """See that the client takes the last bytes."""
        since = anyio.current_time()
        while transport.get_write_buffer_size():
            waited = anyio.current_time() - since
            if waited > (_LOOK if self._closing() else self._settings.send_timeout):
                transport.abort()
            await anyio.sleep(_LINGER)

    async def _deliver(self, send: Send, frame: Callable[[BaseEvent], bytes]) -> None:
        last = b""
        try:
            last = await self._send_events(send, frame)
        except KernError as error:  # the response has begun: all that is left is to say so in it
            log("warning", "http.stream_failed", run_id=self._root_run_id, error=str(error))
            last = notice("error", {"error": words_of(error), "error_type": type(error).__name__})
        self._ended = True
        await self._send(send, last, more=False)

    async def _send_events(self, send: Send, frame: Callable[[BaseEvent], bytes]) -> bytes:
        """Send all events but the last ones, whose frames are returned."""
        reader = self._reader
        # At once, so that the client knows that it is connected before there is an event.
        await self._send(send, self._prelude)
        while not reader.over:
            events = reader.ready()
            if not events:
                with anyio.move_on_after(self._settings.keepalive) as patience:
                    events = await reader.some()
                if patience.cancelled_caught:
                    await self._send(send, KEEPALIVE)
                    continue
            while events:
                part, events = events[:_BATCH], events[_BATCH:]
                body = self._body(part, frame)
                if reader.over and not events:
                    return body
                if body:
                    await self._send(send, body)
        return b""

    def _body(self, events: list[BaseEvent], frame: Callable[[BaseEvent], bytes]) -> bytes:
        frames: list[bytes] = []
        for event in events:
            if self._announce and event.event_index >= self._announce_at:
                frames.append(self._announce)
                self._announce = b""
            if self._wants is None or self._wants(event):
                frames.append(frame(event))
        return b"".join(frames)

    async def _send(self, send: Send, body: bytes, *, more: bool = True) -> None:
        self._sending_since = anyio.current_time()
        await send({"type": "http.response.body", "body": body, "more_body": more})
        self._sending_since = None
