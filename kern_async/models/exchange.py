"""One request to an OpenAI-like server and its streamed answer, read as bytes.

The SDK's typed streams validate every event against a union of some sixty models, which costs more than all the
rest of a run. So the request goes through the client's documented `post`, and the answer's bytes are ours.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Protocol, cast

import anyio
import httpx2
import openai
from pydantic_core import from_json

from kern_async.exceptions import ModelProtocolError

from .faults import TRANSPORT_ERRORS, provider_faults, reported_fault, snippet
from .sse import SSESplitter

# Between the event that completes an answer and the end of its bytes, in seconds. Reading on to the end lets the
# connection serve another request, and a chat's usage comes there.
_TRAIL_TIMEOUT = 1.0
_CLOSE_TIMEOUT = 1.0
_DONE = b"[DONE]"


class Reader(Protocol):
    """Makes an answer of a stream's events."""

    complete: bool
    """The answer is whole: what else the stream brings is only trailing."""

    async def receive(self, event: dict[str, Any]) -> None:
        """Take the next event of an answer that is not complete."""
        ...

    def trail(self, event: dict[str, Any]) -> None:
        """Take an event that came after the answer was complete."""
        ...


async def exchange(
    client: openai.AsyncOpenAI,
    path: str,
    body: Mapping[str, Any],
    reader: Reader,
    options: openai.RequestOptions,
) -> None:
    """Send one request and feed the events of its answer to `reader`, until the answer or the stream ends.

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
                stream_cls=openai.AsyncStream[object],
            ),
        )
        chunks = response.aiter_bytes()
        try:
            await _refuse_other_content(response, chunks)
            await _read(chunks, reader)
        finally:
            await _release(response, chunks)


async def _read(chunks: AsyncGenerator[bytes, None], reader: Reader) -> None:
    splitter = SSESplitter()
    async for chunk in chunks:
        for data in _split(splitter, chunk):
            if data == _DONE:
                await _skip(chunks)
                return
            event = _event(data)
            if reader.complete:
                reader.trail(event)
            else:
                await reader.receive(event)
        if reader.complete:
            await _read_trail(chunks, splitter, reader)
            return
    for data in splitter.close():
        if data != _DONE and not reader.complete:
            await reader.receive(_event(data))


async def _read_trail(chunks: AsyncGenerator[bytes, None], splitter: SSESplitter, reader: Reader) -> None:
    with anyio.move_on_after(_TRAIL_TIMEOUT):
        try:
            async for chunk in chunks:
                for data in _split(splitter, chunk):
                    if data != _DONE:
                        reader.trail(_event(data))
        except (*TRANSPORT_ERRORS, ModelProtocolError):
            return  # the answer itself is whole


async def _skip(chunks: AsyncGenerator[bytes, None]) -> None:
    with anyio.move_on_after(_TRAIL_TIMEOUT):
        try:
            async for _ in chunks:
                pass
        except TRANSPORT_ERRORS:
            return


async def _release(response: httpx2.Response, chunks: AsyncGenerator[bytes, None]) -> None:
    # A response that is closed while its generators are suspended leaves the inner ones to the garbage
    # collector, which makes a task of them (asyncio) or a warning (trio). Resumed in a cancelled scope, they
    # unwind one by one, and the innermost closes the connection.
    with anyio.CancelScope(shield=True) as scope:
        scope.cancel()
        try:
            async for _ in chunks:
                pass
        except TRANSPORT_ERRORS:
            pass
    with anyio.move_on_after(_CLOSE_TIMEOUT, shield=True):
        await response.aclose()


async def _refuse_other_content(response: httpx2.Response, chunks: AsyncGenerator[bytes, None]) -> None:
    content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in ("application/json", "text/html"):
        return
    start = b""
    async for chunk in chunks:
        start += chunk
        if len(start) > 16384:
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


def _event(data: bytes) -> dict[str, Any]:
    try:
        event = from_json(data)
    except ValueError as error:
        raise ModelProtocolError(
            f"the provider sent an event that is not JSON: {snippet(data.decode(errors='replace'))} ({error})"
        ) from None
    if type(event) is not dict:
        raise ModelProtocolError(
            f"the provider sent an event that is not an object: {snippet(data.decode(errors='replace'))}"
        )
    return cast("dict[str, Any]", event)
