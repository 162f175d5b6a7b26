"""What is measured doing the same work: ours, and what stands beside it. The peers are in `benchmarks/peers`.

Each file has a class `System(url)` of this form, and imports nothing of another's.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from importlib import import_module
from typing import Any, Protocol

Told = Callable[[str], object]
"""Is given each piece of text as it comes."""


class System(Protocol):
    """A way to ask the provider, whose model's name says what it does (see `servers/provider.py`)."""

    def stream(self, model: str, told: Told) -> tuple[Coroutine[Any, Any, object], Callable[[], object]]:
        """The work of reading a streamed answer to its end, and what cancels it once it is a running task.

        Cancelling is called in the loop, as the system's users are told to do it; the work may end by any exception then.
        """
        ...

    async def once(self, model: str) -> str:
        """The text of an answer that is awaited as a whole."""
        ...

    def make(self) -> object:
        """An agent that is ready to be asked; its model is there."""
        ...

    async def close(self) -> None: ...


def system(name: str, url: str) -> System:
    """The one with this name; a peer only in its own environment."""
    room = "systems" if name in OURS else "peers"
    return import_module(f"benchmarks.{room}.{name}").System(url)


OURS = ("ours", "ours_aiohttp", "floor", "bare")
