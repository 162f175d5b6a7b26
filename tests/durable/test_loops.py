"""Whatever becomes of the event loop, the rows are there: the database has a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, cast

import anyio
import pytest
import trio
import uvloop

from kern_async import Agent, Team, cancel_run
from kern_async.db.database import BaseDb
from kern_async.engine.registry import get_active_runs
from kern_async.testing.scripted import ScriptedModel, call

from .places import Place
from .whole import WholeModel

LEASE = "SELECT expires_at FROM kern_owners"

Main = Callable[[], Coroutine[Any, Any, Any]]
RUNNERS: dict[str, Callable[[Main], Any]] = {
    "asyncio": lambda main: asyncio.run(main()),
    "uvloop": lambda main: uvloop.run(main()),
    "trio": trio.run,
}


@pytest.fixture(params=RUNNERS)
def run_loop(request: pytest.FixtureRequest) -> Callable[[Main], Any]:
    return RUNNERS[request.param]


def close_as_the_collector_would(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        with contextlib.suppress(RuntimeError):  # of scopes and events that want their loop
            cast(Coroutine[Any, Any, Any], task.get_coro()).close()
    gc.collect()


def endless(db: BaseDb, spoken: Callable[[], object]) -> Team:
    """A team of two that speak for ever; `spoken` is called when both have begun."""
    left = [2]

    def agent(name: str) -> Agent:
        words = 0

        async def pace() -> None:
            nonlocal words
            words += 1
            if words == 10:
                left[0] -= 1
                if not left[0]:
                    spoken()
            await anyio.sleep(0.001)

        return Agent(name=name, model=WholeModel(name, [("word " * 100_000, ())], pace=pace))

    members = [agent("one"), agent("two")]
    return Team(name="team", members=members, model=ScriptedModel(turns=["Never."]), mode="broadcast", db=db)


def check_cancelled(db: BaseDb, place: Place, run_id: str) -> None:
    """Its own client finds the tree CANCELLED, ours what was said."""
    deadline = time.monotonic() + 10
    while get_active_runs():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    output: Any = Agent(model=WholeModel("reader"), db=db).get_run_output(run_id)
    assert output is not None
    assert output.status.value == "CANCELLED"
    assert list(place.statuses(roots=False).values()) == ["CANCELLED"] * 3
    for member in output.member_responses:
        assert member.content
        assert set(member.content.split()) == {"word"}
    db.close()


def test_a_run_whose_loop_ends_under_it(sqlite: Place, run_loop: Callable[[Main], Any]) -> None:
    db = sqlite.database(store_timeout=30)
    kept: list[Any] = []

    async def main() -> None:
        spoken = anyio.Event()
        kept.append(endless(db, spoken.set).arun("Go.", stream=True, run_id="r"))
        await anext(kept[0])
        async with anyio.create_task_group() as group:

            async def read() -> None:
                async for _ in kept[0]:
                    if spoken.is_set():
                        return

            group.start_soon(read)

    run_loop(main)
    check_cancelled(db, sqlite, "r")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.leaves("socket")
def test_a_run_whose_loop_is_closed_without_a_word(place: Place) -> None:
    """No task of it is told, and none goes on: the run ends in the thread that cancels it."""
    db = place.database(store_timeout=30)
    begun = asyncio.Event()

    async def hang(_: object) -> None:
        begun.set()
        await asyncio.get_running_loop().create_future()

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _loop, _context: None)  # it complains of the tasks that were left
    agent = Agent(model=ScriptedModel(turns=[["I look. ", hang]]), db=db, store_events=True)
    held = [agent.arun("Go.", stream=True, run_id="r")]

    async def main() -> None:
        await anext(held[0])
        await begun.wait()

    loop.run_until_complete(main())
    tasks = asyncio.all_tasks(loop)
    loop.close()
    assert cancel_run("r") is True
    assert held[0].output is not None
    seen = held[0].output.to_dict()
    held.clear()
    close_as_the_collector_would(tasks)
    output = agent.get_run_output("r")
    assert output is not None
    assert (output.status.value, output.content) == ("CANCELLED", "I look. ")
    assert output.messages[-1].content == "I look. "
    assert place.statuses() == {"r": "CANCELLED"}
    assert seen["status"] == "CANCELLED"
    db.close()


def test_a_run_on_a_loop_that_is_blocked_while_a_thread_cancels_it(
    place: Place, run_loop: Callable[[Main], Any]
) -> None:
    db = place.database(store_timeout=30)
    cancelled = threading.Event()

    def block() -> None:
        thread = threading.Thread(target=cancel)
        thread.start()
        thread.join()  # on the event loop
        assert cancelled.is_set()

    def cancel() -> None:
        assert cancel_run("r", reason="from a thread")
        cancelled.set()

    async def main() -> None:

        output = await endless(db, block).arun("Go.", run_id="r")
        assert (output.status.value, output.reason) == ("CANCELLED", "from a thread")
        assert (output.stored, output.store_error) == (True, None)

    run_loop(main)
    check_cancelled(db, place, "r")


def test_rows_are_written_while_the_loop_is_blocked(place: Place, run_loop: Callable[[Main], Any]) -> None:
    """What a live run has come to is there although its own loop does nothing, and its lease is renewed."""
    db = place.database(store_timeout=30, lease_seconds=0.5)

    def look() -> None:
        deadline = time.monotonic() + 10
        while not place.ask("SELECT 1 FROM kern_messages WHERE run_id = 'r'"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        leases = {lease for _ in range(100) if not time.sleep(0.01) for (lease,) in place.ask(LEASE)}
        assert len(leases) > 2, "it was renewed"
        assert place.statuses() == {"r": "RUNNING"}

    async def block() -> str:
        look()
        return "blocked"

    async def main() -> None:
        model = ScriptedModel(turns=[["I look. ", call("block")], "Done."])
        output = await Agent(model=model, tools=[block], db=db, store_events=True).arun("Go.", run_id="r")
        assert (output.content, output.stored) == ("I look. Done.", True)
        assert [tool.result for tool in output.tools] == ["blocked"]

    run_loop(main)
    assert place.statuses() == {"r": "COMPLETED"}
    db.close()
