"""What goes over the wire: server-sent events by the rules of the WHATWG, and HTTP as no library would send it."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import httpx2

TERMINAL = ("RunCompleted", "RunError", "RunCancelled")


@dataclass(frozen=True)
class Frame:
    """An event as a browser's `EventSource` dispatches it."""

    id: str
    event: str
    data: str

    @property
    def json(self) -> Any:
        return json.loads(self.data)


def parse(raw: bytes) -> tuple[list[Frame], list[str]]:
    """The events of a stream, and its comments: https://html.spec.whatwg.org/#event-stream-interpretation."""
    text = raw.decode().removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    frames: list[Frame] = []
    comments: list[str] = []
    last_id, event, data = "", "", list[str]()
    for line in text.split("\n")[:-1]:
        if not line:
            if data:
                frames.append(Frame(last_id, event or "message", "\n".join(data)))
            event, data = "", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "":
                comments.append(value)
            case "id" if "\0" not in value:
                last_id = value
            case "event":
                event = value
            case "data":
                data.append(value)
            case _:
                raise AssertionError(f"no field of a stream: {line!r}")
    return frames, comments


def events_of(raw: bytes) -> list[str]:
    return [frame.event for frame in parse(raw)[0]]


class Reading:
    """A stream that is being read."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self.raw = b""

    def until(self, event: str, count: int = 1) -> list[Frame]:
        """Read on until so many events of this name have come; all frames so far."""
        marks = f"event: {event}\n".encode(), f": {event}\n\n".encode()
        while sum(map(self.raw.count, marks)) < count or not self.raw.endswith(b"\n\n"):
            self.raw += next(self._pieces)
        frames, comments = parse(self.raw)
        assert [*(frame.event for frame in frames), *comments].count(event) >= count
        return frames

    def rest(self) -> bytes:
        """All bytes of the stream, once it has ended."""
        self.raw += b"".join(self._pieces)
        return self.raw


@contextmanager
def streaming(
    client: httpx2.Client, path: str, form: Mapping[str, Any] | None = None, **headers: str
) -> Generator[Reading]:
    """A stream that a POST with this form, or a GET, is answered with; it is left when the block is."""
    method = "GET" if form is None else "POST"
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    with client.stream(method, path, data=form, headers=headers) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Reading(response.iter_bytes())


@dataclass
class Raw:
    """An HTTP/1.1 connection of which the test sends every byte."""

    url: str
    receive_buffer: int | None = None
    seen: bytes = b""
    socket: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        url = httpx2.URL(self.url)
        self.socket = socket.socket()
        if self.receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
        self.socket.settimeout(10)
        self.socket.connect((url.host, url.port))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def post(self, path: str, **fields: Any) -> None:
        self.send(form_request(path, **fields))

    def get(self, path: str, *headers: str) -> None:
        self.send("\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode())

    def read_until(self, mark: bytes, step: int = 65536) -> bytes:
        """Read on until this was read; everything so far."""
        while mark not in self.seen:
            data = self.socket.recv(step)
            if not data:
                raise EOFError(self.seen[-300:])
            self.seen += data
        return self.seen

    def read_to_close(self) -> bytes:
        """Everything until the server closes, or resets, the connection."""
        try:
            while data := self.socket.recv(65536):
                self.seen += data
        except ConnectionResetError:
            pass
        return self.seen

    def reset(self) -> None:
        """Leave with an RST instead of a FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def form_request(path: str, **fields: Any) -> bytes:
    body = urlencode(fields).encode()
    head = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/x-www-form-urlencoded",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*head, "", ""]).encode() + body


def unchunked(raw: bytes) -> Iterator[bytes]:
    """The pieces of a chunked body that have come whole, after the response's head."""
    rest = raw.partition(b"\r\n\r\n")[2]
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size or b"0", 16)
        if not length or len(rest) < length:
            return
        yield rest[:length]
        rest = rest[length + 2 :]


def until(there: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for what happens in the server's thread, which tells nobody here that it has."""
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        time.sleep(0.002)


def let_it_notice(client: httpx2.Client) -> None:
    """Have the server's loop come round after a client has left."""
    for _ in range(3):
        assert client.get("/health").status_code == 200
