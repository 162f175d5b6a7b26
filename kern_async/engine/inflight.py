"""Which of the user's coroutines are on an event loop just now: one of them is what blocks it."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

_names: dict[object, tuple[int, str]] = {}
_last: dict[int, tuple[float, str]] = {}
"""Of each thread, which one ended last and when: it may have blocked the loop without another await."""


@contextmanager
def in_flight(name: str) -> Generator[None]:
    """The user's coroutine `name` runs on this thread's event loop."""
    key = object()
    _names[key] = threading.get_ident(), name
    try:
        yield
    finally:
        _names.pop(key, None)
        _last[threading.get_ident()] = time.monotonic(), name


def names_in_flight(*, since: float) -> list[str]:
    """Names of the user's coroutines on this thread's event loop, now or since that monotonic time."""
    here = threading.get_ident()
    names = [name for thread, name in list(_names.copy().values()) if thread == here]
    ended, last = _last.get(here, (0.0, ""))
    return [*names, last] if ended >= since else names
