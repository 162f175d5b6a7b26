from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent

from kern_async.testing import (
    Cut,
    End,
    Malformed,
    ProviderServer,
    Reasoning,
    Refusal,
    Start,
    Status,
    Text,
    ToolCall,
    Usage,
)

# The provider has a loop of its own, so one backend shows all; the SDK's typed streams leave a generator behind on trio.
pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)

HI: Any = [{"role": "user", "content": "hi there"}]
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "4"}
CHAT_CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
EVERYTHING = [
    Reasoning("let me think"),
    Text("où est-il ?"),
    ToolCall("add", {"a": 1, "b": "é"}, id="call_1"),
    ToolCall("now", id="call_2"),
]


@pytest.fixture
async def client(provider: ProviderServer) -> AsyncGenerator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=provider.base_url, api_key="test", max_retries=0) as client:
        yield client


def valid(thing: openai.BaseModel) -> None:
    """The SDK builds its types without checking them; this checks every field."""
    type(thing).model_validate(json.loads(thing.to_json()))


async def stream_response(client: AsyncOpenAI, **more: Any) -> list[ResponseStreamEvent]:
    events: list[ResponseStreamEvent] = []
    async with await client.responses.create(model="m", input="hi there", stream=True, **more) as stream:
        async for event in stream:
            valid(event)
            events.append(event)
    return events


async def stream_chat(client: AsyncOpenAI, **more: Any) -> list[ChatCompletionChunk]:
    chunks: list[ChatCompletionChunk] = []
    async with await client.chat.completions.create(model="m", messages=HI, stream=True, **more) as stream:
        async for chunk in stream:
            valid(chunk)
            chunks.append(chunk)
    return chunks


def final(events: Sequence[ResponseStreamEvent]) -> Response:
    response = getattr(events[-1], "response", None)
    assert isinstance(response, Response)
    return response


async def test_a_streamed_response_has_the_events_of_the_provider(
    provider: ProviderServer, client: AsyncOpenAI
) -> None:
    provider.reply(EVERYTHING)
    events = await stream_response(client)
    assert [event.type.removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "reasoning_summary_part.added",
        *["reasoning_summary_text.delta"] * 3,
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        *["output_text.delta"] * 3,
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        *["function_call_arguments.delta"] * 4,
        "function_call_arguments.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    response = final(events)
    assert response.output_text == "où est-il ?"
    assert [item.type for item in response.output] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
    ]
    assert response.output[2].to_dict()["arguments"] == '{"a": 1, "b": "é"}'
    assert response.output[2].to_dict()["call_id"] == "call_1"
    assert response.output[3].to_dict()["arguments"] == "{}"
    assert response.usage is not None
    assert response.usage.input_tokens == 2
    assert response.usage.output_tokens == 3 + 3 + 4
    assert response.usage.output_tokens_details.reasoning_tokens == 3


async def test_the_sdk_assembles_a_streamed_response(provider: ProviderServer, client: AsyncOpenAI) -> None:
    provider.reply([*EVERYTHING, Usage(input=7, output=5, reasoning=2, cached=3)])
    async with client.responses.stream(model="m", input="hi there") as stream:
        response = await stream.get_final_response()
    assert response.output_text == "où est-il ?"
    assert response.usage is not None
    assert response.usage.total_tokens == 12
    assert response.usage.input_tokens_details.cached_tokens == 3


async def test_the_sdk_assembles_a_streamed_completion(provider: ProviderServer, client: AsyncOpenAI) -> None:
    provider.reply([Text("one two"), ToolCall("add", {"a": 1}, id="call_1"), ToolCall("now", id="call_2")])
    async with client.chat.completions.stream(
        model="m", messages=HI, stream_options={"include_usage": True}
    ) as stream:
        completion = await stream.get_final_completion()
    choice = completion.choices[0]
    assert choice.message.content == "one two"
    assert choice.finish_reason == "tool_calls"
    calls = choice.message.tool_calls or []
    assert [(call.id, call.function.name, call.function.arguments) for call in calls] == [
        ("call_1", "add", '{"a": 1}'),
        ("call_2", "now", "{}"),
    ]
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == 2


async def test_a_streamed_completion_has_the_chunks_of_the_provider(
    provider: ProviderServer, client: AsyncOpenAI
) -> None:
    provider.reply([Reasoning("hm"), Text("one two"), ToolCall("now", id="c")])
    chunks = await stream_chat(client)
    deltas = [chunk.choices[0].delta.to_dict(exclude_unset=True) for chunk in chunks]
    assert deltas == [
        {"role": "assistant", "content": "", "refusal": None},
        {"reasoning_content": "hm"},
        {"content": "one "},
        {"content": "two"},
        {
            "tool_calls": [
                {"index": 0, "id": "c", "type": "function", "function": {"name": "now", "arguments": ""}}
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
        {},
    ]
    assert all(chunk.usage is None for chunk in chunks)
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 6 + ["tool_calls"]


async def test_the_usage_chunk_comes_only_when_it_is_asked_for(client: AsyncOpenAI) -> None:
    last = (await stream_chat(client, stream_options={"include_usage": True}))[-1]
    assert last.choices == []
    assert last.usage is not None


async def test_answers_without_streaming_say_the_same(provider: ProviderServer, client: AsyncOpenAI) -> None:
    provider.reply(EVERYTHING, times=2)
    response = await client.responses.create(model="m", input="hi there")
    valid(response)
    assert response.output_text == "où est-il ?"
    assert [item.type for item in response.output] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
    ]
    assert response.status == "completed"
    completion = await client.chat.completions.create(model="m", messages=HI)
    valid(completion)
    assert completion.choices[0].message.content == "où est-il ?"
    assert [call.id for call in completion.choices[0].message.tool_calls or []] == ["call_1", "call_2"]
    assert completion.choices[0].finish_reason == "tool_calls"
    assert completion.usage is not None
    assert response.usage is not None
    assert completion.usage.total_tokens == response.usage.total_tokens == 12


async def test_a_refusal_is_a_refusal(provider: ProviderServer, client: AsyncOpenAI) -> None:
    provider.reply(Refusal("I will not"), times=None)
    events = await stream_response(client)
    assert [e.type for e in events].count("response.refusal.delta") == 3
    assert final(events).output[0].to_dict()["content"] == [{"type": "refusal", "refusal": "I will not"}]
    said = [chunk.choices[0].delta.refusal for chunk in await stream_chat(client)]
    assert "".join(filter(None, said)) == "I will not"
    completion = await client.chat.completions.create(model="m", messages=HI)
    assert completion.choices[0].message.refusal == "I will not"
    assert provider.requests[0].streamed == ["I ", "will ", "not"]


async def test_reasoning_is_given_back_encrypted_when_it_is_asked_for(
    provider: ProviderServer, client: AsyncOpenAI
) -> None:
    provider.reply([Reasoning("hm"), Text("ok")])
    events = await stream_response(client, include=["reasoning.encrypted_content"])
    assert final(events).output[0].to_dict()["encrypted_content"]


@pytest.mark.parametrize("kind", ["incomplete", "failed"])
async def test_a_response_says_how_it_ended(provider: ProviderServer, client: AsyncOpenAI, kind: Any) -> None:
    provider.reply([Text("one two"), End(kind, message="broken")], times=2)
    events = await stream_response(client)
    assert events[-1].type == f"response.{kind}"
    whole = await client.responses.create(model="m", input="hi there")
    valid(whole)
    for response in (final(events), whole):
        assert response.status == kind
    if kind == "incomplete":
        assert whole.incomplete_details is not None
        assert whole.incomplete_details.reason == "max_output_tokens"
        assert final(events).output[0].to_dict()["status"] == "incomplete"
        assert [request.outcome for request in provider.requests] == ["completed"] * 2
    else:
        assert whole.error is not None
        assert whole.error.message == "broken"
        assert [request.outcome for request in provider.requests] == ["error"] * 2


async def test_an_error_event_ends_a_response(provider: ProviderServer, client: AsyncOpenAI) -> None:
    provider.reply([Text("one"), End("error", code="rate_limit_exceeded")])
    last = (await stream_response(client))[-1]
    assert last.type == "error"
    assert last.code == "rate_limit_exceeded"


async def test_a_missing_end_is_missing(provider: ProviderServer, client: AsyncOpenAI) -> None:
    provider.reply([Text("one"), End("missing")], times=2)
    assert (await stream_response(client))[-1].type == "response.output_text.delta"
    assert (await stream_chat(client))[-1].choices[0].finish_reason is None


@pytest.mark.parametrize(
    ("end", "finish_reason"),
    [(End("incomplete"), "length"), (End("incomplete", reason="content_filter"), "content_filter")],
)
async def test_a_completion_says_why_it_stopped(
    provider: ProviderServer, client: AsyncOpenAI, end: End, finish_reason: str
) -> None:
    provider.reply([Text("one"), end], times=2)
    assert (await stream_chat(client))[-1].choices[0].finish_reason == finish_reason
    completion: ChatCompletion = await client.chat.completions.create(model="m", messages=HI)
    assert completion.choices[0].finish_reason == finish_reason


async def test_a_completion_that_fails_raises_in_the_sdk(
    provider: ProviderServer, client: AsyncOpenAI
) -> None:
    provider.reply([Text("one"), End("failed", message="broken")], times=2)
    with pytest.raises(openai.APIError, match="broken"):
        await stream_chat(client)
    with pytest.raises(openai.InternalServerError, match="broken"):
        await client.chat.completions.create(model="m", messages=HI)


async def test_a_status_is_the_providers_error(provider: ProviderServer, client: AsyncOpenAI) -> None:
    provider.reply(Status(429, "slow down", headers={"Retry-After": "7"}))
    with pytest.raises(openai.RateLimitError, match="slow down") as raised:
        await stream_response(client)
    assert raised.value.response.headers["retry-after"] == "7"
    assert raised.value.code == "rate_limit_exceeded"
    provider.reply(Status(503, body="<h1>down</h1>", headers={"content-type": "text/html"}))
    with pytest.raises(openai.InternalServerError) as down:
        await stream_response(client)
    assert down.value.body == "<h1>down</h1>"
    assert [request.outcome for request in provider.requests] == ["error", "error"]


@pytest.mark.parametrize("ask", [stream_response, stream_chat])
async def test_a_malformed_event_is_malformed(
    provider: ProviderServer, client: AsyncOpenAI, ask: Any
) -> None:
    provider.reply([Text("one"), Malformed()])
    with pytest.raises(json.JSONDecodeError):
        await ask(client)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("before", [[], [Start()], [Text("one two")]])
async def test_a_cut_is_a_connection_error(
    provider: ProviderServer, client: AsyncOpenAI, before: list[Any], reset: bool
) -> None:
    provider.reply([*before, Cut(reset=reset)])
    with pytest.raises(openai.APIConnectionError):
        await stream_response(client)
    assert provider.requests[0].outcome == "error"
    assert not provider.requests[0].disconnected.is_set()


async def test_a_response_can_be_cancelled_by_id(provider: ProviderServer, client: AsyncOpenAI) -> None:
    response = await client.responses.create(model="m", input="hi there", background=True)
    cancelled = await client.responses.cancel(response.id)
    valid(cancelled)
    assert cancelled.id == response.id
    assert cancelled.status == "cancelled"
    with pytest.raises(openai.NotFoundError):
        await client.responses.cancel("resp_unknown")
    assert provider.cancelled_responses == [response.id, "resp_unknown"]
    assert len(provider.requests) == 1


async def test_models_are_listed(client: AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["test-model"]


async def test_an_unknown_url_is_not_found(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=r"Invalid URL \(POST /v1/embeddings\)"):
        await client.embeddings.create(model="m", input="x")


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([*HI, CALL], "No tool output found for function call c1"),
        ([*HI, OUTPUT], "No tool call found for function call output with call_id c1"),
        ([*HI, {"type": "reasoning", "id": "rs_1", "summary": []}], "without its required following item"),
        ([{"type": "reasoning", "id": "rs_1", "summary": []}, *HI], "without its required following item"),
        ([{"role": "user", "content": None}], "expected a string or an array"),
        (
            [{"role": "assistant", "content": [{"type": "input_text", "text": "x"}]}],
            "Supported values are: 'output_text' and 'refusal'",
        ),
    ],
)
async def test_a_conversation_that_is_not_whole_is_refused(
    provider: ProviderServer, client: AsyncOpenAI, items: Any, message: str
) -> None:
    provider.reply(Text("not for this one"))
    with pytest.raises(openai.BadRequestError, match=message):
        await client.responses.create(model="m", input=items)
    whole: Any = [*HI, {"type": "reasoning", "id": "rs_1", "summary": []}, CALL, OUTPUT]
    assert (await client.responses.create(model="m", input=whole)).output_text == "not for this one"


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([*HI, {"role": "assistant", "tool_calls": [CHAT_CALL]}], "did not have response messages: c1"),
        ([*HI, {"role": "assistant", "tool_calls": [CHAT_CALL]}, *HI], "did not have response messages: c1"),
        ([*HI, {"role": "tool", "tool_call_id": "c1", "content": "4"}], "must be a response to a preceding"),
        ([*HI, {"role": "assistant", "content": None}], "expected a string, got null"),
        ([*HI, {"role": "assistant", "content": "x", "tool_calls": []}], "empty array"),
    ],
)
async def test_messages_that_are_not_whole_are_refused(
    client: AsyncOpenAI, messages: Any, message: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=message):
        await client.chat.completions.create(model="m", messages=messages)
    call: Any = {"role": "assistant", "tool_calls": [CHAT_CALL]}
    output: Any = {"role": "tool", "tool_call_id": "c1", "content": "4"}
    await client.chat.completions.create(model="m", messages=[*HI, call, output])


async def test_what_is_refused_can_be_let_through(client: AsyncOpenAI) -> None:
    with ProviderServer(strict=False) as lenient:
        call: Any = [*HI, CALL]
        await client.with_options(base_url=lenient.base_url).responses.create(model="m", input=call)
        assert lenient.requests[0].text == "hi there"


async def test_a_tool_needs_a_name_that_the_provider_takes(client: AsyncOpenAI) -> None:
    tool: Any = {"type": "function", "name": "no spaces", "parameters": {}}
    with pytest.raises(openai.BadRequestError, match="'no spaces' does not match the pattern"):
        await client.responses.create(model="m", input="hi", tools=[tool])
