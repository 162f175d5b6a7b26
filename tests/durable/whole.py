"""A model that gives one whole answer, in however many pieces its conversation was cut."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import anyio.lowlevel

from kern_async import Agent, Team
from kern_async.models.base import Emit, Model, ModelReply, ModelRequest, Usage
from kern_async.run.message import ToolCall
from kern_async.testing.scripted import call

Calls = Sequence[tuple[str, Mapping[str, Any]]]


async def at_once() -> None:
    await anyio.lowlevel.checkpoint()


@dataclass(kw_only=True, eq=False)
class WholeModel(Model):
    """Says its turns word by word, and goes on where the conversation says that it was.

    Each turn but the last ends with calls. `pace` is awaited before each word.
    """

    provider: ClassVar[str] = "whole"

    turns: Sequence[tuple[str, Calls]] = field(kw_only=False, default=())
    pace: Callable[[], Awaitable[object]] = at_once
    requests: list[ModelRequest] = field(default_factory=list[ModelRequest], init=False)

    @property
    def answer(self) -> str:
        return "".join(text for text, _ in self.turns)

    async def respond(self, request: ModelRequest, emit: Emit) -> ModelReply:
        self.requests.append(request)
        own = [message for message in request.messages if message.role == "assistant"]
        turn = sum(bool(message.tool_calls) for message in own)
        said = sum(len(message.content or "") for message in own)
        before = sum(len(text) for text, _ in self.turns[:turn])
        text, calls = self.turns[turn]
        words = text[said - before :].replace(" ", " \0").rstrip("\0").split("\0")
        for word in words:
            await self.pace()
            if word:
                await emit("text", word)
        made: list[ToolCall] = []
        for name, arguments in calls:
            await self.pace()
            made.append(call(name, **arguments))
            await emit("arguments", made[-1].arguments)
        tokens = Usage(input_tokens=10, output_tokens=len(words), total_tokens=10 + len(words))
        return ModelReply(tool_calls=made, usage=tokens)


def delegation(*members: str) -> Calls:
    return [("delegate_task_to_member", {"member_id": member, "task": "Do it."}) for member in members]


def member(name: str, pace: Callable[[], Awaitable[object]], *tools: Any) -> Agent:
    calls = [(tool.__name__, {"word": name}) for tool in tools]
    turns = [("Let me see. ", calls), (f"It is {name} and nothing else.", ())]
    model = WholeModel(name, turns if calls else turns[1:], pace=pace)
    return Agent(name=name, model=model, tools=tools, store_events=True)


def whole_of(who: Agent | Team) -> str:
    """All that it has to say."""
    assert isinstance(who.model, WholeModel)
    return who.model.answer
