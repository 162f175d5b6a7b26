from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import openai
import pytest

from kern_async.models.base import ModelRequest
from kern_async.models.clients import close_clients
from kern_async.models.openai import OpenAIChat, OpenAIResponses
from kern_async.run.message import Message
from kern_async.testing.provider import ProviderServer
from kern_async.testing.replies import Text

DELTAS = 2000
REQUEST = ModelRequest(messages=[Message(role="user", content="hello")])


async def least_cpu(read: Callable[[], Awaitable[int]]) -> float:
    """Seconds of this thread; the provider works in another one."""
    best = float("inf")
    for _ in range(3):
        start = time.thread_time()
        assert await read() == DELTAS
        best = min(best, time.thread_time() - start)
    return best


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_delta_costs_a_quarter_of_the_typed_clients(provider: ProviderServer) -> None:
    provider.default = Text(["some words "] * DELTAS, burst=True)
    async with openai.AsyncOpenAI(base_url=provider.base_url, api_key="key") as client:

        async def typed_responses() -> int:
            stream = await client.responses.create(model="m", input="hello", stream=True)
            return sum([event.type == "response.output_text.delta" async for event in stream])

        async def typed_chat() -> int:
            stream = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "hello"}], stream=True
            )
            return sum([bool(chunk.choices and chunk.choices[0].delta.content) async for chunk in stream])

        async def ours(model: OpenAIResponses | OpenAIChat) -> int:
            deltas = 0

            async def emit(kind: str, text: str) -> None:
                nonlocal deltas
                deltas += 1

            await model.respond(REQUEST, emit)
            return deltas

        for typed, kind in ((typed_responses, OpenAIResponses), (typed_chat, OpenAIChat)):
            model = kind("m", base_url=provider.base_url, api_key="key")
            assert await least_cpu(lambda model=model: ours(model)) < await least_cpu(typed) / 4
    await close_clients()
