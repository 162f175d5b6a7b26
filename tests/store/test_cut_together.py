"""The ends of all that one cancel cuts are stored in one transaction, and no member's waits for a team that lingers."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any

import anyio
import pytest

from kern_async import Team
from kern_async.db import serving, writer
from kern_async.db.base import PutRun
from kern_async.engine import keeper

from ..db.stores import ScriptedDb, eventually
from .parts import (
    agent,
    call,
    check_stored_as_seen,
    delegate,
    forever,
    model,
    read,
    tree,
)

STORE_TIMEOUT = 0.5


@pytest.fixture
def db() -> Generator[ScriptedDb]:
    db = ScriptedDb(store_timeout=STORE_TIMEOUT)
    yield db
    db.close()


@pytest.fixture
def at_rest(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Waits until the store's thread sleeps. No tap wakes it by itself in the middle of an end."""
    for module in (serving, writer, keeper):
        monkeypatch.setattr(module, "TICK", 30.0)
    servers: list[serving.Server] = []
    sleep = serving.Server._sleep

    async def noted(self: serving.Server, due: float) -> None:
        servers[:] = [self]
        await sleep(self, due)

    monkeypatch.setattr(serving.Server, "_sleep", noted)

    def rests() -> bool:
        return any(each._idle and not each._work.is_set() and each._due() > 0 for each in servers)

    return lambda: eventually(rests)


def transactions(db: ScriptedDb) -> list[int]:
    """How many ends each transaction had that had any."""
    ends = [
        sum(isinstance(write, PutRun) and write.status == "CANCELLED" for write in batch)
        for batch in db.script.batches
    ]
    return [count for count in ends if count]


def nested(db: ScriptedDb, **options: Any) -> Team:
    deep = Team([agent("One", ["Fir", forever]), agent("Two", ["Second", forever])], name="Deep",
                model=model([delegate("one"), delegate("two")]))  # fmt: skip
    return Team([deep, agent("Three", ["Third", forever])], name="Top",
                model=model([delegate("deep"), delegate("three")]), db=db, **options)  # fmt: skip


async def test_the_ends_of_a_tree_of_three_levels_are_one_transaction(
    db: ScriptedDb, at_rest: Callable[[], None]
) -> None:
    top = nested(db, store_events=True)
    left = {"Fir", "Second", "Third"}

    def on(event: Any, stream: Any) -> None:
        if event.event == "RunContent":
            left.discard(event.content)
            if not left:
                at_rest()
                stream.cancel()

    events, output = await read(top, on=on)
    assert transactions(db) == [5]
    ended = [event for event in events if event.event.endswith("RunCancelled")]
    assert all(event.stored for event in ended)
    above = {run.run_id: run.parent_run_id for run in tree(output)}
    for place, event in enumerate(ended):
        assert above[event.run_id] not in {earlier.run_id for earlier in ended[:place]}
    await check_stored_as_seen(top, output)


async def test_the_end_of_a_cut_part_of_a_tree_is_one_transaction(
    db: ScriptedDb, at_rest: Callable[[], None]
) -> None:
    deep = Team([agent("One", ["Fir", forever])], name="Deep", model=model(delegate("one")))
    top = Team([deep], name="Top", model=model(delegate("deep"), "Without it."), db=db)

    def on(event: Any, _: Any) -> None:
        if event.event == "RunContent":
            at_rest()
            top.cancel_run(event.parent_run_id)

    _, output = await read(top, on=on)
    assert output.content == "Without it."
    assert transactions(db) == [2]
    await check_stored_as_seen(top, output)


class Lingering:
    """A tool whose clean-up takes until it is let go."""

    def __init__(self) -> None:
        self.began = anyio.Event()
        self.go = anyio.Event()

    async def linger(self) -> str:
        """Linger."""
        self.began.set()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await self.go.wait()
        return "never"

    def team(self, db: ScriptedDb) -> Team:
        async def then_cancel(_: Any) -> None:
            await self.began.wait()
            team.cancel_run("r")
            await anyio.sleep_forever()

        quick = agent("Quick", ["Word", then_cancel])
        slow = agent("Slow", call("linger"), tools=[self.linger])
        team = Team([quick, slow], name="T", model=model([delegate("quick"), delegate("slow")]), db=db)
        return team


async def test_a_member_is_seen_to_end_while_its_team_lingers(db: ScriptedDb) -> None:
    lingering = Lingering()
    seen: list[Any] = []

    def on(event: Any, _: Any) -> None:
        if event.event == "RunCancelled":
            seen.append(event)
            lingering.go.set()

    _, output = await read(lingering.team(db), run_id="r", on=on)
    assert [(event.agent_name, event.stored) for event in seen] == [("Quick", True), ("Slow", True)]
    assert output.abandoned == []  # it had not to be waited for in vain
    assert output.stored


async def test_a_member_whose_row_hangs_is_seen_to_end_in_time_while_its_team_lingers(db: ScriptedDb) -> None:
    lingering = Lingering()
    at: dict[str, float] = {}

    async def hang(writes: Any) -> None:
        if any(isinstance(write, PutRun) and write.status == "CANCELLED" for write in writes):
            await anyio.sleep_forever()

    def on(event: Any, _: Any) -> None:
        at.setdefault(event.event, time.monotonic())
        if event.event == "RunCancelled":
            assert event.stored is False
            lingering.go.set()

    db.script.on_apply = hang
    _, output = await read(lingering.team(db), run_id="r", on=on)
    assert output.abandoned == []
    began = output.requested_at - time.time() + time.monotonic()
    assert at["RunCancelled"] - began < STORE_TIMEOUT + 0.5
