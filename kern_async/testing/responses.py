"""The protocol of `POST /v1/responses`, see https://platform.openai.com/docs/api-reference/responses-streaming."""

from __future__ import annotations

import time

from .replies import End, Usage
from .request import Json, Request
from .wire import Wire, dumps, error_body, new_id, quote

_ECHOED: Json = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}


def response_body(request: Request, status: str) -> Json:
    """The response object as it is before there is any output."""
    echoed = {name: request.body.get(name, default) for name, default in _ECHOED.items()}
    return {
        "id": request.response_id,
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "error": None,
        "incomplete_details": None,
        "model": request.model,
        "output": [],
        "usage": None,
        **echoed,
    }


class ResponsesWire(Wire):
    """An answer as the Responses API gives it."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self._body = response_body(request, "in_progress")
        self._items: list[Json] = []
        self._open = False  # the last item is not done
        self._part = ""  # the kind of the part that is not done
        self._pieces: list[str] = []
        self._sequence = 0
        self._delta_head = ""

    def begin(self) -> bytes:
        if self._sequence:
            return b""
        created = self._event("response.created", response=self._body)
        return created + self._event("response.in_progress", response=self._body)

    def text(self, delta: str) -> bytes:
        return self._message_part("output_text") + self._delta(delta)

    def refusal(self, delta: str) -> bytes:
        return self._message_part("refusal") + self._delta(delta)

    def reasoning(self, delta: str) -> bytes:
        events = b""
        if self._part != "summary_text":
            item: Json = {"id": new_id("rs"), "type": "reasoning", "summary": []}
            if "reasoning.encrypted_content" in (self._request.body.get("include") or ()):
                item["encrypted_content"] = f"encrypted-{item['id']}"
            events = self._item(item)
            events += self._event(
                "response.reasoning_summary_part.added",
                **self._place(summary_index=0),
                part={"type": "summary_text", "text": ""},
            )
            self._expect("summary_text", "response.reasoning_summary_text.delta", summary_index=0)
        return events + self._delta(delta)

    def call(self, name: str, call_id: str) -> bytes:
        item = {
            "id": new_id("fc"),
            "type": "function_call",
            "status": "in_progress",
            "arguments": "",
            "call_id": call_id,
            "name": name,
        }
        events = self._item(item)
        self._expect("arguments", "response.function_call_arguments.delta")
        return events

    def arguments(self, delta: str) -> bytes:
        return self._delta(delta)

    def malformed(self, data: str) -> bytes:
        return self.begin() + f"event: response.output_text.delta\ndata: {data}\n\n".encode()

    def end(self, end: End, usage: Usage) -> bytes:
        events = self.begin()
        if end.kind == "missing":
            return events
        if end.kind == "error":
            error = {"code": end.code, "message": end.message, "param": None}
            return events + self._event("error", **error)
        if end.kind != "failed":
            events += self._close("completed" if end.kind == "completed" else "incomplete")
        return events + self._event(f"response.{end.kind}", response=self._final(end, usage))

    def document(self, end: End, usage: Usage) -> tuple[int, Json]:
        if end.kind == "error":
            return 500, error_body(end.message, code=end.code)
        self._close("incomplete" if end.kind == "incomplete" else "completed")
        return 200, self._final(end, usage)

    def _final(self, end: End, usage: Usage) -> Json:
        done = self._items[:-1] if self._open else self._items
        body = {**self._body, "status": end.kind, "output": done, "usage": _usage(usage)}
        if end.kind == "failed":
            body |= {"error": {"code": end.code, "message": end.message}, "usage": None}
        elif end.kind == "incomplete":
            body["incomplete_details"] = {"reason": end.reason}
        elif end.kind == "missing":
            body |= {"status": "in_progress", "usage": None}
        else:
            body["completed_at"] = int(time.time())
        return body

    def _event(self, name: str, **fields: object) -> bytes:
        data = dumps({"type": name, "sequence_number": self._sequence, **fields})
        self._sequence += 1
        return f"event: {name}\ndata: {data}\n\n".encode()

    def _place(self, **index: int) -> Json:
        return {"item_id": self._items[-1]["id"], "output_index": len(self._items) - 1, **index}

    def _item(self, item: Json) -> bytes:
        events = self.begin() + self._close("completed")
        self._items.append(item)
        self._open = True
        return events + self._event(
            "response.output_item.added", output_index=len(self._items) - 1, item=self._items[-1]
        )

    def _message_part(self, kind: str) -> bytes:
        if self._part == kind:
            return b""
        if self._open and self._items[-1]["type"] == "message":
            events = self._close_part()
        else:
            message: Json = {"id": new_id("msg"), "type": "message", "status": "in_progress", "content": []}
            events = self._item({**message, "role": "assistant"})
        index = len(self._items[-1]["content"])
        part = _part(kind, "")
        events += self._event("response.content_part.added", **self._place(content_index=index), part=part)
        self._expect(kind, f"response.{kind}.delta", content_index=index)
        return events

    def _expect(self, part: str, event: str, **index: int) -> None:
        self._part = part
        self._pieces = []
        place = dumps(self._place(**index) | ({"logprobs": []} if part == "output_text" else {}))
        self._delta_head = f'event: {event}\ndata: {{"type":"{event}",{place[1:-1]},"sequence_number":'

    def _delta(self, delta: str) -> bytes:
        self._pieces.append(delta)
        event = f'{self._delta_head}{self._sequence},"delta":{quote(delta)}}}\n\n'
        self._sequence += 1
        return event.encode()

    def _close(self, status: str) -> bytes:
        if not self._open:
            return b""
        events = self._close_part()
        item = self._items[-1]
        if item["type"] != "reasoning":
            item["status"] = status
        self._open = False
        return events + self._event("response.output_item.done", output_index=len(self._items) - 1, item=item)

    def _close_part(self) -> bytes:
        kind, self._part = self._part, ""
        text = "".join(self._pieces)
        item = self._items[-1]
        if kind == "arguments":
            item["arguments"] = text
            return self._event("response.function_call_arguments.done", **self._place(), arguments=text)
        part = _part(kind, text)
        if kind == "summary_text":
            item["summary"].append(part)
            place = self._place(summary_index=0)
            done = self._event("response.reasoning_summary_text.done", **place, text=text)
            return done + self._event("response.reasoning_summary_part.done", **place, part=part)
        place = self._place(content_index=len(item["content"]))
        item["content"].append(part)
        said: Json = {"text": text, "logprobs": []} if kind == "output_text" else {"refusal": text}
        done = self._event(f"response.{kind}.done", **place, **said)
        return done + self._event("response.content_part.done", **place, part=part)


def _part(kind: str, text: str) -> Json:
    if kind == "output_text":
        return {"type": kind, "annotations": [], "logprobs": [], "text": text}
    return {"type": kind, "refusal" if kind == "refusal" else "text": text}


def _usage(usage: Usage) -> Json:
    return {
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.input + usage.output,
    }
