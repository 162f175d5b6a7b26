"""The bytes of a provider's answers (`POST /v1/responses`), made once for all streams: all say the same words."""

from __future__ import annotations

import json
from typing import Any

Json = dict[str, Any]

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
LAST = b"0\r\n\r\n"
_RESPONSE = "resp_" + "0" * 48
_MESSAGE = "msg_" + "0" * 48
_DELTA = 290
"""Bytes of an event that carries a word, as the provider pads them."""

_words: list[bytes] = []


def word(number: int) -> str:
    return f"w{number} "


def text(count: int) -> str:
    return "".join(map(word, range(count)))


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def begin() -> bytes:
    """What comes before the first word."""
    item: Json = {
        "id": _MESSAGE,
        "type": "message",
        "status": "in_progress",
        "content": [],
        "role": "assistant",
    }
    return (
        _event("response.created", 0, response=_response("in_progress", []))
        + _event("response.in_progress", 1, response=_response("in_progress", []))
        + _event("response.output_item.added", 2, output_index=0, item=item)
        + _event("response.content_part.added", 3, **_place(), part=_part(""))
    )


def delta(number: int) -> bytes:
    """The event of a word."""
    while len(_words) <= number:
        place = len(_words)
        fields: Json = {**_place(), "logprobs": [], "delta": word(place)}
        bare = _event("response.output_text.delta", place + 4, **fields, obfuscation="")
        padding = "x" * (_DELTA - len(bare))
        _words.append(_event("response.output_text.delta", place + 4, **fields, obfuscation=padding))
    return _words[number]


def end(count: int) -> bytes:
    """What comes after the last word."""
    said = text(count)
    message = _message(said)
    return (
        _event("response.output_text.done", count + 4, **_place(), text=said, logprobs=[])
        + _event("response.content_part.done", count + 5, **_place(), part=_part(said))
        + _event("response.output_item.done", count + 6, output_index=0, item=message)
        + _event("response.completed", count + 7, response=_response("completed", [message], count))
    )


def calls(name: str, arguments: list[Json]) -> bytes:
    """A whole answer that calls a tool, once with each of the arguments."""
    events = _event("response.created", 0, response=_response("in_progress", []))
    items: list[Json] = []
    for place, values in enumerate(arguments):
        said = json.dumps(values)
        item = {"id": f"fc_{place}", "type": "function_call", "call_id": f"call_{place}", "name": name}
        begun = {**item, "status": "in_progress", "arguments": ""}
        items.append({**item, "status": "completed", "arguments": said})
        where = {"item_id": f"fc_{place}", "output_index": place}
        events += (
            _event("response.output_item.added", 0, output_index=place, item=begun)
            + _event("response.function_call_arguments.delta", 0, **where, delta=said)
            + _event("response.function_call_arguments.done", 0, **where, name=name, arguments=said)
            + _event("response.output_item.done", 0, output_index=place, item=items[-1])
        )
    return events + _event("response.completed", 0, response=_response("completed", items, 1))


def document(count: int) -> bytes:
    """The response to a request that is not streamed."""
    body = json.dumps(_response("completed", [_message(text(count))], count)).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )


def _event(name: str, number: int, /, **fields: Any) -> bytes:
    data = json.dumps({"type": name, "sequence_number": number, **fields}, separators=(",", ":"))
    return f"event: {name}\ndata: {data}\n\n".encode()


def _place() -> Json:
    return {"item_id": _MESSAGE, "output_index": 0, "content_index": 0}


def _part(said: str) -> Json:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": said}


def _message(said: str) -> Json:
    return {
        "id": _MESSAGE,
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [_part(said)],
    }


def _response(status: str, output: list[Json], count: int | None = None) -> Json:
    usage = count and {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": count,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 10 + count,
    }
    return {
        "id": _RESPONSE,
        "object": "response",
        "created_at": 1_790_000_000,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": {},
        "model": "bench",
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": usage,
        "user": None,
    }
