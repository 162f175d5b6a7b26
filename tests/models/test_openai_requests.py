from __future__ import annotations

from pathlib import Path
from typing import Any, Generic, TypeVar

import httpx2
import openai
import pytest
from pydantic import BaseModel

from kern_async.exceptions import ConfigurationError, ModelKeyMissing
from kern_async.models.base import ToolSpec
from kern_async.models.openai import OpenAIChat, OpenAIResponses
from kern_async.run.media import File, Image
from kern_async.run.message import Message, ToolCall
from kern_async.testing.provider import ProviderServer
from kern_async.testing.replies import Reasoning, Text
from kern_async.testing.replies import ToolCall as Call

from .conftest import Ask, OpenAI

USER = Message(role="user", content="hello")
TOOL = ToolSpec(name="look", description="Look it up.", parameters={"type": "object", "properties": {}})
CONVERSATION = (
    Message(role="system", content="Be brief."),
    Message(role="user", content="Weather in Bonn and Rome?"),
    Message(
        role="assistant",
        content="I look.",
        tool_calls=[
            ToolCall(id="c1", name="look", arguments='{"at":"Bonn"}'),
            ToolCall(id="c2", name="look", arguments='{"at":"Rome"}'),
        ],
    ),
    Message(role="tool", tool_call_id="c1", tool_name="look", content="rain"),
    Message(role="tool", tool_call_id="c2", tool_name="look", content=""),
    Message(role="assistant", content="Rain in Bonn."),
    Message(role="system", content="Now in verse."),
    Message(role="user", content="Again."),
)


async def test_responses_send_the_conversation_as_items(
    responses: OpenAIResponses, ask: Ask, provider: ProviderServer
) -> None:
    await ask(responses, *CONVERSATION)
    body = provider.requests[0].body
    assert body["instructions"] == "Be brief."
    assert "previous_response_id" not in body
    said: dict[str, Any] = {"type": "message", "role": "assistant", "status": "completed"}
    assert body["input"] == [
        {"role": "user", "content": "Weather in Bonn and Rome?"},
        {**said, "content": [{"type": "output_text", "text": "I look.", "annotations": []}]},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"at":"Bonn"}'},
        {"type": "function_call", "call_id": "c2", "name": "look", "arguments": '{"at":"Rome"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "rain"},
        {"type": "function_call_output", "call_id": "c2", "output": ""},
        {**said, "content": [{"type": "output_text", "text": "Rain in Bonn.", "annotations": []}]},
        {"role": "system", "content": "Now in verse."},
        {"role": "user", "content": "Again."},
    ]


async def test_chat_sends_the_conversation_as_messages(
    chat: OpenAIChat, ask: Ask, provider: ProviderServer
) -> None:
    await ask(chat, *CONVERSATION)
    body = provider.requests[0].body
    assert body["stream_options"] == {"include_usage": True}
    call = {"type": "function"}
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather in Bonn and Rome?"},
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [
                {"id": "c1", **call, "function": {"name": "look", "arguments": '{"at":"Bonn"}'}},
                {"id": "c2", **call, "function": {"name": "look", "arguments": '{"at":"Rome"}'}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        {"role": "tool", "tool_call_id": "c2", "content": ""},
        {"role": "assistant", "content": "Rain in Bonn."},
        {"role": "system", "content": "Now in verse."},
        {"role": "user", "content": "Again."},
    ]


async def test_settings_reach_the_provider_and_unset_ones_do_not(ask: Ask, provider: ProviderServer) -> None:
    shared: dict[str, Any] = {
        "base_url": provider.base_url,
        "temperature": 0.0,
        "top_p": 0.5,
        "store": False,
        "metadata": {"a": "b"},
        "user": "u",
        "service_tier": "flex",
        "parallel_tool_calls": False,
        "extra_body": {"repeat_penalty": 1.1, "top_p": 0.6},
        "extra_headers": {"x-team": "blue"},
        "extra_query": {"api-version": "1"},
    }
    sent = {"temperature": 0.0, "top_p": 0.6, "store": False, "metadata": {"a": "b"}, "user": "u"}
    sent |= {"service_tier": "flex", "repeat_penalty": 1.1}
    await ask(
        OpenAIResponses(
            "gpt-5",
            max_output_tokens=9,
            max_tool_calls=2,
            reasoning={"effort": "low", "summary": "auto"},
            reasoning_effort="high",
            verbosity="low",
            truncation="auto",
            include=["message.output_text.logprobs"],
            **shared,
        ),
        USER,
    )
    assert provider.requests[0].headers["x-team"] == "blue"
    assert provider.requests[0].body == {
        "model": "gpt-5",
        "stream": True,
        "input": [{"role": "user", "content": "hello"}],
        "max_output_tokens": 9,
        "max_tool_calls": 2,
        "reasoning": {"effort": "high", "summary": "auto"},
        "text": {"verbosity": "low"},
        "truncation": "auto",
        "include": ["message.output_text.logprobs", "reasoning.encrypted_content"],
        **sent,
    }
    await ask(
        OpenAIChat(
            "gpt-4o",
            max_completion_tokens=9,
            reasoning_effort="low",
            seed=3,
            stop=["."],
            verbosity="low",
            **shared,
        ),
        USER,
    )
    assert provider.requests[1].body == {
        "model": "gpt-4o",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": "hello"}],
        "max_completion_tokens": 9,
        "reasoning_effort": "low",
        "seed": 3,
        "stop": ["."],
        "verbosity": "low",
        **sent,
    }


@pytest.mark.parametrize(
    ("choice", "in_responses", "in_chat"),
    [
        ("auto", "auto", "auto"),
        ("required", "required", "required"),
        ("none", "none", "none"),
        ("look", {"type": "function", "name": "look"}, {"type": "function", "function": {"name": "look"}}),
        ({"type": "web_search"}, {"type": "web_search"}, {"type": "web_search"}),
        (None, None, None),
    ],
)
async def test_tools_and_the_choice_of_them(
    model: OpenAI, ask: Ask, provider: ProviderServer, choice: Any, in_responses: Any, in_chat: Any
) -> None:
    strict = ToolSpec(name="s", description="", parameters={}, strict=True)
    await ask(model, USER, tools=[TOOL, strict], tool_choice=choice)
    body = provider.requests[0].body
    expected = in_chat if isinstance(model, OpenAIChat) else in_responses
    assert body.get("tool_choice") == expected
    told = {"name": "look", "description": "Look it up.", "parameters": TOOL.parameters}
    if isinstance(model, OpenAIChat):
        assert body["tools"][0] == {"type": "function", "function": told}
        assert body["tools"][1]["function"]["strict"] is True
    else:
        assert body["tools"][0] == {"type": "function", "strict": False, **told}
        assert body["tools"][1]["strict"] is True


async def test_without_tools_nothing_is_said_about_them(
    ask: Ask, model: OpenAI, provider: ProviderServer
) -> None:
    model.parallel_tool_calls = True
    await ask(model, USER, tool_choice="auto")
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & provider.requests[0].body.keys()


T = TypeVar("T")


class Pair(BaseModel, Generic[T]):
    first: T
    second: str = "x"


async def test_an_output_schema_is_sent_in_strict_form(
    model: OpenAI, ask: Ask, provider: ProviderServer
) -> None:
    await ask(model, USER, output_schema=Pair[int])
    await ask(model, USER, output_schema={"title": "Mine", "type": "object", "properties": {}})
    model.strict_output = False
    await ask(model, USER, output_schema=Pair[int])
    formats: list[dict[str, Any]] = []
    for request in provider.requests:
        if isinstance(model, OpenAIChat):
            assert request.body["response_format"]["type"] == "json_schema"
            formats.append(request.body["response_format"]["json_schema"])
        else:
            told = dict(request.body["text"]["format"])
            assert told.pop("type") == "json_schema"
            formats.append(told)
    assert formats[0]["name"] == "Pair_int_"
    assert formats[0]["strict"] is True
    assert formats[0]["schema"]["required"] == ["first", "second"]
    assert formats[0]["schema"]["additionalProperties"] is False
    assert formats[1] == {
        "name": "Mine",
        "schema": {"title": "Mine", "type": "object", "properties": {}},
        "strict": True,
    }
    assert formats[2]["strict"] is False
    assert formats[2]["schema"]["required"] == ["first"]


async def test_images_and_files_are_sent_as_parts(
    model: OpenAI, ask: Ask, provider: ProviderServer, tmp_path: Path
) -> None:
    picture = tmp_path / "dot.gif"
    picture.write_bytes(b"GIF89a")
    message = Message(
        role="user",
        content="See",
        images=(Image(url="https://example.com/a.png"), Image(filepath=picture, detail="low")),
        files=(File(content=b"%PDF", filename="a.pdf"),),
    )
    await ask(model, message)
    parts = provider.requests[0].input[0]["content"]
    pdf = {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="}
    gif = "data:image/gif;base64,R0lGODlh"
    if isinstance(model, OpenAIChat):
        assert parts == [
            {"type": "text", "text": "See"},
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "auto"}},
            {"type": "image_url", "image_url": {"url": gif, "detail": "low"}},
            {"type": "file", "file": pdf},
        ]
    else:
        assert parts == [
            {"type": "input_text", "text": "See"},
            {"type": "input_image", "image_url": "https://example.com/a.png", "detail": "auto"},
            {"type": "input_image", "image_url": gif, "detail": "low"},
            {"type": "input_file", **pdf},
        ]


async def test_a_missing_image_is_a_clear_error(model: OpenAI, ask: Ask, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nothing\.png"):
        await ask(model, Message(role="user", images=(Image(filepath=tmp_path / "nothing.png"),)))


async def test_what_chat_cannot_carry_is_a_clear_error(chat: OpenAIChat, ask: Ask) -> None:
    url = "https://example.com/a.pdf"
    with pytest.raises(ConfigurationError, match=url):
        await ask(chat, Message(role="user", files=(File(url=url),)))
    with pytest.raises(ConfigurationError, match="'look'"):
        await ask(chat, Message(role="tool", tool_call_id="c", tool_name="look", images=(Image(url=url),)))


async def test_reasoning_goes_back_in_its_place_with_the_next_request(
    responses: OpenAIResponses, ask: Ask, provider: ProviderServer
) -> None:
    provider.reply(
        [Reasoning("Hm."), Text("I look."), Reasoning("So."), Call("look", {"at": "Bonn"}, id="c1")]
    )
    first = await ask(responses, USER)
    answered = Message(
        role="assistant",
        content=first.said(),
        tool_calls=first.reply.tool_calls,
        provider_data=first.reply.provider_data,
    )
    answered = Message.model_validate_json(answered.model_dump_json())  # it comes back from a store
    result = Message(role="tool", tool_call_id="c1", content="rain")
    await ask(responses, USER, answered, result)
    items = provider.requests[1].input
    assert [item.get("type") for item in items] == [
        None,
        "reasoning",
        "message",
        "reasoning",
        "function_call",
        "function_call_output",
    ]
    assert items[1]["id"].startswith("rs_")
    assert items[1]["summary"] == [{"type": "summary_text", "text": "Hm."}]

    cut = answered.model_copy(update={"content": "I lo", "tool_calls": []})
    await ask(responses, USER, cut, USER)
    assert [item.get("type") for item in provider.requests[2].input] == [None, "message", None], (
        "it says other things"
    )
    await ask(OpenAIResponses("other", base_url=provider.base_url), USER, answered, result)
    assert "reasoning" not in [item.get("type") for item in provider.requests[3].input], "another model's"
    old = answered.model_copy(update={"created_at": answered.created_at - 30 * 86_400})
    await ask(responses, USER, old, result)
    assert "reasoning" not in [item.get("type") for item in provider.requests[4].input], (
        "the provider forgot it"
    )


async def test_reasoning_is_asked_for_encrypted_where_the_provider_keeps_nothing(
    ask: Ask, provider: ProviderServer
) -> None:
    model = OpenAIResponses("gpt-5-mini", base_url=provider.base_url, store=False)
    provider.reply([Reasoning("Hm."), Text("Yes.")])
    first = await ask(model, USER)
    assert provider.requests[0].body["include"] == ["reasoning.encrypted_content"]
    answered = Message(
        role="assistant", content="Yes.", provider_data=first.reply.provider_data, created_at=0
    )
    await ask(model, USER, answered, USER)
    assert provider.requests[1].input[1]["encrypted_content"].startswith("encrypted-rs_")

    await ask(OpenAIResponses("gpt-4o", base_url=provider.base_url, store=False), USER)
    assert "include" not in provider.requests[2].body, "models that do not reason refuse it"


async def test_reasoning_that_led_to_nothing_does_not_go_back(
    responses: OpenAIResponses, ask: Ask, provider: ProviderServer
) -> None:
    provider.reply([Reasoning("Hm."), Text("Yes."), Reasoning("Well.")])
    provider.reply([Reasoning("Hm.")])
    data = (await ask(responses, USER)).reply.provider_data or {}
    assert [item["type"] for item in data["openai_responses"]["output"]] == ["reasoning", "message"]
    assert (await ask(responses, USER)).reply.provider_data is None


async def test_a_plain_answer_needs_no_provider_data(responses: OpenAIResponses, ask: Ask) -> None:
    assert (await ask(responses, USER)).reply.provider_data is None


async def test_key_and_address_come_from_the_environment_at_use(
    ask: Ask, provider: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    model = OpenAIResponses("m", organization="org")
    monkeypatch.setenv("OPENAI_API_KEY", "from-environment\n")
    monkeypatch.setenv("OPENAI_BASE_URL", provider.base_url)
    await ask(model, USER)
    assert provider.requests[0].headers["authorization"] == "Bearer from-environment"
    assert provider.requests[0].headers["openai-organization"] == "org"


async def test_a_missing_key_says_what_to_do(
    ask: Ask, provider: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_BASE_URL", "")
    for model in (OpenAIResponses("m"), OpenAIChat("m", base_url="https://api.openai.com/v1")):
        with pytest.raises(
            ModelKeyMissing, match=r"platform\.openai\.com/api-keys.*OPENAI_API_KEY.*LlamaCpp"
        ):
            await ask(model, USER)
        await model.aclose()
    await ask(OpenAIResponses("m", base_url=provider.base_url), USER)  # another server may need none
    assert len(provider.requests) == 1


async def test_a_key_is_not_shown(provider: ProviderServer) -> None:
    model = OpenAIResponses("m", api_key="sk-secret", base_url=provider.base_url)
    assert "sk-secret" not in repr(model)


async def test_wrong_settings_are_clear_errors(ask: Ask) -> None:
    with pytest.raises(ConfigurationError, match="http://"):
        await ask(OpenAIResponses("m", base_url="localhost:8080"), USER)
    with pytest.raises(ConfigurationError, match=r"AsyncOpenAI"):
        OpenAIChat("m", client=openai.OpenAI(api_key="k"))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigurationError, match=r"httpx2\.AsyncClient"):
        OpenAIChat("m", http_client=httpx2.Client())  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigurationError, match="store"):
        OpenAIResponses("m", background=True, store=False)
    with pytest.raises(TypeError, match="temprature"):
        OpenAIResponses("m", temprature=1)  # pyright: ignore[reportCallIssue]
