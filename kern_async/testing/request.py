"""A request as the test provider saw it, and what became of its answer."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

Json: TypeAlias = dict[str, Any]
Outcome: TypeAlias = Literal["completed", "disconnected", "error"]


@dataclass(eq=False, kw_only=True)
class Request:
    """One request for an answer; the server's thread writes it, any thread may read it.

    Times are `time.perf_counter()` values in seconds. `headers` have names in lower case.
    """

    path: str
    headers: dict[str, str] = field(repr=False)
    body: Json = field(repr=False)
    response_id: str
    received_at: float
    first_byte_at: float | None = None
    """When the first byte of the response was sent."""
    finished_at: float | None = None
    """When the response was sent whole, or ended by the server."""
    disconnected_at: float | None = None
    """When the client was seen to leave before that."""
    disconnected: threading.Event = field(default_factory=threading.Event, repr=False)
    outcome: Outcome | None = None
    """None while it is open; `error` is a status of 400 or more, a cut, or an end that is not a good one."""
    streamed: list[str] = field(default_factory=list[str], repr=False)
    """The deltas of the answer's text, or of its refusal, that were sent so far."""

    @property
    def chat(self) -> bool:
        """Whether it came to `/v1/chat/completions`."""
        return self.path.endswith("/chat/completions")

    @property
    def stream(self) -> bool:
        """Whether the answer is to be streamed."""
        return bool(self.body.get("stream"))

    @property
    def model(self) -> str:
        """The model's name."""
        return str(self.body.get("model", ""))

    @property
    def input(self) -> list[Json]:
        """The conversation's items, or messages, as they were sent; a bare string as one user message."""
        items: object = self.body.get("messages" if self.chat else "input") or []
        if isinstance(items, str):
            return [{"role": "user", "content": items}]
        return _dicts(items)

    @property
    def instructions(self) -> str:
        """The instructions and the text of every system and developer message."""
        told = [str(self.body.get("instructions") or "")]
        told += [_text(item) for item in self.input if item.get("role") in ("system", "developer")]
        return "\n".join(filter(None, told))

    @property
    def text(self) -> str:
        """Every text of the request: instructions, messages and the results of tools, joined by newlines."""
        told = [str(self.body.get("instructions") or ""), *map(_text, self.input)]
        return "\n".join(filter(None, told))

    @property
    def last_text(self) -> str:
        """The text of the last item or message: what the model is asked to answer."""
        return _text(self.input[-1]) if self.input else ""

    @property
    def tools(self) -> list[Json]:
        """The tools' definitions as they were sent."""
        return _dicts(self.body.get("tools") or [])

    @property
    def tool_names(self) -> list[str]:
        """The names of the functions that the model may call."""
        functions = [tool.get("function", tool) for tool in self.tools]
        return [str(function["name"]) for function in functions if "name" in function]

    def settle(self, outcome: Outcome) -> bool:
        """Record how it ended; the first end counts, and whether this was it is returned."""
        if self.outcome is not None:
            return False
        now = time.perf_counter()
        if outcome == "disconnected":
            self.disconnected_at = now
            self.outcome = outcome
            self.disconnected.set()
        else:
            self.finished_at = now
            self.outcome = outcome
        return True


def _dicts(items: object) -> list[Json]:
    return [cast(Json, item) for item in cast(list[object], items) if isinstance(item, dict)]


def _text(item: Json) -> str:
    content: object = item.get("content") or item.get("output") or ""
    if isinstance(content, str):
        return content
    parts = [part.get("text") or part.get("refusal") or "" for part in _dicts(content)]
    return "".join(map(str, parts))
