"""Play a reply's steps as the answer to one request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from .chat import ChatWire
from .http import Exchange
from .replies import (
    Call,
    Cut,
    End,
    Forever,
    Gate,
    Hang,
    Malformed,
    Pause,
    Reasoning,
    Refusal,
    Stall,
    Start,
    Status,
    Step,
    Text,
    ToolCall,
    Usage,
)
from .request import Outcome, Request
from .responses import ResponsesWire
from .wire import Wire, dumps, error_body, new_id

_BURST = 65_536
_JSON = "application/json"


class Player:
    """Answers one request; `changed` is called whenever something of the request's record changed."""

    def __init__(self, exchange: Exchange, request: Request, changed: Callable[[], None]) -> None:
        self._exchange = exchange
        self._request = request
        self._changed = changed
        self._wire: Wire = ChatWire(request) if request.chat else ResponsesWire(request)
        self._headers = {"x-request-id": new_id("req")}
        self._usage: Usage | None = None
        self._reasoned: list[str] = []
        self._produced: list[str] = []

    async def play(self, steps: Sequence[Step]) -> None:
        """Play the steps to their end, or until the task is cancelled because the client left."""
        wire = self._wire
        for step in steps:
            match step:
                case Text(burst=True):
                    await self._burst(step.deltas)
                case Text():
                    await self._deltas(step.deltas, wire.text, step.interval)
                case Forever():
                    await self._forever(step)
                case Reasoning():
                    await self._deltas(step.deltas, wire.reasoning, step.interval)
                case Refusal():
                    await self._deltas(step.deltas, wire.refusal, step.interval)
                case ToolCall():
                    await self._send(wire.call(step.name, step.id or new_id("call")))
                    await self._deltas(step.deltas, wire.arguments, step.interval)
                case Pause():
                    await asyncio.sleep(step.seconds)
                case Gate():
                    while not step.event.is_set():  # an event of threads cannot be awaited
                        await asyncio.sleep(0.001)
                case Call():
                    step.fn(self._request)
                case Usage():
                    self._usage = step
                case Start():
                    await self._send(wire.begin())
                case Malformed() if not self._request.stream:
                    self._settle("completed")
                    self._exchange.respond(200, step.data.encode(), {"content-type": _JSON, **self._headers})
                    return
                case Malformed():
                    await self._send(wire.malformed(step.data))
                case Hang():
                    await asyncio.get_running_loop().create_future()
                case Stall():
                    await self._stall(step)
                case Status():
                    self._status(step)
                case Cut():
                    self._settle("error")
                    self._exchange.cut(reset=step.reset)
                case End():
                    self._end(step)

    async def _send(self, events: bytes) -> None:
        if self._request.stream:
            self._start("text/event-stream; charset=utf-8")
            self._exchange.send(events)
        self._changed()
        await self._exchange.drained()

    def _start(self, content_type: str) -> None:
        if not self._exchange.started:
            self._exchange.start(content_type, self._headers)

    def _encode(self, delta: str, encode: Callable[[str], bytes]) -> bytes:
        self._produced.append(delta)
        # A test that has received a delta must find it here, so it is noted before it is sent.
        if encode == self._wire.reasoning:
            self._reasoned.append(delta)
        elif encode != self._wire.arguments:
            self._request.streamed.append(delta)
        return encode(delta)

    async def _deltas(self, deltas: Sequence[str], encode: Callable[[str], bytes], interval: float) -> None:
        for position, delta in enumerate(deltas):
            if position and interval:
                await asyncio.sleep(interval)
            await self._send(self._encode(delta, encode))

    async def _burst(self, deltas: Sequence[str]) -> None:
        events = bytearray()
        for delta in deltas:
            events += self._encode(delta, self._wire.text)
            if len(events) >= _BURST:
                await self._send(bytes(events))
                events.clear()
        await self._send(bytes(events))

    async def _forever(self, step: Forever) -> None:
        while True:
            await self._send(self._encode(step.delta, self._wire.text))
            if step.interval:
                await asyncio.sleep(step.interval)

    async def _stall(self, step: Stall) -> None:
        comment = b": keep-alive\n\n"
        if self._request.stream:
            await self._send(self._wire.begin())
        else:
            comment = b"\n"  # white space may stand before JSON
            self._start(_JSON)
            self._exchange.send(b"")
        while step.keepalive is not None:
            await asyncio.sleep(step.keepalive)
            self._exchange.send(comment)
        await asyncio.get_running_loop().create_future()

    def _status(self, step: Status) -> None:
        self._settle("error" if step.code >= 400 else "completed")
        headers = {"content-type": _JSON, **self._headers, **step.headers}
        if step.body is None:
            code = {401: "invalid_api_key", 429: "rate_limit_exceeded"}.get(step.code)
            kind = "server_error" if step.code >= 500 else "invalid_request_error"
            body = dumps(error_body(step.message, code=code, kind=kind)).encode()
        else:
            body = step.body.encode() if isinstance(step.body, str) else step.body
        self._exchange.respond(step.code, body, headers)

    def _end(self, step: End) -> None:
        good = step.kind in ("completed", "incomplete")
        # A client that has the last byte must find the record closed, so it is closed before that byte is sent.
        if self._request.stream:
            self._start("text/event-stream; charset=utf-8")
            events = self._wire.end(step, self._counted())
            self._settle("completed" if good else "error")
            self._exchange.finish(events)
        else:
            status, body = self._wire.document(step, self._counted())
            self._settle("completed" if good else "error")
            headers = {"content-type": _JSON, **self._headers}
            self._exchange.respond(status, dumps(body).encode(), headers)

    def _settle(self, outcome: Outcome) -> None:
        self._request.settle(outcome)
        self._changed()

    def _counted(self) -> Usage:
        if self._usage is not None:
            return self._usage
        return Usage(
            input=len(self._request.text.split()),
            output=len("".join(self._produced).split()),
            reasoning=len("".join(self._reasoned).split()),
        )
