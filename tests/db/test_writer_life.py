"""A writer's thread: it begins with the first need, ends with a close or the last user, and begins again."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import pytest

from kern_async.db.base import FindRun, Heartbeat, Reap, Retire, Write
from kern_async.db.in_memory import InMemoryDb
from kern_async.exceptions import ConfigurationError, DatabaseUnusable, StoreError
from kern_async.testing.leaks import LeakCheck, LeakError

from .stores import ALL_EVENTS, Script, ScriptedDb, event, events, eventually, put_run, set_by_thread


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "kern-store"]


def test_there_is_no_thread_before_something_is_handed_in(db: ScriptedDb) -> None:
    assert db.writer.owner
    db.close()
    assert db.writer.flush(0)
    assert not threads()
    assert not db.script.calls
    assert db.writer.opened().wait_in_thread(5)
    (thread,) = threads()
    assert thread.daemon


def test_where_no_thread_can_be_started_tickets_fail_and_nothing_is_raised(
    db: ScriptedDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        stop = db.writer.watch(lambda: [event(1)])
        for ticket in (db.writer.post(events(0)), db.writer.ask(ALL_EVENTS), db.writer.opened()):
            assert ticket.done
            assert isinstance(ticket.error, StoreError)
            assert "no thread to write in" in str(ticket.error)
    stop()
    ticket = db.writer.post(events(2))
    assert ticket.wait_in_thread(5)
    assert (ticket.error, db.script.numbers) == (None, [2])


async def test_a_close_writes_all_retires_and_ends_the_thread(db: ScriptedDb) -> None:
    for number in range(10):
        db.writer.post(events(number))
    await db.aclose()
    assert not threads()
    assert db.script.numbers == list(range(10))
    assert db.script.applied[-1] == [Retire(owner=db.writer.owner)]
    assert db.script.calls[-1] == "close"
    await db.aclose()
    db.close()
    assert db.script.calls.count("close") == 1


async def test_a_closed_database_is_usable_again(db: ScriptedDb) -> None:
    owner = db.writer.owner
    for number in range(5):
        assert await db.writer.post(events(number)).wait(5)
        await db.aclose()
    assert db.writer.owner == owner
    assert db.script.calls.count("open") == 5
    assert db.script.applied.count([Heartbeat(owner=owner, seconds=30), Reap()]) == 5
    answer = db.writer.ask(ALL_EVENTS)
    assert await answer.wait(5)
    assert len(answer.result) == 5


def test_what_is_handed_in_while_it_closes_is_the_next_threads(db: ScriptedDb) -> None:
    tickets: list[Any] = []
    stop = threading.Event()

    def post() -> None:
        while not stop.is_set():
            tickets.append(db.writer.post(events(len(tickets))))
            tickets[-1].wait_in_thread(5)

    thread = threading.Thread(target=post)
    thread.start()
    for _ in range(30):
        db.close()
    stop.set()
    thread.join()
    assert db.writer.flush(5)
    assert [ticket.error for ticket in tickets if ticket.error] == []
    assert db.script.numbers == list(range(len(tickets)))


def test_what_is_handed_in_when_the_thread_has_done_its_work_is_the_next_ones(db: ScriptedDb) -> None:
    late: list[Any] = []

    async def post(_: Any) -> None:
        if not late:
            late.append(db.writer.post(events(0)))
            late.append(db.writer.opened())

    assert db.writer.opened().wait_in_thread(5)
    db.script.on_close = post
    db.close()
    for ticket in late:
        assert ticket.wait_in_thread(5)
        assert ticket.error is None
    assert db.script.numbers == [0]


@pytest.mark.usefixtures("quick")
async def test_a_close_does_not_wait_for_ever_for_a_database_that_is_away() -> None:
    db = ScriptedDb(store_timeout=0.1)

    async def fail(_: Any) -> None:
        raise ConnectionRefusedError("no server")

    db.script.on_open = fail
    ticket = db.writer.post(events(0))
    await db.aclose()
    assert not threads()
    assert isinstance(ticket.error, StoreError)
    assert "closed" in str(ticket.error)
    assert db.writer.trouble is None


def test_a_close_cuts_what_hangs() -> None:
    db = ScriptedDb(store_timeout=0.1)
    never = threading.Event()
    cut = threading.Event()

    async def hang(_: Any) -> None:
        try:
            await set_by_thread(never)
        finally:
            cut.set()

    assert db.writer.opened().wait_in_thread(5)
    db.script.on_apply = hang
    ticket = db.writer.post(events(0))
    db.close()
    assert cut.is_set()
    assert ticket.error is not None
    assert not threads()


def test_a_close_of_a_database_that_cannot_be_used_ends_the_thread(db: ScriptedDb) -> None:
    async def refuse(_: Any) -> None:
        raise DatabaseUnusable("no directory")

    db.script.on_open = refuse
    assert db.writer.opened().wait_in_thread(5)
    db.writer.close(60)
    assert not threads()


def test_taps_outlive_a_close(db: ScriptedDb) -> None:
    stop = db.writer.watch(lambda: [event(7)])
    eventually(lambda: db.script.numbers)
    db.close()
    before = len(db.script.numbers)
    db.writer.post(events(0))
    eventually(lambda: len(db.script.numbers) > before + 2)
    stop()


def test_opened_is_done_when_the_database_has_been_opened_once(db: ScriptedDb) -> None:
    with db.script.held():
        db.writer.post(events(0))
        first = db.writer.opened()
        assert first.wait_in_thread(5), "it does not wait for its turn"
        assert db.writer.opened().done
    assert first.error is None
    assert db.script.calls.count("open") == 1


# Its users.


def test_databases_of_one_key_share_a_writer() -> None:
    script = Script()
    one, other, third = ScriptedDb(script), ScriptedDb(script), ScriptedDb()
    assert one.writer is other.writer
    assert one.writer is not third.writer


def test_the_last_user_takes_the_thread_with_it() -> None:
    script = Script()
    one, other = ScriptedDb(script), ScriptedDb(script)
    gone = weakref.ref(one)
    one.writer.post(events(0))
    owner = other.writer.owner
    assert one.writer.flush(5)
    del one
    assert gone() is None, "the thread does not hold it"
    assert len(threads()) == 1
    other.writer.post(events(1))
    del other
    eventually(lambda: not threads())
    assert script.numbers == [0, 1]
    assert script.applied[-1] == [Retire(owner=owner)]


def test_the_last_user_may_be_garbage_in_the_writers_own_thread() -> None:
    db = ScriptedDb()
    script = db.script

    class Cycle:
        def __init__(self, db: ScriptedDb) -> None:
            self.db, self.me = db, self

        def make(self) -> Sequence[Write]:
            return [event(0)]

    cycle = Cycle(db)
    writer = db.writer
    gone = weakref.ref(db)
    del db
    gc.disable()
    try:
        writer.post(lambda: [gc.collect(), event(1)][1:])  # type: ignore[list-item]
        assert writer.post(cycle.make).wait_in_thread(5)
        del cycle
        writer.post(lambda: [gc.collect(), event(1)][1:])  # type: ignore[list-item]
        eventually(lambda: gone() is None)
    finally:
        gc.enable()
    eventually(lambda: not threads())
    assert script.numbers == [1, 0, 1]


def test_a_writer_that_lost_its_users_still_writes_and_ends_again() -> None:
    db = ScriptedDb()
    script, writer = db.script, db.writer
    del db
    ticket = writer.post(events(0))
    assert ticket.wait_in_thread(5)
    assert ticket.error is None
    eventually(lambda: not threads())
    again = ScriptedDb(script)
    assert again.writer is not writer


def test_an_idle_writer_is_no_leak_while_somebody_has_its_database() -> None:
    check = LeakCheck(patience=0.05)
    db = ScriptedDb()
    assert db.writer.opened().wait_in_thread(5)
    check.settle()
    with db.script.held() as entered:
        db.writer.post(events(0))
        assert entered.wait(5)
        with pytest.raises(LeakError, match="thread: kern-store"):
            check.settle()
        writer = db.writer
        script = db.script
        del db
        assert writer
    eventually(lambda: not threads())
    assert script.numbers == [0]


# What is given to a database.


@pytest.mark.parametrize("seconds", [0, -1, "2", True, None, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["store_timeout", "lease_seconds"])
def test_times_that_are_none_are_refused(name: str, seconds: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is {seconds!r}"):
        InMemoryDb(**{name: seconds})


async def test_a_database_in_memory_keeps_its_data_over_a_close() -> None:
    db, other = InMemoryDb(), InMemoryDb()
    db.writer.post(lambda: [put_run(new=True, status="COMPLETED")])
    await db.aclose()
    found, missed = db.writer.ask(FindRun(run_id="r")), other.writer.ask(FindRun(run_id="r"))
    assert await found.wait(5)
    assert await missed.wait(5)
    assert found.result.status == "COMPLETED"
    assert missed.result is None
    assert repr(db) == "InMemoryDb()"
