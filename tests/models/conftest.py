"""What the tests of OpenAI's models share: a model to ask, and the pieces that it emitted."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest

from kern_async.models.base import DeltaKind, Model, ModelReply, ModelRequest
from kern_async.models.clients import close_clients
from kern_async.models.openai import OpenAIChat, OpenAIResponses
from kern_async.run.message import Message
from kern_async.testing.provider import ProviderServer

OpenAI = OpenAIResponses | OpenAIChat


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """aiohttp is asyncio's."""
    items[:] = [item for item in items if not ("aiohttp" in item.name and "trio" in item.name)]


@dataclass(kw_only=True)
class Answer:
    """What `ask` got; pieces that came before an error are kept."""

    pieces: list[tuple[DeltaKind, str]] = field(default_factory=list)
    reply: ModelReply = field(default_factory=ModelReply)

    def said(self, kind: DeltaKind = "text") -> str:
        return "".join(text for of_kind, text in self.pieces if of_kind == kind)


class Ask(Protocol):
    async def __call__(
        self, model: Model, *messages: Message, answer: Answer | None = None, **request: Any
    ) -> Answer: ...


@pytest.fixture
async def ask() -> AsyncGenerator[Ask]:
    async def ask(model: Model, *messages: Message, answer: Answer | None = None, **request: Any) -> Answer:
        answer = answer or Answer()

        async def emit(kind: DeltaKind, text: str) -> None:
            answer.pieces.append((kind, text))

        answer.reply = await model.respond(
            ModelRequest(messages=messages or (Message(role="user", content="hello"),), **request), emit
        )
        return answer

    yield ask
    await close_clients()


@pytest.fixture(
    params=[(OpenAIResponses, "httpx"), (OpenAIChat, "httpx"), (OpenAIResponses, "aiohttp")],
    ids=["responses", "chat", "aiohttp"],
)
def model(request: pytest.FixtureRequest, provider: ProviderServer) -> OpenAI:
    """A model of each of the two APIs and of each transport, behind the test's provider."""
    kind, transport = request.param
    return kind("test-model", base_url=provider.base_url, api_key="key", transport=transport)


@pytest.fixture
def responses(provider: ProviderServer) -> OpenAIResponses:
    return OpenAIResponses("test-model", base_url=provider.base_url, api_key="key")


@pytest.fixture
def chat(provider: ProviderServer) -> OpenAIChat:
    return OpenAIChat("test-model", base_url=provider.base_url, api_key="key")
