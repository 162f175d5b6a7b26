"""The protocol of `POST /v1/chat/completions`, see https://platform.openai.com/docs/api-reference/chat-streaming."""

from __future__ import annotations

import time

from .replies import End, Usage
from .request import Json, Request
from .wire import Wire, dumps, error_body, quote


class ChatWire(Wire):
    """An answer as the Chat Completions API gives it, and, for reasoning, its imitators do."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        created = int(time.time())
        self._common: Json = {"id": request.response_id, "created": created, "model": request.model}
        self._common |= {"service_tier": "default", "system_fingerprint": "fp_test"}
        options: Json = request.body.get("stream_options") or {}
        self._with_usage = bool(options.get("include_usage"))
        common = dumps({**self._common, "object": "chat.completion.chunk"})
        self._head = f'data: {common[:-1]},"choices":[{{"index":0,"logprobs":null,"delta":'
        self._tail = ',"usage":null' if self._with_usage else ""
        self._begun = False
        self._said: dict[str, list[str]] = {}
        self._calls: list[Json] = []

    def begin(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        return self._chunk('{"role":"assistant","content":"","refusal":null}')

    def text(self, delta: str) -> bytes:
        return self._say("content", delta)

    def refusal(self, delta: str) -> bytes:
        return self._say("refusal", delta)

    def reasoning(self, delta: str) -> bytes:
        return self._say("reasoning_content", delta)

    def call(self, name: str, call_id: str) -> bytes:
        call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": ""}}
        index = len(self._calls)
        events = self.begin() + self._chunk(dumps({"tool_calls": [{"index": index, **call}]}))
        self._calls.append(call)
        return events

    def arguments(self, delta: str) -> bytes:
        self._calls[-1]["function"]["arguments"] += delta
        index = len(self._calls) - 1
        return self._chunk(
            f'{{"tool_calls":[{{"index":{index},"function":{{"arguments":{quote(delta)}}}}}]}}'
        )

    def malformed(self, data: str) -> bytes:
        return self.begin() + f"data: {data}\n\n".encode()

    def end(self, end: End, usage: Usage) -> bytes:
        events = self.begin()
        if end.kind == "missing":
            return events
        if end.kind in ("failed", "error"):
            return events + f"data: {dumps(error_body(end.message, code=end.code))}\n\n".encode()
        events += self._chunk("{}", dumps(self._finish_reason(end)))
        if self._with_usage:
            last: Json = {
                **self._common,
                "object": "chat.completion.chunk",
                "choices": [],
                "usage": _usage(usage),
            }
            events += f"data: {dumps(last)}\n\n".encode()
        return events + b"data: [DONE]\n\n"

    def document(self, end: End, usage: Usage) -> tuple[int, Json]:
        if end.kind in ("failed", "error"):
            return 500, error_body(end.message, code=end.code)
        said = {name: "".join(deltas) for name, deltas in self._said.items()}
        message: Json = {"role": "assistant", "content": None, "refusal": None, "annotations": [], **said}
        if self._calls:
            message["tool_calls"] = self._calls
        reason = None if end.kind == "missing" else self._finish_reason(end)
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        body = {**self._common, "object": "chat.completion", "choices": [choice]}
        return 200, body if end.kind == "missing" else {**body, "usage": _usage(usage)}

    def _finish_reason(self, end: End) -> str:
        if end.kind == "incomplete":
            return "length" if end.reason == "max_output_tokens" else end.reason
        return "tool_calls" if self._calls else "stop"

    def _say(self, name: str, delta: str) -> bytes:
        self._said.setdefault(name, []).append(delta)
        return self.begin() + self._chunk(f'{{"{name}":{quote(delta)}}}')

    def _chunk(self, delta: str, finish_reason: str = "null") -> bytes:
        return f'{self._head}{delta},"finish_reason":{finish_reason}}}]{self._tail}}}\n\n'.encode()


def _usage(usage: Usage) -> Json:
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
