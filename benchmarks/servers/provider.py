"""The provider of all benchmarks: `python -m benchmarks.servers.provider`, a process of its own on loopback.

It must never be what a benchmark waits for: the bytes of all answers are made beforehand, no task is kept for a
stream, and all streams of one pace share one timer. The name of the model that is asked says what to do:

- `burst N`: N words as fast as the client takes them, in chunks of 16 KiB;
- `chunks N`: the same, each word a chunk of its own;
- `paced N SECONDS`: N words, one each so many seconds; `speaks SECONDS`: for ever;
- `tells N`: as `burst`, but only after `go`;
- `leader`: asks both members of a team; `waits`: never says anything.

Its first line is its base URL. Each line that it reads is answered with one of JSON: `go`; `idle SECONDS`, as soon as
no answer is under way, or else after so many seconds; `state`.
"""

from __future__ import annotations

import asyncio
import gc
import json
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import cache
from typing import Any

from benchmarks.machine import loop_factory, many_files
from benchmarks.servers import wire

MEMBERS = ("first", "second")
AT_ONCE = 32
"""Chunks that are written until other streams have their turn."""
GRAIN = 0.002
"""Seconds that a paced word may be late by, so that words which are due together are sent together."""

_length = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_model = re.compile(rb'"model": *"([^"]*)"')
_streamed = re.compile(rb'"stream": *true')


@cache
def burst(count: int) -> bytes:
    """A whole body in chunks of 16 KiB."""
    body = wire.begin() + b"".join(map(wire.delta, range(count))) + wire.end(count)
    pieces = [wire.chunk(body[start : start + 16_384]) for start in range(0, len(body), 16_384)]
    return b"".join(pieces) + wire.LAST


@cache
def ending(count: int) -> bytes:
    return wire.chunk(wire.end(count)) + wire.LAST


@cache
def delegating() -> bytes:
    arguments = [{"member_id": member, "task": "Go."} for member in MEMBERS]
    return wire.HEAD + wire.chunk(wire.calls("delegate_task_to_member", arguments)) + wire.LAST


@cache
def beginning() -> bytes:
    return wire.HEAD + wire.chunk(wire.begin())


@cache
def word_chunk(number: int) -> bytes:
    return wire.chunk(wire.delta(number))


document = cache(wire.document)


class Pace:
    """All streams that say a word each so many seconds: one timer, and who is due first stands first."""

    def __init__(self, provider: Provider, seconds: float) -> None:
        self._provider = provider
        self._seconds = seconds
        self._waiting: deque[tuple[float, Connection, int, int | None]] = deque()
        self._running = False

    def add(self, connection: Connection, count: int | None) -> None:
        self._say(self._provider.loop.time(), connection, 0, count)
        if not self._running:
            self._running = True
            self._tick()

    def _say(self, due: float, connection: Connection, number: int, count: int | None) -> None:
        self._provider.words += 1
        data = word_chunk(number)
        number += 1
        if number == count:
            connection.finish(data + ending(number))
        else:
            connection.write(data)
            self._waiting.append((due + self._seconds, connection, number, count))

    def _tick(self) -> None:
        provider, waiting = self._provider, self._waiting
        now = provider.loop.time()
        while waiting and waiting[0][0] <= now:
            due, connection, number, count = waiting.popleft()
            if connection.answering:
                provider.latest = max(provider.latest, now - due)
                self._say(due, connection, number, count)
        if waiting:
            provider.loop.call_at(max(waiting[0][0], now + GRAIN), self._tick)
        else:
            self._running = False


class Provider:
    """What all connections share."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.connections: set[Connection] = set()
        self.answering = 0
        self.most = 0
        self.words = 0
        self.latest = 0.0
        self.changed_at = 0.0
        self._told: list[Connection] = []
        self._gone = False
        self._paces: dict[float, Pace] = {}
        self._idle: list[Callable[[], None]] = []

    def began(self) -> None:
        self.answering += 1
        self.most = max(self.most, self.answering)

    def ended(self) -> None:
        self.answering -= 1
        if not self.answering:
            self.changed_at = time.monotonic()
            for tell in self._idle[:]:
                tell()

    def pace(self, seconds: float) -> Pace:
        found = self._paces.get(seconds)
        if found is None:
            found = self._paces[seconds] = Pace(self, seconds)
        return found

    def tell(self, connection: Connection) -> None:
        """Let it speak when `go` has been read."""
        if self._gone:
            connection.speak()
        else:
            self._told.append(connection)

    def command(self, line: str) -> None:
        name, *arguments = line.split() or [""]
        match name:
            case "go":
                self._gone = True
                for connection in self._told:
                    connection.speak()
                self._say(self._state())
            case "idle":
                self._when_idle(float(arguments[0]))
            case _:
                self._say(self._state())

    def _when_idle(self, seconds: float) -> None:
        if not self.answering:
            self._say(self._state())
            return

        def tell() -> None:
            self._idle.remove(tell)
            timer.cancel()
            self._say(self._state())

        timer = self.loop.call_later(seconds, tell)
        self._idle.append(tell)

    def _state(self) -> dict[str, Any]:
        state = {
            "open": self.answering,
            "most": self.most,
            "connections": len(self.connections),
            "words": self.words,
            "late": self.latest,
            "changed_at": self.changed_at,
            "cpu": time.process_time(),
        }
        self.most, self.latest = self.answering, 0.0
        return state

    def _say(self, state: dict[str, Any]) -> None:
        print(json.dumps(state), flush=True)


class Connection(asyncio.Protocol):
    """A client's connection, with one request after another."""

    def __init__(self, provider: Provider) -> None:
        self.answering = False
        self._provider = provider
        self._received = b""
        self._count = 0
        self._next = 0
        self._room = True
        self._transport: Any = None  # uvloop's are none of asyncio's
        self.write: Callable[[bytes], None]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.write = self._transport.write
        self._provider.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._provider.connections.discard(self)
        self._ended()

    def eof_received(self) -> None:
        self._ended()  # closing waits until what was written is sent, which nobody reads
        self._transport.abort()

    def pause_writing(self) -> None:
        self._room = False

    def resume_writing(self) -> None:
        self._room = True
        if self._next:
            self._chunks()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        length = _length.search(head)
        if not found or length is None or len(body) < int(length[1]):
            return
        self._received = b""
        asked = _model.search(body)
        assert asked is not None, body
        self._answer(asked[1].decode(), streamed=_streamed.search(body) is not None)

    def finish(self, data: bytes) -> None:
        """Write the last bytes of an answer."""
        self.write(data)
        self._ended()

    def speak(self) -> None:
        self.write(wire.HEAD)
        self._provider.words += self._count
        self.finish(burst(self._count))

    def _answer(self, model: str, *, streamed: bool) -> None:
        self.answering = True
        self._provider.began()
        name, *numbers = model.split()
        self._count = int(numbers[0]) if numbers and name != "speaks" else 0
        match name:
            case "burst" if not streamed:
                self.finish(document(self._count))
            case "burst":
                self.speak()
            case "chunks":
                self.write(beginning())
                self._chunks()
            case "paced":
                self.write(beginning())
                self._provider.pace(float(numbers[1])).add(self, self._count)
            case "speaks":
                self.write(beginning())
                self._provider.pace(float(numbers[0])).add(self, None)
            case "tells":
                self._provider.tell(self)
            case "leader":
                self.finish(delegating())
            case _:
                pass

    def _chunks(self) -> None:
        last = min(self._next + AT_ONCE, self._count)
        for number in range(self._next, last):
            self.write(word_chunk(number))
        self._provider.words += last - self._next
        self._next = last
        if last == self._count:
            self._next = 0
            self.finish(ending(self._count))
        elif self._room:
            self._provider.loop.call_soon(self._chunks_if_alive)

    def _chunks_if_alive(self) -> None:
        if self.answering and self._room:
            self._chunks()

    def _ended(self) -> None:
        if self.answering:
            self.answering = False
            self._provider.ended()


async def serve() -> None:
    loop = asyncio.get_running_loop()
    provider = Provider()
    server = await loop.create_server(lambda: Connection(provider), "127.0.0.1", 0, backlog=8192)
    done = loop.create_future()

    def read() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(provider.command, line)
        loop.call_soon_threadsafe(done.set_result, None)

    threading.Thread(target=read, daemon=True).start()
    host, port = server.sockets[0].getsockname()
    print(f"http://{host}:{port}/v1", flush=True)
    gc.freeze()
    await done


if __name__ == "__main__":
    many_files()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve())
