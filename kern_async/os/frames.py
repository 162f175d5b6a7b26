"""Events as server-sent events. The bytes of an event are made once, for all who read it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from pydantic_core import to_json

from kern_async.db.texts import json_body
from kern_async.engine.rows import text_of
from kern_async.run.base import BaseEvent

_KEPT = 2048
"""How many of the latest frames of a tree are kept for other readers."""


_LINES = {ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"}
"""What ends a line for some readers, Python's own among them, though not for the standard; as JSON has it otherwise."""


def frame(event: BaseEvent) -> bytes:
    """An event: its index as `id`, its name, and its JSON on one line; the same for a stored one and a live one."""
    data = json_body(text_of(event)).translate(_LINES)
    return f"id: {event.event_index}\nevent: {event.event}\ndata: {data}\n\n".encode()


def notice(name: str, data: dict[str, Any]) -> bytes:
    """A frame of the server's own, which is no event of a run."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), to_json(data))


KEEPALIVE = b": keepalive\n\n"


class Frames:
    """The frames of one tree, as long as somebody reads it."""

    def __init__(self) -> None:
        self._made: dict[int, bytes] = {}
        self.readers = 0

    def of(self, event: BaseEvent) -> bytes:
        """The event's frame."""
        made = self._made.get(event.event_index)
        if made is None:
            made = frame(event)
            if self.readers > 1:
                self._made[event.event_index] = made
                if len(self._made) > _KEPT:
                    del self._made[next(iter(self._made))]
        return made


class AllFrames:
    """The frames of all trees that are read now."""

    def __init__(self) -> None:
        self._trees: dict[str, Frames] = {}

    @contextmanager
    def reading(self, root_run_id: str) -> Generator[Frames]:
        """The frames of a tree for one more reader."""
        frames = self._trees.setdefault(root_run_id, Frames())
        frames.readers += 1
        try:
            yield frames
        finally:
            frames.readers -= 1
            if not frames.readers:
                self._trees.pop(root_run_id, None)
