"""Whoever has seen a run's end finds it in the database: any client, at that very moment."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import anyio.to_thread

from kern_async import Agent
from kern_async.db.database import BaseDb

from .child import a_team, one_session
from .children import processes
from .places import ONE_LOOP, Place
from .whole import WholeModel

pytestmark = ONE_LOOP

ENDS = ("RunCompleted", "RunCancelled", "RunError", "TeamRunCompleted", "TeamRunCancelled", "TeamRunError")


async def test_a_reader_that_opens_the_database_at_the_terminal_event_finds_the_row(place: Place) -> None:
    """A thread with an object of its own, the database's own client, and another process; members' runs too."""
    db = place.database(store_timeout=30)

    def in_thread(run_id: str) -> str | None:
        own = Agent(model=WholeModel("reader"), db=place.database())
        output = own.get_run_output(run_id)
        assert output is not None
        return output.status.value

    with processes(place) as [other], ThreadPoolExecutor(1) as thread:

        def look(run_id: str) -> list[Any]:
            other.send("status", run_id)
            return [place.statuses(roots=False).get(run_id), in_thread(run_id), other.answer()]

        for number in range(4):
            team = a_team(db)
            event: Any
            async with team.arun("Go.", stream=True) as events:
                async for event in events:
                    if event.event in ENDS:
                        found = thread.submit(look, event.run_id).result()
                        assert found == [event.status.value] * 3, event.event
                    if number % 2 and event.content == "word ":
                        events.cancel()
            assert events.output is not None
            found = thread.submit(look, events.run_id).result()
            assert found == ["CANCELLED" if number % 2 else "COMPLETED"] * 3
    await db.aclose()


async def test_an_awaited_run_that_has_returned_is_stored(place: Place) -> None:
    db = place.database(store_timeout=30)

    async def one() -> None:
        output = await a_team(db).arun("Go.")
        assert place.statuses()[output.run_id] == "COMPLETED"

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(one)
    await db.aclose()


async def test_two_hundred_runs_of_one_session_at_once_lose_nothing(place: Place) -> None:
    db = place.database(store_timeout=30)
    names = [f"run-{number}" for number in range(200)]
    ends = await one_session(db, "s", names)
    await check_one_session(db, names, ends)
    await db.aclose()


async def test_two_processes_with_fifty_runs_each_in_one_session_lose_nothing(sqlite: Place) -> None:
    names = [f"run-{number}" for number in range(100)]
    with processes(sqlite, 2, store_timeout=30) as others:
        for place, other in enumerate(others):
            other.send("session", "s", names[place::2])
        ends = [end for other in others for end in await anyio.to_thread.run_sync(other.answer)]
    db = sqlite.database(store_timeout=30)
    await check_one_session(db, names, ends)
    sqlite.check_whole()
    await db.aclose()


async def check_one_session(db: BaseDb, names: list[str], ends: list[Any]) -> None:
    assert sorted(ends) == sorted(["COMPLETED", f"I am {name}.", True, None] for name in names)
    session = await Agent(model=WholeModel("reader"), db=db).aget_session("s")
    assert session is not None
    assert sorted(run.run_id for run in session.runs) == sorted(names)
    assert all(run.stored for run in session.runs)
    assert session.session_state == {name: {"left": name} for name in names}
