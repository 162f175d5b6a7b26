"""One request to an OpenAI-like server and its streamed answer, read as bytes.

The SDK's typed streams validate every event against a union of some sixty models, which costs more than all the
rest of a run. So the request goes through the client's documented `post`, and the answer's bytes are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import AsyncGeneratorType
from typing import Any, Protocol, cast

import anyio
import httpx2
import openai
from pydantic_core import from_json

from kern_async.exceptions import ModelProtocolError

from .base import DeltaKind, Emit
from .faults import TRANSPORT_ERRORS, connection_fault, malformed, provider_faults, reported_fault, snippet
from .sse import SSESplitter

# Between the event that completes an answer and the end of its bytes, in seconds. Reading on to the end lets the
# connection serve another request, and a chat's usage comes there.
_TRAIL_TIMEOUT = 0.5
_CLOSE_TIMEOUT = 1.0
_LONGEST_REFUSAL = 16_384
_DONE = b"[DONE]"
_STREAM = openai.AsyncStream[object]  # made once: that takes 20 us
_Chunks = AsyncGeneratorType[bytes, None]


class Reader(Protocol):
    """Makes an answer of a stream's events."""

    complete: bool
    """The answer is whole: what else the stream brings is only trailing."""

    def take(self, event: dict[str, Any]) -> Sequence[tuple[DeltaKind, str]]:
        """What the next event of an answer that is not complete adds to it; empty pieces do not count.

        Raises:
            ModelResponseError: the answer failed, by its own account.
            AttributeError, IndexError, KeyError, TypeError: the event is not what its type promises.
        """
        ...

    def trail(self, event: dict[str, Any]) -> None:
        """Take an event that came after the answer was complete."""
        ...


async def exchange(
    client: openai.AsyncOpenAI,
    path: str,
    body: Mapping[str, Any],
    reader: Reader,
    emit: Emit,
    options: openai.RequestOptions,
) -> None:
    """Send one request, let `reader` read the events of its answer and emit what they add, to the end.

    A cancel closes the connection at once and goes on.

    Raises:
        ModelError: no connection, an HTTP error status, or an answer that is not a stream of JSON events.
    """
    with provider_faults():
        response = cast(
            httpx2.Response,
            await client.post(
                path,
                cast_to=httpx2.Response,
                body=body,
                options={"max_retries": 0, "security": {"bearer_auth": True}, **options},
                stream=True,
                stream_cls=_STREAM,
            ),
        )
    encoded = "content-encoding" in response.headers
    chunks = cast("_Chunks", response.aiter_bytes() if encoded else response.aiter_raw())
    try:
        await _refuse_other_content(response, chunks)
        await _read(chunks, reader, emit)
    finally:
        await _release(response, chunks)


async def _read(chunks: _Chunks, reader: Reader, emit: Emit) -> None:
    splitter = SSESplitter()
    while True:
        try:  # round the reading only: what `emit` raises is no fault of the provider
            chunk = await anext(chunks)
        except StopAsyncIteration:
            break
        except TRANSPORT_ERRORS as error:
            raise connection_fault(error) from error
        if await _take(_split(splitter, chunk), reader, emit):
            await _read_trail(chunks, splitter, reader)
            return
    await _take(splitter.close(), reader, emit)


async def _take(events: list[bytes], reader: Reader, emit: Emit) -> bool:
    """Take events; return whether the answer needs no more of them."""
    for data in events:
        if data == _DONE:
            return True
        if reader.complete:
            _trail(data, reader)
            continue
        try:
            deltas = reader.take(from_json(data))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise malformed(data, error) from None
        for kind, text in deltas:
            if text:
                await emit(kind, text)
    return reader.complete


async def _read_trail(chunks: _Chunks, splitter: SSESplitter, reader: Reader) -> None:
    with anyio.move_on_after(_TRAIL_TIMEOUT):
        try:
            async for chunk in chunks:
                for data in splitter.feed(chunk):
                    _trail(data, reader)
        except (*TRANSPORT_ERRORS, ValueError):
            return  # the answer itself is whole


def _trail(data: bytes, reader: Reader) -> None:
    try:
        event = from_json(data)
    except ValueError:
        return
    if isinstance(event, dict):
        reader.trail(cast("dict[str, Any]", event))


async def _release(response: httpx2.Response, chunks: _Chunks) -> None:
    if response.is_closed and chunks.ag_frame is None:
        return  # read to its end
    # A response that is closed while its generators are suspended leaves the inner ones to the garbage
    # collector, which makes a task of them (asyncio) or a warning (trio). Resumed in a cancelled scope, they
    # unwind one by one, and the innermost closes the connection.
    try:
        with anyio.CancelScope(shield=True) as scope:
            scope.cancel()
            async for _ in chunks:
                pass
        with anyio.move_on_after(_CLOSE_TIMEOUT, shield=True):
            await response.aclose()
    except TRANSPORT_ERRORS:
        pass  # it is closed


async def _refuse_other_content(response: httpx2.Response, chunks: _Chunks) -> None:
    content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in ("application/json", "text/html"):
        return
    start = b""
    with provider_faults():
        async for chunk in chunks:
            start += chunk
            if len(start) > _LONGEST_REFUSAL:
                break
    if content_type == "application/json":
        try:
            answer: object = from_json(start)
        except ValueError:
            answer = None
        if isinstance(answer, dict) and (error := cast("dict[str, object]", answer).get("error")):
            raise reported_fault(error, "an error without a message")
    raise ModelProtocolError(
        f"the provider answered with {content_type} where an event stream was asked for: "
        f"{snippet(start.decode(errors='replace'))}; is base_url right?"
    )


def _split(splitter: SSESplitter, chunk: bytes) -> list[bytes]:
    try:
        return splitter.feed(chunk)
    except ValueError as error:
        raise ModelProtocolError(f"the provider sent {error}") from None
