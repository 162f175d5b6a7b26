"""A client of run servers that costs next to nothing: it counts frames, and looks at them only if that is asked for."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import psutil


@dataclass
class Server:
    """A server's process, and where it listens."""

    url: str
    process: psutil.Process

    def cpu(self) -> float:
        times = self.process.cpu_times()
        return times.user + times.system


class Stream(asyncio.Protocol):
    """A request whose answer is read as it comes; frames are counted, and looked at only if that is asked for."""

    def __init__(self, request: bytes, wanted: re.Pattern[bytes] | None = None) -> None:
        self.frames = 0
        self.head = b""
        self.ended_at = 0.0
        self.ended = asyncio.Event()
        self.found = asyncio.Event()
        self.match: re.Match[bytes] | None = None
        self._request = request
        self._wanted = wanted
        self._seen = b""
        self._last = b""
        self._transport: Any = None  # uvloop's are none of asyncio's

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.send(self._request)

    def data_received(self, data: bytes) -> None:
        if len(self.head) < 12:
            self.head += data[:12]
        self.frames += (self._last + data).count(b"\n\n")
        self._last = data[-1:]
        if self._wanted is not None:
            self._seen += data
            if self.match is None and (found := self._wanted.search(self._seen)):
                self.match = found
                self.found.set()
        if data.endswith(b"0\r\n\r\n"):
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if not self.ended.is_set():
            self.ended_at = time.perf_counter()
            self.ended.set()
            self.found.set()

    def send(self, request: bytes) -> None:
        self._transport.write(request)

    def only_count(self) -> None:
        """Look at no frame any more."""
        self._wanted, self._seen = None, b""

    @property
    def ok(self) -> bool:
        return self.head == b"HTTP/1.1 200"

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def request(server: Server, path: str, fields: dict[str, Any] | None = None, method: str = "POST") -> bytes:
    """The bytes of a request with a form, after whose answer the connection ends."""
    body = urlencode(fields or {})
    return (
        f"{method} {path} HTTP/1.1\r\nHost: {urlsplit(server.url).netloc}\r\nConnection: close\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


async def open_stream(server: Server, sent: bytes, wanted: bytes | None = None) -> Stream:
    address = urlsplit(server.url)
    pattern = re.compile(wanted, re.DOTALL) if wanted is not None else None
    loop = asyncio.get_running_loop()
    host, port = address.hostname or "", address.port or 0
    _, stream = await loop.create_connection(lambda: Stream(sent, pattern), host, port)
    return stream


def begin(path: str, server: Server, **fields: Any) -> bytes:
    return request(server, f"/{path}/runs", {"message": "Go.", "stream": "true", **fields})
