"""A real database in memory that fails, hangs or waits as a test scripts it, and notes what it is asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Generator, Hashable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import anyio

from kern_async.db.base import (
    Fence,
    FindEvents,
    Heartbeat,
    PutEvents,
    PutRun,
    Read,
    Reap,
    Retire,
    RunKey,
    SessionSeed,
    Store,
    Write,
)
from kern_async.db.database import BaseDb
from kern_async.db.in_memory import MemoryStore, Tables

Hook = Callable[[Any], Awaitable[None]]

FENCE = Fence(root_run_id="r", owner="somebody", attempt=0)
KEY = RunKey(
    run_id="r",
    root_run_id="r",
    parent_run_id=None,
    session_id="s",
    user_id=None,
    kind="agent",
    entity_id="a",
    created_at=0,
)
SEED = SessionSeed(session_id="s", user_id=None, kind="agent", entity_id="a")


async def nothing(_: Any) -> None:
    pass


async def set_by_thread(event: threading.Event) -> None:
    while not event.is_set():  # noqa: ASYNC110 - a thread cannot set an event loop's
        await anyio.sleep(0.001)


class Script:
    """What the store does before it does as it is asked; what it was asked, and what of it was done."""

    def __init__(self) -> None:
        self.on_open: Hook = nothing
        self.on_apply: Hook = nothing
        self.on_read: Hook = nothing
        self.on_close: Hook = nothing
        self.tables = Tables()
        self.calls: list[str] = []
        self.applied: list[list[Write]] = []

    @property
    def batches(self) -> list[list[Write]]:
        """What was applied, without a process's signs of life."""
        return [each for each in self.applied if not isinstance(each[0], (Heartbeat, Reap, Retire))]

    @property
    def numbers(self) -> list[int]:
        """The indices of the events that were applied, in the order of that."""
        puts = [write for batch in self.batches for write in batch if isinstance(write, PutEvents)]
        return [index for put in puts for index, _, _ in put.events]

    @contextmanager
    def held(self) -> Generator[threading.Event]:
        """Hold what is applied until the block is left; gives the event of the first such call."""
        entered, release = threading.Event(), threading.Event()

        async def wait(writes: Any) -> None:
            if not is_beat(writes):
                entered.set()
                await set_by_thread(release)

        self.on_apply = wait
        try:
            yield entered
        finally:
            release.set()
            self.on_apply = nothing


class ScriptedStore:
    def __init__(self, script: Script) -> None:
        self._script = script
        self._store = MemoryStore(script.tables)

    async def open(self) -> None:
        self._script.calls.append("open")
        await self._script.on_open(None)

    async def apply(self, writes: Sequence[Write]) -> list[Any]:
        self._script.calls.append("apply")
        await self._script.on_apply(writes)
        self._script.applied.append(list(writes))
        return await self._store.apply(writes)

    async def read(self, read: Read) -> Any:
        self._script.calls.append("read")
        await self._script.on_read(read)
        return await self._store.read(read)

    async def close(self) -> None:
        self._script.calls.append("close")
        await self._script.on_close(None)


class ScriptedDb(BaseDb):
    def __init__(self, script: Script | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.script = script or Script()

    @property
    def name(self) -> str:
        return "ScriptedDb"

    @property
    def key(self) -> Hashable:
        return self.script

    def make_store(self) -> Store:
        return ScriptedStore(self.script)


def is_beat(writes: Sequence[Write]) -> bool:
    return isinstance(writes[0], (Heartbeat, Retire))


def event(number: int) -> PutEvents:
    return PutEvents(fence=FENCE, events=[(number, "r", str(number))])


def events(*numbers: int) -> Callable[[], Sequence[Write]]:
    return lambda: [event(number) for number in numbers]


def put_run(**changes: Any) -> PutRun:
    return replace(PutRun(fence=FENCE, key=KEY, session=SEED, status="RUNNING"), **changes)


ALL_EVENTS = FindEvents(root_run_id="r", limit=1_000_000)


def eventually(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Look until it holds, blocking."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)
