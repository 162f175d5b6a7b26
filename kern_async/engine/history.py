"""The conversation of earlier runs as a later one is told of it: whole, in order, and valid for any provider.

A provider refuses a tool call without its answer, an answer without its call, and an empty answer of its own. A run
may end or be lost at any instant, and hooks may do anything to a history, so it is put right where it is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from kern_async.exceptions import ConfigurationError
from kern_async.run.base import BaseOutput, Work
from kern_async.run.message import Message, ToolCall
from kern_async.run.session import own_messages

from .calls import call_user
from .ending import answer_to
from .tokens import estimate_tokens

if TYPE_CHECKING:
    from .run import Run

UNFINISHED = "not finished"
"""What a call is answered with in a history that has no answer to it."""

Turn = list[Message]
"""All messages of one earlier run: its input, and what was said and done until its end."""

TrimHook = Callable[[list[Message]], list[Message]]
"""Given the whole history, oldest first, and returns what is to be told of it. May change what it was given."""


def turns_of(outputs: Sequence[BaseOutput], last: int | None = None) -> list[Turn]:
    """The conversation of earlier runs, oldest first, a turn for each; of the last `last` runs only, if given.

    The messages are copies with `from_history=True`, valid as input. A run's turn is the same whatever its end was:
    its input, what it said, and its calls with their answers. System messages, what came to it from earlier runs,
    and what its prompt put before the input are not part of it.
    """
    chosen = outputs if last is None else outputs[max(0, len(outputs) - last) :]
    return [sealed([_remembered(message) for message in _said(output)]) for output in chosen]


def _said(output: BaseOutput) -> list[Message]:
    asked = output.input.messages() if output.input is not None else []
    asked = [message for message in asked if message.role != "system" and not message.from_history]
    own = own_messages(output)
    for place in range(len(own) - len(asked) + 1):
        if all(_same(own[place + index], message) for index, message in enumerate(asked)):
            return own[place:]  # what is before is the prompt's, which says it again in every run
    if any(message.role == "user" for message in own):
        return own
    return asked + own


def _same(one: Message, other: Message) -> bool:
    """Whether they say the same; one of them may have been stored, or be the user's object."""
    said = ("role", "content", "images", "files", "tool_calls", "tool_call_id")
    return all(getattr(one, name) == getattr(other, name) for name in said)


def _remembered(message: Message) -> Message:
    deep = bool(message.tool_calls or message.provider_data)  # the rest cannot be changed in place
    return message.model_copy(update={"from_history": True}, deep=deep)


@dataclass(eq=False)
class _Asked:
    """An assistant message with calls, and the answers to them that were found."""

    message: Message
    answers: dict[str, Message] = field(default_factory=dict[str, Message])

    def whole(self) -> list[Message]:
        return [self.message, *(self.answers.get(call.id) or self._missing(call) for call in self.calls)]

    @property
    def calls(self) -> list[ToolCall]:
        return self.message.tool_calls

    def _missing(self, call: ToolCall) -> Message:
        update = {"from_history": self.message.from_history, "created_at": self.message.created_at}
        return answer_to(call, UNFINISHED, error=True).model_copy(update=update)


def sealed(messages: Sequence[Message]) -> list[Message]:
    """The messages as valid input for a provider, whatever they were; none of them is changed.

    Each tool call is answered once, directly after the message that makes it: by the first answer that follows
    before the id is used again, else by one that says `UNFINISHED`. Of several calls of one message with one id the
    first remains. What answers nothing is left out, and so is an assistant message that says and does nothing.
    """
    parts: list[Message | _Asked] = []
    asking: dict[str, _Asked] = {}
    for message in messages:
        if message.role == "assistant":
            if message.tool_calls:
                asked = _Asked(_without_twins(message))
                asking.update((call.id, asked) for call in asked.calls)
                parts.append(asked)
            elif message.content or message.provider_data:
                parts.append(message)
        elif message.role == "tool":
            call_id = message.tool_call_id or ""
            if call_id in asking:
                asking[call_id].answers.setdefault(call_id, message)
        else:
            parts.append(message)
    return [each for part in parts for each in (part.whole() if isinstance(part, _Asked) else [part])]


def _without_twins(message: Message) -> Message:
    calls = list({call.id: call for call in reversed(message.tool_calls)}.values())[::-1]
    if len(calls) == len(message.tool_calls):
        return message
    return message.model_copy(update={"tool_calls": calls})


def newest(turns: Sequence[Turn], tokens: int) -> list[Turn]:
    """The last turns that together take no more than so many tokens; whole ones, none after one that is left out."""
    kept: list[Turn] = []
    for turn in reversed(turns):
        tokens -= estimate_tokens(turn)
        if tokens < 0:
            break
        kept.append(turn)
    return kept[::-1]


async def told(run: Run, trim: int | TrimHook | None) -> list[Message]:
    """What a run's model is told of earlier runs: `run.history`, trimmed as its owner wants it.

    The hook runs in a thread; a cancel does not wait for it.

    Raises:
        ConfigurationError: the hook did not return messages.
        Exception: what it raised.
    """
    turns = newest(run.history, trim) if isinstance(trim, int) else run.history
    messages = [message for turn in turns for message in turn]
    if callable(trim):
        name = getattr(trim, "__name__", type(trim).__name__)
        work = Work(kind="hook", name=name, run_id=run.id)
        messages = _checked(name, await call_user(run, work, partial(trim, messages), is_async=False))
    return sealed(messages)


def _checked(name: str, returned: Any) -> list[Message]:
    listed = cast("list[Any]", returned) if isinstance(returned, list) else None
    if listed is None or not all(isinstance(item, Message) for item in listed):
        raise ConfigurationError(f"trim_history: {name} returned {returned!r}; it returns a list of Messages")
    # What it made anew is not part of the run's own turn either.
    return [item if item.from_history else _remembered(item) for item in cast("list[Message]", listed)]
