from __future__ import annotations

import json
from typing import Any

import pytest

from kern_async.exceptions import ModelProtocolError, ModelResponseError
from kern_async.models.base import Usage
from kern_async.models.openai import OpenAIChat, OpenAIResponses
from kern_async.run.message import ToolCall
from kern_async.testing.provider import ProviderServer
from kern_async.testing.replies import Cut, End, Malformed, Pause, Reasoning, Refusal, Step, Text
from kern_async.testing.replies import ToolCall as Call
from kern_async.testing.replies import Usage as Tokens

from .conftest import Answer, Ask, OpenAI

WHOLE = {"type": "response.completed", "response": {"output": [], "usage": None}}


def events(*bodies: dict[str, Any] | str) -> list[Step]:
    """A stream of exactly these events."""
    return [
        *(Malformed(body if isinstance(body, str) else json.dumps(body)) for body in bodies),
        End("missing"),
    ]


def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


async def test_deltas_are_emitted_as_they_are(model: OpenAI, ask: Ask, provider: ProviderServer) -> None:
    provider.reply(
        [Reasoning(["Hm", "."]), Text(["Grüße, ", "世界 🦉", "\n\n", " data: x"]), Refusal([" No."])]
    )
    answer = await ask(model)
    assert answer.pieces == [
        ("reasoning", "Hm"),
        ("reasoning", "."),
        ("text", "Grüße, "),
        ("text", "世界 🦉"),
        ("text", "\n\n"),
        ("text", " data: x"),
        ("text", " No."),
    ]


async def test_parallel_calls_come_in_order_with_their_arguments(
    model: OpenAI, ask: Ask, provider: ProviderServer
) -> None:
    provider.reply(
        [
            Text("I look."),
            Call("a", {"at": "Bonn ü"}, id="c1"),
            Call("b", {}, id="c2"),
            Call("a", "{", id="c3"),
        ]
    )
    answer = await ask(model)
    assert answer.reply.tool_calls == [
        ToolCall(id="c1", name="a", arguments='{"at": "Bonn ü"}'),
        ToolCall(id="c2", name="b", arguments="{}"),
        ToolCall(id="c3", name="a", arguments="{"),
    ]
    assert answer.said() == "I look."
    assert answer.said("arguments") == '{"at": "Bonn ü"}{}{'


async def test_usage_is_reported_with_its_parts(model: OpenAI, ask: Ask, provider: ProviderServer) -> None:
    provider.reply([Tokens(input=100, output=20, reasoning=8, cached=60), Text("Yes.")])
    assert (await ask(model)).reply.usage == Usage(
        input_tokens=100, output_tokens=20, total_tokens=120, reasoning_tokens=8, cache_read_tokens=60
    )


async def test_an_answer_at_its_token_limit_is_kept(
    model: OpenAI, ask: Ask, provider: ProviderServer
) -> None:
    provider.reply(
        [Text("Once upon"), Call("a", {"x": 1}, id="c1"), Call("b", '{"y": ', id="c2"), End("incomplete")]
    )
    answer = await ask(model)
    assert answer.said() == "Once upon"
    assert [call.id for call in answer.reply.tool_calls] == ["c1"], "the other is not whole"
    assert answer.reply.provider_data is None


@pytest.mark.parametrize(
    "reply",
    [[End("incomplete")], [Text("Bad w"), End("incomplete", reason="content_filter")]],
    ids=["empty", "filtered"],
)
async def test_an_answer_that_was_broken_off_is_an_error(
    model: OpenAI, ask: Ask, provider: ProviderServer, reply: list[Step]
) -> None:
    provider.reply(reply)
    answer = Answer()
    with pytest.raises(ModelResponseError, match="broke the answer off") as caught:
        await ask(model, answer=answer)
    assert not caught.value.retryable
    assert answer.said() in ("", "Bad w")


@pytest.mark.parametrize("kind", ["failed", "error"])
async def test_a_failure_that_the_answer_reports(
    model: OpenAI, ask: Ask, provider: ProviderServer, kind: Any
) -> None:
    provider.reply([Text("So fa"), End(kind, code="server_error", message="Sorry!")])
    provider.reply(End(kind, code="invalid_prompt", message="No."))
    answer = Answer()
    with pytest.raises(ModelResponseError, match="Sorry!") as caught:
        await ask(model, answer=answer)
    assert caught.value.retryable
    assert caught.value.code == "server_error"
    assert answer.said() == "So fa"
    with pytest.raises(ModelResponseError) as caught:
        await ask(model)
    assert not caught.value.retryable


async def test_a_stream_without_an_end_is_an_error(model: OpenAI, ask: Ask, provider: ProviderServer) -> None:
    provider.reply([Text("So far"), End("missing")])
    answer = Answer()
    with pytest.raises(ModelProtocolError, match="ended without"):
        await ask(model, answer=answer)
    assert answer.said() == "So far"


@pytest.mark.parametrize("data", ["{not json", "[]", '"x"', "{}", '{"type": ', "\ufffd"])
async def test_a_malformed_event_is_an_error_and_no_connection_stays(
    model: OpenAI, ask: Ask, provider: ProviderServer, data: str
) -> None:
    provider.reply([Text("So far"), Malformed(data), Pause(60), Text("more")])
    answer = Answer()
    with pytest.raises(ModelProtocolError, match="malformed event") as caught:
        await ask(model, answer=answer)
    assert caught.value.retryable
    assert answer.said() == "So far"
    await provider.await_until(lambda: provider.open_connections == 0)


@pytest.mark.parametrize(
    "event",
    [
        {"type": "response.output_text.delta"},
        {"type": "response.output_text.delta", "delta": None},
        {"type": "response.output_text.done", "text": 3},
        {"type": "response.output_item.done", "item": "x"},
        {"type": "response.completed"},
        {"type": "response.completed", "response": {"output": [{"type": "function_call"}]}},
    ],
)
async def test_a_response_event_that_lacks_what_it_must_have(
    responses: OpenAIResponses, ask: Ask, provider: ProviderServer, event: dict[str, Any]
) -> None:
    provider.reply(events(event))
    with pytest.raises(ModelProtocolError, match="malformed"):
        await ask(responses)


@pytest.mark.parametrize(
    "event",
    [
        {"object": "chat.completion.chunk"},
        {"choices": ["x"]},
        chunk({"content": 3}),
        chunk({"tool_calls": ["x"]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": {"x": 1}}}]}),
    ],
)
async def test_a_chunk_that_is_not_as_it_must_be(
    chat: OpenAIChat, ask: Ask, provider: ProviderServer, event: dict[str, Any]
) -> None:
    provider.reply(events(event))
    with pytest.raises(ModelProtocolError, match="malformed"):
        await ask(chat)


async def test_text_that_never_came_as_a_delta_is_emitted_when_it_is_known(
    responses: OpenAIResponses, ask: Ask, provider: ProviderServer
) -> None:
    def part(text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text}

    def message(*texts: str) -> dict[str, Any]:
        return {"type": "message", "content": [part(text) for text in texts]}

    provider.reply(
        events(
            {"type": "response.output_text.delta", "delta": "one "},
            {"type": "response.output_text.done", "text": "one "},
            {"type": "response.output_text.done", "text": "two "},
            {"type": "response.output_text.delta", "delta": "thr"},
            {"type": "response.output_item.done", "item": message("one ", "two ", "three ")},
            {"type": "response.output_item.done", "item": message("four ")},
            {"type": "response.completed", "response": {"output": [message("one two three four five")]}},
        )
    )
    answer = await ask(responses)
    assert [text for _, text in answer.pieces] == ["one ", "two ", "thr", "ee ", "four "], (
        "completed has less items"
    )
    provider.reply(events({"type": "response.completed", "response": {"output": [message("all at once")]}}))
    assert (await ask(responses)).said() == "all at once"
    provider.reply(events({"type": "response.output_text.done", "text": "once"}, WHOLE))
    assert (await ask(responses)).said() == "once"


async def test_calls_count_even_if_the_last_event_leaves_the_output_out(
    responses: OpenAIResponses, ask: Ask, provider: ProviderServer
) -> None:
    def done(index: int, name: str) -> dict[str, Any]:
        call = {"type": "function_call", "call_id": f"c{index}", "name": name, "arguments": "{}"}
        return {"type": "response.output_item.done", "output_index": index, "item": call}

    provider.reply(events(done(1, "second"), done(0, "first"), {"type": "response.new_in_2027"}, WHOLE))
    assert [call.name for call in (await ask(responses)).reply.tool_calls] == ["first", "second"]


async def test_an_error_without_a_type_is_the_providers_own(
    responses: OpenAIResponses, ask: Ask, provider: ProviderServer
) -> None:
    provider.reply(events({"error": {"code": 500, "message": "no slot", "type": "server_error"}}))
    with pytest.raises(ModelResponseError, match="no slot") as caught:
        await ask(responses)
    assert caught.value.code == "server_error"


async def test_calls_of_servers_that_number_them_wrongly(
    chat: OpenAIChat, ask: Ask, provider: ProviderServer
) -> None:
    def call(**part: Any) -> dict[str, Any]:
        return chunk({"tool_calls": [part]})

    provider.reply(
        events(
            call(index=0, id="c1", function={"name": "a", "arguments": '{"x"'}),
            call(index=0, function={"arguments": ":1}"}),
            call(index=0, id="c2", function={"name": "b", "arguments": "{"}),
            call(index=0, id="c2", function={"name": "b", "arguments": "}"}),
            call(id="c3", function={"name": "c", "arguments": '{"y":'}),
            call(function={"arguments": "2}"}),
            call(index=3, function={"name": "d", "arguments": "{}"}),
            chunk({}, "tool_calls"),
        )
    )
    calls = (await ask(chat)).reply.tool_calls
    assert [(call.name, call.arguments) for call in calls] == [
        ("a", '{"x":1}'),
        ("b", "{}"),
        ("c", '{"y":2}'),
        ("d", "{}"),
    ]
    assert [call.id for call in calls[:3]] == ["c1", "c2", "c3"]
    assert calls[3].id, "made up, because the result has to name it"


@pytest.mark.parametrize("end", [End("missing"), Cut(), Cut(reset=True)], ids=["eof", "cut", "reset"])
async def test_a_chat_answer_is_whole_once_it_says_why_it_stopped(
    chat: OpenAIChat, ask: Ask, provider: ProviderServer, end: Step
) -> None:
    usage = {"usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}, "choices": []}
    tail = [Malformed(json.dumps(usage)), Malformed("junk")]
    provider.reply([Malformed(json.dumps(chunk({"content": "Yes."}, "stop"))), *tail, Pause(0.02), end])
    answer = await ask(chat)
    assert answer.said() == "Yes."
    assert answer.reply.usage == Usage(input_tokens=3, output_tokens=1, total_tokens=4)


async def test_a_response_is_whole_once_it_is_completed(
    responses: OpenAIResponses, ask: Ask, provider: ProviderServer
) -> None:
    provider.reply([Text("Yes."), Malformed(json.dumps(WHOLE)), Malformed("junk"), Cut(reset=True)])
    assert (await ask(responses)).said() == "Yes."


async def test_a_done_marker_ends_the_stream(model: OpenAI, ask: Ask, provider: ProviderServer) -> None:
    provider.reply([Text("So far"), Malformed("[DONE]"), Text("never")])
    answer = Answer()
    with pytest.raises(ModelProtocolError, match="ended without"):
        await ask(model, answer=answer)
    assert answer.said() == "So far"


async def test_an_answer_in_one_burst_is_read_whole(
    model: OpenAI, ask: Ask, provider: ProviderServer
) -> None:
    provider.reply(Text([f"{i}ü " for i in range(3000)], burst=True))
    answer = await ask(model)
    assert len(answer.pieces) == 3000
    assert answer.said() == "".join(f"{i}ü " for i in range(3000))


async def test_one_connection_serves_one_request_after_another(
    model: OpenAI, ask: Ask, provider: ProviderServer
) -> None:
    ports: set[object] = set()
    for _ in range(5):
        await ask(model)
        ports.add(provider.open_connections)
    assert ports == {1}
