"""Reads the chunks of a streamed chat completion, see platform.openai.com/docs/api-reference/chat-streaming."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

from kern_async.exceptions import ModelProtocolError, ModelResponseError
from kern_async.run.message import ToolCall

from .answer import text_of, token_count, whole_calls
from .base import DeltaKind, ModelReply, Usage
from .faults import reported_fault

_FALLBACK = "a failure without a reason"


@dataclass(kw_only=True, eq=False)
class _Call:
    index: int | None
    id: str | None = None
    name: str = ""
    arguments: list[str] = field(default_factory=list[str])


class ChatReader:
    """Reads the deltas of one chat completion and makes its reply."""

    def __init__(self) -> None:
        self.complete = False
        """The provider has said why the model stopped; only its usage may still come."""
        self._calls: list[_Call] = []
        self._has_text = False
        self._finish_reason: str | None = None
        self._usage: Usage | None = None

    def take(self, event: dict[str, Any]) -> list[tuple[DeltaKind, str]]:
        """What the next chunk adds; see `Reader.take`."""
        if event.get("error"):
            raise reported_fault(event["error"], _FALLBACK)
        if event.get("usage"):
            self._take_usage(event["usage"])
        choices = event["choices"]
        if not choices:
            return []
        choice: dict[str, Any] = choices[0]
        deltas: list[tuple[DeltaKind, str]] = []
        delta: dict[str, Any] = choice.get("delta") or {}
        if len(delta) == 1 and (content := delta.get("content")):
            deltas.append(("text", text_of(content)))
            self._has_text = True
        elif delta:
            reasoning = delta.get("reasoning_content") or delta.get("reasoning") or ""
            deltas.append(("reasoning", text_of(reasoning)))
            for text in (delta.get("content"), delta.get("refusal")):
                if text:
                    deltas.append(("text", text_of(text)))
                    self._has_text = True
            deltas.extend(("arguments", self._call(part)) for part in delta.get("tool_calls") or ())
        if reason := choice.get("finish_reason"):
            self._finish_reason = text_of(reason)
            self.complete = True
        return deltas

    def trail(self, event: dict[str, Any]) -> None:
        """Take a chunk that came after the end of the answer: it may bring the usage."""
        if event.get("usage"):
            self._take_usage(event["usage"])

    def reply(self) -> ModelReply:
        """The reply.

        Raises:
            ModelProtocolError: the stream ended and did not say why the model stopped.
            ModelResponseError: the provider broke the answer off, and there is nothing of it.
        """
        reason = self._finish_reason
        if reason is None:
            raise ModelProtocolError("the provider's stream ended without a finish_reason")
        calls = [
            ToolCall(
                id=call.id or f"call_{uuid.uuid4().hex}", name=call.name, arguments="".join(call.arguments)
            )
            for call in self._calls
        ]
        if reason == "length":
            calls = whole_calls(calls)
        if reason == "content_filter" or (reason == "length" and not (calls or self._has_text)):
            raise ModelResponseError(
                f"the provider broke the answer off: {reason}", code=reason, retryable=False
            )
        return ModelReply(tool_calls=calls, usage=self._usage)

    def _call(self, part: dict[str, Any]) -> str:
        index, call_id = part.get("index"), part.get("id")
        call = next((call for call in reversed(self._calls) if call.index == index), None)
        if index is None and call_id is None and self._calls:
            call = self._calls[-1]
        # Some servers number every call 0, or not at all: then a new id is a new call.
        if call is None or (call_id and call.id and call_id != call.id):
            call = _Call(index=index)
            self._calls.append(call)
        call.id = call.id or call_id
        function: dict[str, Any] = part.get("function") or {}
        if (name := text_of(function.get("name") or "")) != call.name:  # some servers repeat it
            call.name += name
        arguments = text_of(function.get("arguments") or "")
        call.arguments.append(arguments)
        return arguments

    def _take_usage(self, counts: dict[str, Any]) -> None:
        self._usage = Usage(
            input_tokens=token_count(counts, "prompt_tokens"),
            output_tokens=token_count(counts, "completion_tokens"),
            total_tokens=token_count(counts, "total_tokens"),
            reasoning_tokens=token_count(counts, "completion_tokens_details", "reasoning_tokens"),
            cache_read_tokens=token_count(counts, "prompt_tokens_details", "cached_tokens"),
        )
