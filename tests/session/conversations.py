"""Conversations of any kind, and what is demanded of those that a provider is sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from kern_async.models.base import ModelRequest
from kern_async.models.openai import OpenAIChat, OpenAIResponses
from kern_async.run.message import Message, ToolCall
from kern_async.testing import Request
from kern_async.testing.refusing import fault

MODELS = (
    OpenAIResponses(id="gpt-5.2", api_key="key"),
    OpenAIResponses(id="gpt-5.2", api_key="key", store=False),
    OpenAIResponses(id="another", api_key="key"),
    OpenAIChat(id="gpt-5.2", api_key="key"),
)


def refusals(messages: Sequence[Message]) -> list[str]:
    """What providers find wrong with the messages, before a user's next one."""
    told: list[str] = []
    for model in MODELS:
        body = model._body(ModelRequest(messages=[*messages, Message(role="user", content="Go on.")]))
        path = "/v1/chat/completions" if isinstance(model, OpenAIChat) else "/v1/responses"
        request = Request(path=path, headers={}, body=body, response_id="r", received_at=0.0)
        if (wrong := fault(request)) is not None:
            told.append(wrong)
    return told


def check_whole(messages: Sequence[Message]) -> None:
    """Each call is answered once, directly after its message; nothing else answers; no answer is empty."""
    awaited: list[str] = []
    for message in messages:
        if message.role == "tool":
            assert message.tool_call_id or "" in awaited
            assert (message.tool_call_id or "") == awaited.pop(0)
            continue
        assert not awaited, f"{awaited} have no answer before {message}"
        if message.role == "assistant":
            assert message.content or message.tool_calls or message.provider_data
            awaited = [call.id for call in message.tool_calls]
            assert len(set(awaited)) == len(awaited)
    assert not awaited


IDS = st.sampled_from(["", "1", "2", "3"])
TEXTS = st.sampled_from([None, "", "One.", "Two."])


def _item(kind: str, text: str | None, calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    match kind:
        case "said":
            parts = [{"type": "output_text", "text": text, "annotations": []}]
            return [{"type": "message", "role": "assistant", "content": parts}] if text else []
        case "called":
            return [
                {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}
                for call in calls
            ]
        case "encrypted":
            return [{"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}]
        case _:
            return [{"type": kind, "id": f"{kind}_1", "summary": []}]


@st.composite
def _assistants(draw: st.DrawFn) -> Message:
    text = draw(TEXTS)
    calls = draw(
        st.lists(st.builds(ToolCall, id=IDS, name=st.just("look"), arguments=st.just("{}")), max_size=3)
    )
    provider_data = None
    if draw(st.booleans()):
        kinds = ["reasoning", "encrypted", "said", "called", "web_search_call", "custom_tool_call"]
        order = draw(st.lists(st.sampled_from(kinds), max_size=5))
        items = [item for kind in order for item in _item(kind, text, calls)]
        provider_data = {"openai_responses": {"model": "gpt-5.2", "output": items}}
    return Message(role="assistant", content=text, tool_calls=calls, provider_data=provider_data)


MESSAGES = st.one_of(
    st.builds(Message, role=st.just("user"), content=TEXTS),
    _assistants(),
    st.builds(Message, role=st.just("tool"), content=TEXTS, tool_call_id=st.one_of(st.none(), IDS)),
    st.builds(Message, role=st.just("system"), content=TEXTS),
)
CONVERSATIONS = st.lists(MESSAGES, max_size=12)


def user(text: str) -> Message:
    return Message(role="user", content=text)


def said(text: str | None, *calls: str) -> Message:
    made = [ToolCall(id=call, name="look", arguments="{}") for call in calls]
    return Message(role="assistant", content=text, tool_calls=made)


def answer(call: str, text: str = "seen") -> Message:
    return Message(role="tool", content=text, tool_call_id=call, tool_name="look")


def texts(messages: Sequence[Message]) -> list[str | None]:
    return [message.content for message in messages]
