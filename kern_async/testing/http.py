"""The little HTTP/1.1 that the test provider needs, with an eye on the client's going."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast

_MAX_HEAD = 65_536
_TURN = 16  # sends until other tasks may run: each time costs more than a send
_NO_LINGER = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)  # closing resets the connection


class BadRequest(Exception):
    """Bytes that are not a request this server understands; the connection is closed after `status`."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True)
class Head:
    """The first line and the headers of a request; header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    length: int

    @classmethod
    def parse(cls, data: bytes) -> Head:
        """Read what stands before the empty line.

        Raises:
            BadRequest: it is not HTTP/1.1, or the body's length is not stated.
        """
        first, *lines = data.decode("latin-1").split("\r\n")
        try:
            method, target, version = first.split(" ")
            headers = {
                name.strip().lower(): value.strip() for name, value in (x.split(":", 1) for x in lines)
            }
            length = int(headers.get("content-length", "0"))
        except ValueError:
            raise BadRequest(400) from None
        if version != "HTTP/1.1":
            raise BadRequest(505)
        if "transfer-encoding" in headers:
            raise BadRequest(411)
        return cls(method, target.partition("?")[0], headers, length)


class Exchange:
    """One request and its response on a connection."""

    def __init__(self, head: Head, body: bytes, connection: Connection) -> None:
        self.head = head
        self.body = body
        self.started = False
        """Whether a byte was sent, or the headers are to be sent with the next bytes."""
        self.complete = False
        self.on_first_byte: Callable[[], None] | None = None
        self.on_leave: Callable[[], None] | None = None
        """Called when the connection was lost before the response was complete."""
        self._connection = connection
        self._unsent_head: bytes | None = b""

    def start(self, content_type: str, headers: Mapping[str, str]) -> None:
        """Begin a chunked response; its headers go out with the first bytes of its body."""
        self.started = True
        self._unsent_head = _head(
            200, {"content-type": content_type, "transfer-encoding": "chunked", **headers}
        )

    def send(self, data: bytes) -> None:
        """Send a piece of a chunked body, which may be empty."""
        self._send(b"%x\r\n%b\r\n" % (len(data), data) if data else b"")

    async def drained(self) -> None:
        """Wait while the client reads too slowly; let other tasks run now and then in any case."""
        await self._connection.drained()

    def finish(self, data: bytes) -> None:
        """End a chunked response with a last piece of its body, which may be empty."""
        self.complete = True
        self._send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n")

    def respond(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Send a whole response."""
        self.started = self.complete = True
        self._unsent_head = _head(status, {**headers, "content-length": str(len(body))})
        self._send(body)

    def cut(self, *, reset: bool) -> None:
        """End the connection where the response is now; `reset` throws away what the client has not read."""
        self.complete = True
        self._connection.cut(reset=reset)

    def _send(self, data: bytes) -> None:
        if self._unsent_head is not None:
            if self.on_first_byte is not None:
                self.on_first_byte()
            data, self._unsent_head = self._unsent_head + data, None
        if data:
            self._connection.send(data)


Answer = Callable[[Exchange], Coroutine[Any, Any, None]]


class Connection(asyncio.Protocol):
    """A client's connection: one exchange after another, each in a task that ends when the client leaves.

    asyncio itself sets TCP_NODELAY on it.
    """

    def __init__(self, answer: Answer, open_connections: set[Connection]) -> None:
        self._answer = answer
        self._open = open_connections
        self._received = bytearray()
        self._exchange: Exchange | None = None
        self.task: asyncio.Task[None] | None = None
        """Of the exchange under way."""
        self._sends = itertools.count(1)
        self._room: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._open.add(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self.task is None:
            self._next()

    def eof_received(self) -> None:
        self._leave()
        self._transport.abort()  # closing would wait to send what nobody reads

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        self._open.discard(self)

    def pause_writing(self) -> None:
        self._room = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None

    def send(self, data: bytes) -> None:
        """Send bytes as soon as the socket takes them."""
        self._transport.write(data)

    async def drained(self) -> None:
        """Wait while what was sent piles up; let other tasks run now and then in any case."""
        if self._room is not None:
            await self._room
        elif next(self._sends) % _TURN == 0:
            await asyncio.sleep(0)

    def cut(self, *, reset: bool) -> None:
        """Reset the connection, or close it when what was written is sent."""
        if not reset:
            self._transport.close()
            return
        with contextlib.suppress(OSError):  # the client may be gone already
            sock = cast(socket.socket, self._transport.get_extra_info("socket"))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._transport.abort()

    def abort(self) -> None:
        """Close the connection now, whatever is unsent."""
        self._transport.abort()

    def _next(self) -> None:
        try:
            exchange = self._parse()
        except BadRequest as error:
            self._transport.write(_head(error.status, {"content-length": "0", "connection": "close"}))
            self._transport.close()
            return
        if exchange is not None:
            self._exchange = exchange
            self.task = asyncio.get_running_loop().create_task(self._answer(exchange))
            self.task.add_done_callback(self._done)

    def _parse(self) -> Exchange | None:
        end = self._received.find(b"\r\n\r\n", 0, _MAX_HEAD)
        if end < 0:
            if len(self._received) > _MAX_HEAD:
                raise BadRequest(431)
            return None
        head = Head.parse(bytes(self._received[:end]))
        body_end = end + 4 + head.length
        if len(self._received) < body_end:
            return None
        body = bytes(self._received[end + 4 : body_end])
        del self._received[:body_end]
        return Exchange(head, body, self)

    def _done(self, task: asyncio.Task[None]) -> None:
        exchange, self._exchange, self.task = self._exchange, None, None
        if task.cancelled() or exchange is None or not exchange.complete:
            self._transport.abort()
        elif exchange.head.headers.get("connection", "").lower() == "close":
            self._transport.close()
        elif not self._transport.is_closing():
            self._next()

    def _leave(self) -> None:
        exchange = self._exchange
        if exchange is not None and not exchange.complete:
            exchange.complete = True
            if exchange.on_leave is not None:
                exchange.on_leave()
        if self.task is not None:
            self.task.cancel()
        self.resume_writing()


def _head(status: int, fields: Mapping[str, str]) -> bytes:
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = "Unknown"
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
