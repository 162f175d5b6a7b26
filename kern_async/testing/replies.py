"""What the test provider answers: a reply is one step, or a list of steps that are played in order."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from .request import Request

_WORD = re.compile(r"\s*\S+\s*|\s+")


def words(text: str) -> list[str]:
    """Split a text into words that keep the spaces round them: joined again they are the text."""
    return _WORD.findall(text)


@dataclass(frozen=True)
class Start:
    """Send the headers and the first events, which have no content; every other content step does it too."""


@dataclass(frozen=True)
class Text:
    """Stream a text, `interval` seconds before each further delta.

    A string is split into words, a list is taken as the deltas. `burst` sends all deltas in as few writes as
    possible, for benchmarks; `interval` is then meaningless.
    """

    text: str | Sequence[str]
    interval: float = 0.0
    burst: bool = False

    @property
    def deltas(self) -> Sequence[str]:
        """The pieces as they are sent."""
        return words(self.text) if isinstance(self.text, str) else self.text


@dataclass(frozen=True)
class Forever:
    """Stream the same text delta every `interval` seconds until the client leaves."""

    delta: str = "word "
    interval: float = 0.01


@dataclass(frozen=True)
class Reasoning:
    """Stream a reasoning summary, `interval` seconds before each further delta."""

    text: str | Sequence[str]
    interval: float = 0.0

    @property
    def deltas(self) -> Sequence[str]:
        """The pieces as they are sent."""
        return words(self.text) if isinstance(self.text, str) else self.text


@dataclass(frozen=True)
class Refusal:
    """Stream a refusal, `interval` seconds before each further delta."""

    text: str | Sequence[str]
    interval: float = 0.0

    @property
    def deltas(self) -> Sequence[str]:
        """The pieces as they are sent."""
        return words(self.text) if isinstance(self.text, str) else self.text


@dataclass(frozen=True)
class ToolCall:
    """Call a function; several in one reply are parallel calls.

    A string as `arguments` is sent as it stands, valid JSON or not. Without an `id` the call gets a new one.
    """

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict[str, Any])
    id: str | None = None
    interval: float = 0.0

    @property
    def deltas(self) -> Sequence[str]:
        """The pieces of the arguments' JSON text as they are sent."""
        if isinstance(self.arguments, str):
            return words(self.arguments)
        return words(json.dumps(self.arguments, ensure_ascii=False))


@dataclass(frozen=True)
class Pause:
    """Wait so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Gate:
    """Wait until the test opens it, or sets its event."""

    event: threading.Event = field(default_factory=threading.Event)

    def open(self) -> None:
        """Let every request that waits at this gate, or will come to it, go on."""
        self.event.set()


@dataclass(frozen=True)
class Call:
    """Call `fn(request)` at that instant, in the server's thread, which waits for it: it must not block."""

    fn: Callable[[Request], object]


@dataclass(frozen=True)
class Hang:
    """Send nothing more until the client leaves: no headers either, if none were sent yet."""


@dataclass(frozen=True)
class Stall:
    """Send the headers, then no content until the client leaves.

    `keepalive` is the interval of server-sent comments in seconds; None sends none.
    """

    keepalive: float | None = None


@dataclass(frozen=True)
class Status:
    """Answer with this HTTP status and the provider's error body, or with `body` as it stands."""

    code: int
    message: str = "the test provider was told to answer so"
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: str | bytes | None = None


@dataclass(frozen=True)
class Malformed:
    """Send an event whose data is this; without streaming, it is the whole body."""

    data: str = "{not json"


@dataclass(frozen=True)
class Cut:
    """Close the connection in the middle of the answer; `reset` resets it instead.

    As the first step it closes before any byte of the response.
    """

    reset: bool = False


@dataclass(frozen=True)
class Usage:
    """Report these tokens instead of counts of words. `output` includes `reasoning`, `input` includes `cached`."""

    input: int
    output: int
    reasoning: int = 0
    cached: int = 0


@dataclass(frozen=True)
class End:
    """End the answer; a reply without a last step gets `End("completed")`.

    `incomplete` gives `reason`; `failed` (an answer that reports its own failure) and `error` (an error event;
    HTTP 500 without streaming) give `code` and `message`; `missing` ends the stream without saying how.
    """

    kind: Literal["completed", "incomplete", "failed", "error", "missing"] = "completed"
    reason: Literal["max_output_tokens", "content_filter"] = "max_output_tokens"
    code: str = "server_error"
    message: str = "The server had an error while processing your request."


Step: TypeAlias = (
    Start
    | Text
    | Forever
    | Reasoning
    | Refusal
    | ToolCall
    | Pause
    | Gate
    | Call
    | Hang
    | Stall
    | Status
    | Malformed
    | Cut
    | Usage
    | End
)
Last: TypeAlias = Forever | Hang | Stall | Status | Cut | End
Steps: TypeAlias = Step | Sequence[Step]
Reply: TypeAlias = Steps | Callable[[Request], Steps]
"""A step, a list of steps, or a function of the request that returns either."""


def steps_of(reply: Steps) -> tuple[Step, ...]:
    """The reply as a tuple of steps that ends with one after which nothing can come.

    Raises:
        TypeError: something in it is not a step.
        ValueError: steps follow one after which nothing can come, or content comes before a `Status`.
    """
    steps = (reply,) if isinstance(reply, Step) else tuple(reply)
    for position, step in enumerate(steps):
        if not isinstance(step, Step):
            raise TypeError(f"a reply is made of steps such as Text('hello'), not of {step!r}")
        if isinstance(step, Last) and position < len(steps) - 1:
            raise ValueError(f"nothing can follow {step!r} in a reply, but {steps[position + 1]!r} does")
        if isinstance(step, Status) and any(
            not isinstance(s, Pause | Gate | Call | Usage) for s in steps[:-1]
        ):
            raise ValueError(f"{step!r} must come before any content of a reply")
    if steps and isinstance(steps[-1], Last):
        return steps
    return (*steps, End())
