"""Reads the events of a streamed response, see platform.openai.com/docs/api-reference/responses-streaming."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, cast

from kern_async.exceptions import ModelProtocolError, ModelResponseError
from kern_async.run.message import ToolCall

from .answer import text_of, token_count, whole_calls
from .base import DeltaKind, ModelReply, Usage
from .faults import reported_fault

Deltas: TypeAlias = tuple[tuple[DeltaKind, str], ...]

_FALLBACK = "a failure without a reason"


class ResponsesReader:
    """Reads the deltas of one response and makes its reply."""

    def __init__(self) -> None:
        self.complete = False
        """The provider has said how the response ended."""
        self.response_id: str | None = None
        self.items_to_return: list[dict[str, Any]] = []
        """The output items, if the provider wants more of them back than a message tells."""
        self._sent: list[str] = []  # text that was emitted, and where in it the open item and part begin
        self._item_start = 0
        self._part_start = 0
        self._items: list[tuple[int, dict[str, Any]]] = []  # with their place in the output
        self._reply: ModelReply | None = None

    def take(self, event: dict[str, Any]) -> Deltas:
        """What the next event adds; see `Reader.take`."""
        match event.get("type"):
            case "response.output_text.delta" | "response.refusal.delta":
                text = text_of(event["delta"])
                self._sent.append(text)
                return (("text", text),)
            case "response.function_call_arguments.delta":
                return (("arguments", text_of(event["delta"])),)
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                return (("reasoning", text_of(event["delta"])),)
            case "response.reasoning_summary_part.added":
                return (("reasoning", "\n\n" if event.get("summary_index") else ""),)
            case "response.output_text.done":
                return self._part_done(text_of(event["text"]))
            case "response.refusal.done":
                return self._part_done(text_of(event["refusal"]))
            case "response.output_item.done":
                return self._item_done(event)
            case kind:
                return self._state(kind, event)

    def _state(self, kind: object, event: dict[str, Any]) -> Deltas:
        match kind:
            case "response.created" | "response.queued":
                self.response_id = text_of(event["response"]["id"])
            case "response.completed":
                return self._completed(event["response"])
            case "response.incomplete":
                return self._incomplete(event["response"])
            case "response.failed":
                self.complete = True
                raise reported_fault(event["response"].get("error"), _FALLBACK)
            case "error":
                fault = {"code": event.get("code"), "message": event.get("message")}
                raise reported_fault(event.get("error") or fault, _FALLBACK)
            case None:
                raise reported_fault(event["error"], _FALLBACK)
            case _:
                pass  # the protocol grows, and what is new can be left out
        return ()

    def trail(self, event: dict[str, Any]) -> None:
        """Take an event that came after the end: of no meaning."""

    def reply(self) -> ModelReply:
        """The reply.

        Raises:
            ModelProtocolError: the stream ended and did not say how the response did.
        """
        if self._reply is None:
            raise ModelProtocolError("the provider's stream ended without a response.completed event")
        return self._reply

    def _text(self, text: str) -> Deltas:
        self._sent.append(text)
        return (("text", text),)

    def _unsent(self, text: str, start: int) -> Deltas:
        """What of a text that is now known whole never came as a delta."""
        sent = "".join(self._sent[start:])
        return self._text(text[len(sent) :] if text.startswith(sent) else "")

    def _part_done(self, text: str) -> Deltas:
        unsent = self._unsent(text, self._part_start)
        self._part_start = len(self._sent)
        return unsent

    def _item_done(self, event: dict[str, Any]) -> Deltas:
        item: dict[str, Any] = event["item"]
        self._items.append((event.get("output_index", len(self._items)), item))
        if item["type"] != "message":
            return ()
        unsent = self._unsent(item_text(item), self._item_start)
        self._item_start = self._part_start = len(self._sent)
        return unsent

    def _output(self, response: dict[str, Any]) -> list[dict[str, Any]]:
        done = [item for _, item in sorted(self._items, key=lambda placed: placed[0])]
        output: list[dict[str, Any]] = response.get("output") or []
        return output if len(output) >= len(done) else done  # some servers leave it out

    def _completed(self, response: dict[str, Any]) -> Deltas:
        items = self._output(response)
        self._reply = ModelReply(tool_calls=_calls(items), usage=_usage(response))
        if any(item["type"] not in ("message", "function_call") or "phase" in item for item in items):
            self.items_to_return = _without_last_reasoning(items)
        self.complete = True
        return self._unsent("".join(map(item_text, items)), 0)

    def _incomplete(self, response: dict[str, Any]) -> Deltas:
        self.complete = True
        details: dict[str, Any] = response.get("incomplete_details") or {}
        reason: str | None = details.get("reason")
        items = self._output(response)
        calls = whole_calls(_calls(items))
        unsent = self._unsent("".join(map(item_text, items)), 0)
        if reason != "max_output_tokens" or not (calls or any(self._sent)):
            raise ModelResponseError(
                f"the provider broke the answer off: {reason or _FALLBACK}", code=reason, retryable=False
            )
        self._reply = ModelReply(tool_calls=calls, usage=_usage(response))
        return unsent


def item_text(item: Mapping[str, Any]) -> str:
    """The text of an output item, refusals included; empty if it is no message."""
    if item.get("type") != "message":
        return ""
    return "".join(part.get("text") or part.get("refusal") or "" for part in item.get("content") or ())


def _without_last_reasoning(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # The provider refuses a conversation in which reasoning is not followed by what it led to.
    kept = list(items)
    while kept and kept[-1]["type"] == "reasoning":
        kept.pop()
    return kept


def _calls(items: list[dict[str, Any]]) -> list[ToolCall]:
    return [
        ToolCall(
            id=text_of(item.get("call_id") or item.get("id")),
            name=text_of(item["name"]),
            arguments=text_of(item["arguments"]),
        )
        for item in items
        if item["type"] == "function_call"
    ]


def _usage(response: dict[str, Any]) -> Usage | None:
    usage = response.get("usage")
    if not isinstance(usage, dict):
        return None
    counts = cast("dict[str, Any]", usage)
    return Usage(
        input_tokens=token_count(counts, "input_tokens"),
        output_tokens=token_count(counts, "output_tokens"),
        total_tokens=token_count(counts, "total_tokens"),
        reasoning_tokens=token_count(counts, "output_tokens_details", "reasoning_tokens"),
        cache_read_tokens=token_count(counts, "input_tokens_details", "cached_tokens"),
    )
