"""What the real provider refuses with HTTP 400: conversations that are not whole."""

from __future__ import annotations

import re
from typing import cast

from .request import Json, Request

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def fault(request: Request) -> str | None:
    """Say what is wrong with a request, in the provider's words, or None."""
    if not request.model:
        return "Missing required parameter: 'model'."
    for position, name in enumerate(request.tool_names):
        if not _NAME.fullmatch(name):
            return (
                f"Invalid 'tools[{position}].name': {name!r} does not match the pattern '^[a-zA-Z0-9_-]+$'."
            )
    if not request.input:
        return f"Missing required parameter: '{'messages' if request.chat else 'input'}'."
    return _chat_fault(request.input) if request.chat else _responses_fault(request)


def _responses_fault(request: Request) -> str | None:
    calls: set[str] = set()
    answered: set[str] = set()
    for position, item in enumerate(request.input):
        kind = item.get("type", "message")
        following = request.input[position + 1] if position + 1 < len(request.input) else {}
        if kind == "message" and (wrong := _content_fault(position, item)):
            return wrong
        if kind == "function_call":
            calls.add(str(item.get("call_id")))
        elif kind == "function_call_output":
            answered.add(str(item.get("call_id")))
            if not answered <= calls and "previous_response_id" not in request.body:
                return f"No tool call found for function call output with call_id {item.get('call_id')}."
        elif kind == "reasoning" and not _is_output(following):
            name = item.get("id")
            return f"Item '{name}' of type 'reasoning' was provided without its required following item."
    for call in calls - answered:
        return f"No tool output found for function call {call}."
    return None


def _is_output(item: Json) -> bool:
    if item.get("role"):
        return item["role"] == "assistant"
    return bool(item) and not str(item.get("type")).endswith("_output")


def _content_fault(position: int, item: Json) -> str | None:
    content: object = item.get("content")
    if isinstance(content, str):
        return None
    if not isinstance(content, list):
        return f"Invalid type for 'input[{position}].content': expected a string or an array."
    assistant = item.get("role") == "assistant"
    for number, part in enumerate(cast(list[Json], content)):
        kind = str(part.get("type"))
        if (kind in ("output_text", "refusal")) != assistant:
            supported = (
                "'output_text' and 'refusal'" if assistant else "'input_text', 'input_image', 'input_file'"
            )
            where = f"input[{position}].content[{number}]"
            return f"Invalid value for '{where}': '{kind}'. Supported values are: {supported}."
    return None


def _chat_fault(messages: list[Json]) -> str | None:
    awaited: list[str] = []
    for position, message in enumerate([*messages, {"role": "end"}]):
        role = message.get("role")
        if role == "tool":
            if message.get("tool_call_id") not in awaited:
                return (
                    f"Invalid parameter: messages[{position}] with role 'tool' must be a response to a "
                    "preceding message with 'tool_calls'."
                )
            awaited.remove(message["tool_call_id"])
            continue
        if awaited:
            return (
                "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
                f"'tool_call_id'. The following tool_call_ids did not have response messages: {', '.join(awaited)}"
            )
        if role == "assistant":
            calls = cast("list[Json] | None", message.get("tool_calls"))
            if calls == []:
                return f"Invalid 'messages[{position}].tool_calls': empty array."
            if not calls and message.get("content") is None and message.get("refusal") is None:
                return f"Invalid value for 'messages[{position}].content': expected a string, got null."
            awaited = [str(call["id"]) for call in calls or ()]
    return None
