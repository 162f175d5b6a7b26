"""The seam between a run and a model's provider: messages and tools in, deltas and a reply out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import BaseModel

from kern_async.run.message import Message, ToolCall

DeltaKind = Literal["text", "reasoning", "arguments"]
Emit = Callable[[DeltaKind, str], Awaitable[None]]
"""Takes one piece of a generation as it arrives.

`text` is the answer (a refusal's text too), `reasoning` a reasoning summary, `arguments` a piece of a tool
call's arguments, which nobody sees but which shows that the model is alive. It may wait, for the reader of the
run's stream: an adapter awaits it and reads on when it returns.
"""


@dataclass(frozen=True, kw_only=True)
class ToolSpec:
    """A tool as the model is told of it; `parameters` is the JSON schema of its arguments."""

    name: str
    description: str
    parameters: dict[str, Any]
    strict: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelRequest:
    """One request: the conversation so far, and what the model may use and must give.

    `tool_choice` is `auto`, `none`, `required`, a tool's name, or what the provider itself takes.
    `output_schema` is a pydantic class or a JSON schema that the answer's text must fit.
    """

    messages: Sequence[Message]
    tools: Sequence[ToolSpec] = ()
    tool_choice: str | dict[str, Any] | None = None
    output_schema: type[BaseModel] | dict[str, Any] | None = None


@dataclass(kw_only=True)
class Usage:
    """Tokens that the provider counted."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    reasoning_tokens: int = 0
    cache_read_tokens: int = 0


@dataclass(kw_only=True)
class ModelReply:
    """The end of a generation that came to its end; its text went through `emit`."""

    tool_calls: list[ToolCall] = field(default_factory=list[ToolCall])
    usage: Usage | None = None
    provider_data: dict[str, Any] | None = None
    """What the provider wants back with the next request, see `Message.provider_data`."""


@dataclass(kw_only=True, eq=False)
class Model(ABC):
    """A model of some provider. Subclass it and write `respond` to bring your own.

    `max_retries` is how often a request that failed before anything was streamed is sent again (faults whose
    error says `retryable` only), after `retry_delay` seconds, doubled each time, or what the provider asks for.
    `first_token_timeout` and `idle_timeout` are in seconds: how long the first content, and each further one,
    may take; None means for ever.
    """

    provider: ClassVar[str] = "custom"

    id: str = field(kw_only=False)
    max_retries: int = 2
    retry_delay: float = 0.5
    first_token_timeout: float | None = None
    idle_timeout: float | None = None

    @abstractmethod
    async def respond(self, request: ModelRequest, emit: Emit) -> ModelReply:
        """Send one request and stream its answer into `emit`.

        Awaited runs stream too. Called concurrently, from any number of event loops, asyncio and trio. A cancel
        arrives as the backend's own cancellation, at any await: close the connection and let it pass. Sends
        the request once: retries are the caller's.

        Raises:
            ModelError: the provider gave no whole answer. What was emitted before stays.
        """
