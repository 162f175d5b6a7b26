"""Models without a socket, for what is to be measured without one."""

from __future__ import annotations

from typing import ClassVar

import anyio

from kern_async.models.base import Emit, Model, ModelReply, ModelRequest


class Hanging(Model):
    """Says one word and then nothing."""

    provider: ClassVar[str] = "bench"

    async def respond(self, request: ModelRequest, emit: Emit) -> ModelReply:
        await emit("text", "word ")
        await anyio.sleep_forever()
        raise AssertionError


class Speaking(Model):
    """Says so many words at once."""

    provider: ClassVar[str] = "bench"

    def __init__(self, words: int) -> None:
        super().__init__("speaking")
        self.words = words

    async def respond(self, request: ModelRequest, emit: Emit) -> ModelReply:
        for number in range(self.words):
            await emit("text", f"w{number} ")
        return ModelReply()


class Counting(Model):
    """Never says anything; tells when so many wait for it."""

    provider: ClassVar[str] = "bench"

    def until(self, count: int) -> anyio.Event:
        """Set when so many more wait."""
        self._missing = count
        self._all = anyio.Event()
        return self._all

    async def respond(self, request: ModelRequest, emit: Emit) -> ModelReply:
        self._missing -= 1
        if not self._missing:
            self._all.set()
        await anyio.sleep_forever()
        raise AssertionError
