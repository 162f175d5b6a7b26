from __future__ import annotations

import json
import socket
import time
from email.utils import formatdate
from typing import Any

import pytest

from kern_async.exceptions import (
    ModelConnectionError,
    ModelProtocolError,
    ModelResponseError,
    ModelStatusError,
    ModelTimeout,
)
from kern_async.models.openai import OpenAIChat, OpenAIResponses
from kern_async.testing.provider import ProviderServer
from kern_async.testing.replies import Cut, Gate, Hang, Pause, Stall, Start, Status, Step, Text

from .conftest import Answer, Ask, OpenAI


def error(**fields: Any) -> str:
    return json.dumps({"error": fields})


@pytest.mark.parametrize(
    ("code", "retryable"),
    [(400, False), (401, False), (404, False), (408, True), (429, True), (500, True), (503, True)],
)
async def test_a_status_comes_with_the_providers_own_words(
    model: OpenAI, ask: Ask, provider: ProviderServer, code: int, retryable: bool
) -> None:
    provider.reply(Status(code, "Mind the gap."))
    with pytest.raises(ModelStatusError, match=f"{code}: Mind the gap.") as caught:
        await ask(model)
    assert caught.value.status_code == code
    assert caught.value.retryable is retryable
    assert len(provider.requests) == 1, "retries are not the model's business"


async def test_used_up_quota_is_not_retried(model: OpenAI, ask: Ask, provider: ProviderServer) -> None:
    body = error(
        message="You exceeded your current quota.", type="insufficient_quota", code="insufficient_quota"
    )
    provider.reply(Status(429, body=body))
    with pytest.raises(ModelStatusError, match="quota") as caught:
        await ask(model)
    assert caught.value.code == "insufficient_quota"
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"retry-after": "7"}, 7, 7),
        ({"retry-after": "9", "retry-after-ms": "250"}, 0.25, 0.25),
        ({"retry-after": "date"}, 50, 60),
        ({"retry-after": "soon"}, None, None),
        ({"retry-after": "inf"}, None, None),
        ({}, None, None),
    ],
)
async def test_the_providers_wish_when_to_retry_is_kept(
    model: OpenAI, ask: Ask, provider: ProviderServer, headers: dict[str, str], least: Any, most: Any
) -> None:
    if headers.get("retry-after") == "date":
        headers = {"retry-after": formatdate(time.time() + 60, usegmt=True)}
    provider.reply(Status(429, headers=headers))
    with pytest.raises(ModelStatusError) as caught:
        await ask(model)
    if least is None:
        assert caught.value.retry_after is None
    else:
        assert caught.value.retry_after is not None
        assert least <= caught.value.retry_after <= most


async def test_the_provider_may_say_whether_to_retry(
    model: OpenAI, ask: Ask, provider: ProviderServer
) -> None:
    provider.reply(Status(500, headers={"x-should-retry": "false"}))
    provider.reply(Status(400, headers={"x-should-retry": "true"}))
    for retryable in (False, True):
        with pytest.raises(ModelStatusError) as caught:
            await ask(model)
        assert caught.value.retryable is retryable


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("<html>Bad gateway</html>", "<html>Bad gateway"),
        ('{"detail": "Not here"}', "502: Not here"),
        ('{"detail": [{"loc": ["body"]}]}', "loc"),
        ('{"error": "just text"}', "just text"),
        ("", "Bad Gateway"),
        ("x" * 5000, r"x{200}\.\.\."),
    ],
)
async def test_error_bodies_of_other_servers_are_told(
    model: OpenAI, ask: Ask, provider: ProviderServer, body: str, words: str
) -> None:
    provider.reply(Status(502, body=body))
    with pytest.raises(ModelStatusError, match=words) as caught:
        await ask(model)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"content-type": "text/html; charset=utf-8"}, "<html>Please log in</html>"),
        ({"content-type": "application/json"}, '{"hello": "world"}'),
        ({"content-type": "application/json"}, "[" * 100_000),
        ({"content-type": "text/plain"}, "hello"),
        ({"content-type": "text/event-stream"}, ""),
    ],
    ids=["html", "json", "no json", "text", "empty"],
)
async def test_an_answer_that_is_no_event_stream(
    model: OpenAI, ask: Ask, provider: ProviderServer, headers: dict[str, str], body: str
) -> None:
    provider.reply(Status(200, body=body, headers=headers))
    with pytest.raises(ModelProtocolError):
        await ask(model)


async def test_an_error_in_a_good_answers_clothes(model: OpenAI, ask: Ask, provider: ProviderServer) -> None:
    provider.reply(Status(200, body=error(message="no credit", code="insufficient_quota")))
    with pytest.raises(ModelResponseError, match="no credit") as caught:
        await ask(model)
    assert not caught.value.retryable


async def test_a_server_that_is_not_there(ask: Ask) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for kind in (OpenAIResponses, OpenAIChat):
        with pytest.raises(ModelConnectionError, match="cannot be reached") as caught:
            await ask(kind("m", base_url=f"http://127.0.0.1:{port}/v1"))
        assert caught.value.retryable


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize(
    "before", [(), (Start(),), (Text("So far"),)], ids=["at once", "after headers", "in text"]
)
async def test_a_connection_that_is_cut(
    model: OpenAI, ask: Ask, provider: ProviderServer, before: tuple[Step, ...], reset: bool
) -> None:
    provider.reply([*before, Pause(0.02), Cut(reset=reset)])
    answer = Answer()
    with pytest.raises(ModelConnectionError) as caught:
        await ask(model, answer=answer)
    assert caught.value.retryable
    assert answer.said() in "So far"
    await ask(model)


@pytest.mark.parametrize("reply", [Hang(), Stall(), [Text("So far"), Hang()]], ids=["hang", "stall", "stop"])
async def test_the_timeout_of_the_connection_is_a_model_timeout(
    model: OpenAI, ask: Ask, provider: ProviderServer, reply: Any
) -> None:
    provider.reply(reply)
    model.timeout = 0.05
    with pytest.raises(ModelTimeout):
        await ask(model)
    await provider.await_until(lambda: provider.open_requests == 0)
    assert provider.requests[0].outcome == "disconnected"


async def test_what_the_reader_of_a_stream_raises_passes_and_closes_the_connection(
    model: OpenAI, provider: ProviderServer, ask: Ask
) -> None:
    from kern_async.models.base import ModelRequest
    from kern_async.run.message import Message

    gate = Gate()
    provider.reply([Text("one two three"), gate])

    async def emit(kind: str, text: str) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await model.respond(ModelRequest(messages=[Message(role="user", content="x")]), emit)
    await provider.await_until(lambda: provider.open_connections == 0)
