"""Messages: what a run says to its model and hears from it, in no provider's own form."""

from __future__ import annotations

import time
from typing import Any, Literal, cast

from pydantic import ConfigDict, Field, model_validator

from .data import Data
from .media import File, Image
from .trusted import trusted


def now() -> int:
    """The time as whole seconds since the epoch, as every `created_at` has it."""
    return int(time.time())


class ToolCall(Data):
    """A call that the model asks for; `arguments` is the JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


class Message(Data):
    """One turn of a conversation.

    An assistant message may carry `tool_calls`; each is answered by one `tool` message with the same
    `tool_call_id`. `provider_data` is what a provider wants back verbatim with the next request (reasoning
    items, for instance); another provider ignores it. `from_history` marks
    what an earlier run brought into this conversation; providers never see it. Audio and video are not supported.
    """

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    images: tuple[Image, ...] = ()
    files: tuple[File, ...] = ()
    tool_calls: list[ToolCall] = Field(default_factory=list[ToolCall])
    tool_call_id: str | None = None
    tool_name: str | None = None
    tool_call_error: bool = False
    reasoning_content: str | None = None
    provider_data: dict[str, Any] | None = None
    from_history: bool = False
    created_at: int = Field(default_factory=now)

    @model_validator(mode="before")
    @classmethod
    def _no_other_media(cls, values: Any) -> Any:
        if isinstance(values, dict):
            given = cast("dict[str, Any]", values)
            for other in ("audio", "video", "videos"):
                if other in given:
                    raise ValueError(f"a message carries images and files to the model, no {other}")
        return cast(Any, values)


def text_message(role: Literal["system", "user", "assistant"], content: str) -> Message:
    """A message that is one text."""
    return trusted(Message, {"role": role, "content": content})
