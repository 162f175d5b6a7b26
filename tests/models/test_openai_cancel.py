from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import Any

import anyio
import pytest

from kern_async.exceptions import ModelConnectionError, ModelResponseError
from kern_async.models.base import DeltaKind, ModelRequest
from kern_async.models.clients import close_clients
from kern_async.models.openai import OpenAIResponses
from kern_async.run.message import Message
from kern_async.testing.provider import ProviderServer
from kern_async.testing.replies import Cut, End, Forever, Hang, Pause, Reasoning, Stall, Start, Text, ToolCall

from .conftest import Answer, Ask, OpenAI

REQUEST = ModelRequest(messages=[Message(role="user", content="hello")])
LONG_WAITS = pytest.mark.parametrize(
    "reply",
    [Hang(), Start(), Stall(), Stall(keepalive=0.001), Forever(interval=0.001), [Text("So far"), Hang()]],
    ids=["no headers", "headers only", "silent", "keep-alives", "endless text", "stalled text"],
)
ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio", "uvloop"], indirect=True)


@LONG_WAITS
async def test_a_cancel_closes_the_connection_at_once(
    model: OpenAI, ask: Ask, provider: ProviderServer, reply: Any
) -> None:
    provider.reply([reply, Hang()] if reply == Start() else reply)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(ask, model)
            request = await provider.await_for_request()
            await provider.await_until(lambda: reply == Hang() or request.first_byte_at is not None)
            group.cancel_scope.cancel()
            cancelled = time.perf_counter()
    assert time.perf_counter() - cancelled < 0.5
    await provider.await_until(lambda: provider.open_connections == 0)
    assert request.outcome == "disconnected"
    provider.reply(Text("fine"))
    assert (await ask(model)).said() == "fine"


async def test_a_cancel_while_the_reader_is_slow_closes_the_connection(
    model: OpenAI, provider: ProviderServer, ask: Ask
) -> None:
    provider.reply(Forever(interval=0.001))
    entered = anyio.Event()

    async def emit(kind: DeltaKind, text: str) -> None:
        entered.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        group.start_soon(model.respond, REQUEST, emit)
        await entered.wait()
        group.cancel_scope.cancel()
    await provider.await_until(lambda: provider.open_connections == 0)
    assert provider.requests[0].outcome == "disconnected"


@ASYNCIO
async def test_a_native_cancel_passes_as_it_came(model: OpenAI, ask: Ask, provider: ProviderServer) -> None:
    provider.reply(Forever(interval=0.001), times=2)
    for cancels in (1, 2):
        task = asyncio.create_task(ask(model))
        request = await provider.await_for_request(cancels)
        await provider.await_until(lambda request=request: bool(request.streamed))
        taken = 0
        for _ in range(cancels):
            taken += task.cancel()  # the second finds nobody there if the first took no time
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelling() == taken
        await provider.await_until(lambda: provider.open_connections == 0)


async def test_a_deadline_becomes_a_timeout_error(model: OpenAI, ask: Ask, provider: ProviderServer) -> None:
    provider.reply([Text("So far"), Hang()])
    answer = Answer()
    with pytest.raises(TimeoutError):
        with anyio.fail_after(0.1):
            await ask(model, answer=answer)
    assert answer.said() == "So far"


async def test_a_storm_of_cancels_loses_no_connection(
    model: OpenAI, ask: Ask, provider: ProviderServer
) -> None:
    rng = random.Random(7)
    replies = [
        Hang(),
        Stall(),
        Forever(interval=0.0005),
        Text("one two three"),
        [Reasoning("so"), ToolCall("f", {"a": 1}), Text("x " * 50, interval=0.0005)],
        [Pause(0.002), Text("late")],
        Cut(),
    ]
    provider.default = lambda request: rng.choice(replies)
    ended = 0

    async def one() -> None:
        nonlocal ended
        delay = rng.choice([0, rng.random() * 0.003, rng.random() * 0.02])
        with anyio.move_on_after(delay):
            with contextlib.suppress(ModelConnectionError):
                await ask(model)
        ended += 1

    with anyio.fail_after(30):
        for _ in range(8):
            async with anyio.create_task_group() as group:
                for _ in range(25):
                    group.start_soon(one)
    assert ended == 200
    await provider.await_until(lambda: provider.open_requests == 0)
    provider.default = Text("still here")
    with anyio.fail_after(5):
        assert (await ask(model)).said() == "still here"
    await close_clients()
    await provider.await_until(lambda: provider.open_connections == 0)


async def test_a_cut_background_generation_is_cancelled_at_the_provider_once(
    responses: OpenAIResponses, ask: Ask, provider: ProviderServer
) -> None:
    responses.background = True
    provider.reply(Forever(interval=0.001))
    answer = Answer()
    async with anyio.create_task_group() as group:

        async def listen() -> None:
            await ask(responses, answer=answer)

        group.start_soon(listen)
        await provider.await_until(lambda: bool(answer.pieces))
        group.cancel_scope.cancel()
    assert provider.requests[0].body["background"] is True
    assert provider.cancelled_responses == [provider.requests[0].response_id]
    assert provider.requests[0].outcome == "disconnected"


async def test_a_background_generation_without_an_id_cannot_be_cancelled(
    responses: OpenAIResponses, ask: Ask, provider: ProviderServer
) -> None:
    responses.background = True
    provider.reply(Hang())
    async with anyio.create_task_group() as group:
        group.start_soon(ask, responses)
        await provider.await_for_request()
        group.cancel_scope.cancel()
    assert provider.cancelled_responses == []


@pytest.mark.parametrize("end", [End(), End("incomplete"), End("failed")])
async def test_a_background_generation_that_ended_is_not_cancelled(
    responses: OpenAIResponses, ask: Ask, provider: ProviderServer, end: End
) -> None:
    responses.background = True
    provider.reply([Text("Yes."), end])
    with contextlib.suppress(ModelResponseError):
        await ask(responses)
    assert provider.cancelled_responses == []


async def test_a_background_generation_whose_stream_broke_is_cancelled(
    responses: OpenAIResponses, ask: Ask, provider: ProviderServer
) -> None:
    responses.background = True
    provider.reply([Text("So far"), Pause(0.02), Cut()])
    with pytest.raises(Exception, match="cut"):
        await ask(responses)
    assert provider.cancelled_responses == [provider.requests[0].response_id]


async def test_a_provider_that_does_not_take_the_cancel_holds_nobody_up(
    responses: OpenAIResponses, ask: Ask, provider: ProviderServer
) -> None:
    responses.background = True
    provider.reply(Forever(interval=0.001))
    answer = Answer()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:

            async def emit(kind: DeltaKind, text: str) -> None:
                answer.pieces.append((kind, text))
                await anyio.sleep_forever()

            group.start_soon(responses.respond, REQUEST, emit)
            await provider.await_until(lambda: bool(answer.pieces))
            provider.close()  # no connection can be made any more
            group.cancel_scope.cancel()
    assert answer.said() == "word "
