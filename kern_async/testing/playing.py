"""Play a reply's steps as the answer to one request."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

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
_EVENTS = "text/event-stream; charset=utf-8"
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
        self._argued: list[str] = []

    async def play(self, steps: Sequence[Step]) -> None:
        """Play the steps to their end, or until the task is cancelled because the client left."""
        for step in steps:
            match step:
                case Start() | Text() | Forever() | Reasoning() | Refusal() | ToolCall():
                    await self._say(step)
                case Pause() | Gate() | Hang() | Stall():
                    await self._wait(step)
                case Call():
                    step.fn(self._request)
                case Usage():
                    self._usage = step
                case Malformed() if self._request.stream:
                    await self._send(self._wire.malformed(step.data))
                case Malformed():
                    self._respond("completed", 200, step.data.encode())
                    return
                case Status() | Cut() | End():
                    self._last(step)

    async def _say(self, step: Start | Text | Forever | Reasoning | Refusal | ToolCall) -> None:
        wire, said = self._wire, self._request.streamed
        match step:
            case Start():
                await self._send(wire.begin())
            case Text(burst=True):
                await self._burst(step.deltas)
            case Text():
                await self._deltas(step.deltas, step.interval, wire.text, said)
            case Forever():
                await self._deltas(itertools.repeat(step.delta), step.interval, wire.text, said)
            case Refusal():
                await self._deltas(step.deltas, step.interval, wire.refusal, said)
            case Reasoning():
                await self._deltas(step.deltas, step.interval, wire.reasoning, self._reasoned)
            case ToolCall():
                await self._send(wire.call(step.name, step.id or new_id("call")))
                await self._deltas(step.deltas, step.interval, wire.arguments, self._argued)

    async def _wait(self, step: Pause | Gate | Hang | Stall) -> None:
        match step:
            case Pause():
                await asyncio.sleep(step.seconds)
            case Gate():
                while not step.event.is_set():  # noqa: ASYNC110  an event of threads cannot be awaited
                    await asyncio.sleep(0.001)
            case Hang():
                await asyncio.get_running_loop().create_future()
            case Stall():
                await self._stall(step)

    async def _send(self, events: bytes) -> None:
        if self._request.stream:
            self._start(_EVENTS)
            self._exchange.send(events)
        self._changed()
        await self._exchange.drained()

    def _start(self, content_type: str) -> None:
        if not self._exchange.started:
            self._exchange.start(content_type, self._headers)

    async def _deltas(
        self, deltas: Iterable[str], interval: float, encode: Callable[[str], bytes], said: list[str]
    ) -> None:
        for position, delta in enumerate(deltas):
            if position and interval:
                await asyncio.sleep(interval)
            said.append(delta)  # before it is sent: who has received it must find it here
            await self._send(encode(delta))

    async def _burst(self, deltas: Sequence[str]) -> None:
        events = bytearray()
        for delta in deltas:
            self._request.streamed.append(delta)
            events += self._wire.text(delta)
            if len(events) >= _BURST:
                await self._send(bytes(events))
                events.clear()
        await self._send(bytes(events))

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

    def _last(self, step: Status | Cut | End) -> None:
        match step:
            case Status():
                self._status(step)
            case Cut():
                self._settle("error")
                self._exchange.cut(reset=step.reset)
            case End():
                self._end(step)

    def _status(self, step: Status) -> None:
        if step.body is None:
            code = {401: "invalid_api_key", 429: "rate_limit_exceeded"}.get(step.code)
            kind = "server_error" if step.code >= 500 else "invalid_request_error"
            body = dumps(error_body(step.message, code=code, kind=kind)).encode()
        else:
            body = step.body.encode() if isinstance(step.body, str) else step.body
        self._respond("error" if step.code >= 400 else "completed", step.code, body, step.headers)

    def _end(self, step: End) -> None:
        outcome = "completed" if step.kind in ("completed", "incomplete") else "error"
        if self._request.stream:
            self._start(_EVENTS)
            events = self._wire.end(step, self._counted())
            self._settle(outcome)
            self._exchange.finish(events)
        else:
            status, body = self._wire.document(step, self._counted())
            self._respond(outcome, status, dumps(body).encode())

    def _respond(
        self, outcome: Outcome, status: int, body: bytes, headers: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self._settle(outcome)
        self._exchange.respond(status, body, {"content-type": _JSON, **self._headers, **headers})

    def _settle(self, outcome: Outcome) -> None:
        # Before the last byte is sent: a client that has it must find the record closed.
        self._request.settle(outcome)
        self._changed()

    def _counted(self) -> Usage:
        if self._usage is not None:
            return self._usage
        said, reasoned, argued = (
            len("".join(deltas).split()) for deltas in (self._request.streamed, self._reasoned, self._argued)
        )
        return Usage(len(self._request.text.split()), said + reasoned + argued, reasoning=reasoned)
