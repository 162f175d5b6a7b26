"""A model that says what a test tells it to, in the test's own process and without a socket."""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import anyio.lowlevel

from kern_async.exceptions import ModelResponseError
from kern_async.models.base import Emit, Model, ModelReply, ModelRequest
from kern_async.run.message import ToolCall

Step = str | ToolCall | Exception | Callable[[ModelRequest], Awaitable[object]]
"""One thing a model does: say a piece of text, call a tool, fail, or await something of the test's."""


def call(name: str, /, **arguments: Any) -> ToolCall:
    """A tool call for a script, with an id of its own."""
    return ToolCall(id=f"call_{uuid.uuid4().hex[:12]}", name=name, arguments=json.dumps(arguments))


@dataclass(kw_only=True, eq=False)
class ScriptedModel(Model):
    """Answers the first request with the first turn, the second with the second, and so on.

    A turn is a step or several. There is a checkpoint before each step, so that a cancel can come between any two.
    A request that is one too many fails the run with `ModelResponseError`; `repeat=True` begins anew instead.
    `requests` are those that came. Concurrent runs share the script: give each its own model.
    """

    provider: ClassVar[str] = "scripted"

    id: str = field(default="scripted", kw_only=False)
    turns: Sequence[Step | Sequence[Step]] = field(kw_only=False, default=())
    repeat: bool = False
    requests: list[ModelRequest] = field(default_factory=list[ModelRequest], init=False)

    async def respond(self, request: ModelRequest, emit: Emit) -> ModelReply:
        number = len(self.requests)
        self.requests.append(request)
        if self.repeat and self.turns:
            number %= len(self.turns)
        if number >= len(self.turns):
            raise ModelResponseError(f"the script of {self.id} has {len(self.turns)} turns", retryable=False)
        turn = self.turns[number]
        steps = [turn] if isinstance(turn, (str, ToolCall, Exception)) or callable(turn) else turn
        calls: list[ToolCall] = []
        for step in steps:
            await anyio.lowlevel.checkpoint()
            if isinstance(step, str):
                await emit("text", step)
            elif isinstance(step, ToolCall):
                await emit("arguments", step.arguments)
                calls.append(step)
            elif isinstance(step, Exception):
                raise step
            else:
                await step(request)
        return ModelReply(tool_calls=calls)
