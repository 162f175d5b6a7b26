"""What is handed to a writer, from wherever, is done in order, in groups, and answered."""

from __future__ import annotations

import gc
import itertools
import signal
import threading
from collections.abc import Sequence
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from kern_async.db import serving, writer
from kern_async.db.base import FindRun, Heartbeat, Reap, Write
from kern_async.exceptions import RunExists, StoreError

from .stores import ALL_EVENTS, FENCE, ScriptedDb, event, events, eventually, is_beat, put_run


async def test_a_post_is_written_and_each_write_has_its_result(db: ScriptedDb) -> None:
    other = put_run(new=True, fence=FENCE.__class__(root_run_id="r", owner="another", attempt=0))
    ticket = db.writer.post(lambda: [put_run(new=True), other, event(0)])
    assert (ticket.result, ticket.error) == (None, None) or ticket.done
    assert await ticket.wait(5)
    assert ticket.done
    assert ticket.result[0] is None
    assert isinstance(ticket.error, RunExists)
    assert ticket.result[1] is ticket.error
    assert ticket.result[2] is None

    answer = db.writer.ask(FindRun(run_id="r"))
    assert await answer.wait(5)
    assert answer.error is None
    assert answer.result.status == "RUNNING"


async def test_a_cancelled_wait_changes_nothing(db: ScriptedDb) -> None:
    with db.script.held():
        ticket = db.writer.post(events(0))
        with anyio.move_on_after(0.01) as scope:
            await ticket.wait()
        assert scope.cancelled_caught
        assert not await ticket.wait(0.01)
        assert not ticket.wait_in_thread(0.01)
    assert await ticket.wait(5)
    assert db.script.numbers == [0]


async def test_tasks_and_threads_wait_for_one_ticket(db: ScriptedDb) -> None:
    done: list[bool] = []

    async def wait() -> None:
        done.append(await ticket.wait(5))

    async with anyio.create_task_group() as tasks:
        with db.script.held():
            ticket = db.writer.post(events(0))
            thread = threading.Thread(target=lambda: done.append(ticket.wait_in_thread(5)))
            thread.start()
            tasks.start_soon(wait)
            tasks.start_soon(wait)
            while len(ticket._bell._waiters) < 3:
                await anyio.lowlevel.checkpoint()
            assert not done
    thread.join(5)
    assert done == [True] * 3


def test_many_posts_become_few_transactions_of_limited_size(db: ScriptedDb) -> None:
    with db.script.held() as entered:
        db.writer.post(events(0))
        assert entered.wait(5)
        for number in range(1, 2_501):
            db.writer.post(events(number))
    assert db.writer.flush(5)
    assert [len(batch) for batch in db.script.batches] == [1, 1_000, 1_000, 500]
    assert db.script.numbers == list(range(2_501))


def test_one_post_is_one_transaction_however_long(db: ScriptedDb) -> None:
    db.writer.post(events(*range(2_300)))
    assert db.writer.flush(5)
    assert [len(batch) for batch in db.script.batches] == [2_300]


def test_what_is_not_urgent_shares_the_transaction_of_what_comes_next(
    db: ScriptedDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "TICK", 30.0)
    stop = db.writer.watch(list)
    assert db.writer.flush(5)
    eventually(lambda: getattr(db.writer._slot["thread"]._server, "_idle", False))
    tickets = [db.writer.post(events(number), urgent=False) for number in range(3)]
    assert not any(ticket.wait_in_thread(0.01) for ticket in tickets)
    assert db.writer.post(events(3)).wait_in_thread(5)
    assert all(ticket.done for ticket in tickets)
    assert [len(batch) for batch in db.script.batches] == [4]
    stop()


def test_what_is_not_urgent_is_written_when_taps_are_next_called(db: ScriptedDb) -> None:
    stop = db.writer.watch(list)
    assert db.writer.flush(5)
    assert db.writer.post(events(0), urgent=False).wait_in_thread(5)
    stop()


def test_what_is_not_urgent_is_written_at_once_where_no_tap_is_called(db: ScriptedDb) -> None:
    assert db.writer.post(events(0), urgent=False).wait_in_thread(5)  # there is no thread yet
    eventually(lambda: db.writer.kept_thread is not None)
    assert db.writer.post(events(1), urgent=False).wait_in_thread(5)  # it sleeps until its next heartbeat


def test_a_read_sees_all_that_was_posted_before(db: ScriptedDb) -> None:
    answers: list[Any] = []
    for number in range(50):
        db.writer.post(events(number))
        answers.append(db.writer.ask(ALL_EVENTS))
    assert answers[-1].wait_in_thread(5)
    assert all(len(answer.result) > number for number, answer in enumerate(answers))


def test_reads_between_posts_do_not_divide_their_commit(db: ScriptedDb) -> None:
    assert db.writer.opened().wait_in_thread(5)
    answers: list[Any] = []
    with db.script.held() as entered:
        db.writer.post(events(0))
        assert entered.wait(5)
        for number in range(1, 50):
            db.writer.post(events(number))
            answers.append(db.writer.ask(ALL_EVENTS))
    assert answers[-1].wait_in_thread(5)
    assert len(db.script.batches) == 2


def test_what_is_posted_is_made_in_the_writers_thread_in_order_and_once(db: ScriptedDb) -> None:
    made: list[tuple[int, str]] = []

    def make(number: int) -> list[Write]:
        made.append((number, threading.current_thread().name))
        return [event(number)]

    for number in range(100):
        db.writer.post(lambda number=number: make(number))
    assert db.writer.flush(5)
    assert made == [(number, "kern-store") for number in range(100)]


def test_a_post_that_cannot_be_made_harms_no_other(db: ScriptedDb) -> None:
    def make() -> list[Write]:
        raise TypeError("a set is no JSON")

    before, bad, after = db.writer.post(events(0)), db.writer.post(make), db.writer.post(events(1))
    assert after.wait_in_thread(5)
    assert (before.error, after.error) == (None, None)
    assert bad.done
    assert isinstance(bad.error, StoreError)
    assert "a set is no JSON" in str(bad.error)
    assert db.script.numbers == [0, 1]


def test_a_post_of_nothing_is_answered(db: ScriptedDb) -> None:
    ticket = db.writer.post(list)
    assert ticket.wait_in_thread(5)
    assert (ticket.result, ticket.error) == ([], None)


def test_the_oldest_that_waits_says_how_long_the_database_has_stalled(db: ScriptedDb) -> None:
    assert db.writer.stalled() == 0
    with db.script.held() as entered:
        ticket = db.writer.post(events(0))
        eventually(lambda: db.writer.stalled() > 0.02)
        assert entered.wait(5)
        eventually(lambda: db.writer.stalled() > 0.05)
        assert not ticket.done
    assert db.writer.flush(5)
    assert db.writer.stalled() == 0


def test_a_flush_waits_for_all_before_it_and_no_longer_than_it_may(db: ScriptedDb) -> None:
    assert db.writer.flush(0), "nothing was handed in"
    with db.script.held():
        ticket = db.writer.post(events(0))
        assert not db.writer.flush(0.01)
    assert db.writer.flush(5)
    assert ticket.done


def test_a_flush_in_the_writers_own_thread_does_not_wait_for_itself(db: ScriptedDb) -> None:
    said: list[bool] = []

    def make() -> list[Write]:
        said.append(db.writer.flush(60))
        db.writer.close(60)
        return []

    assert db.writer.post(make).wait_in_thread(5)
    assert said == [False]


def test_more_than_may_wait_is_refused_and_taps_are_left_alone(
    db: ScriptedDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "MOST_WAITING", 10)
    monkeypatch.setattr(writer, "MOST_WAITING", 10)
    tapped: list[int] = []

    def tap() -> list[Write]:
        tapped.append(len(db.script.applied))
        return []

    with db.script.held() as entered:
        kept = [db.writer.post(events(0))]
        assert entered.wait(5)
        kept += [db.writer.post(events(number)) for number in range(1, 10)]
        refused = [db.writer.post(events(10)), db.writer.ask(ALL_EVENTS)]
        for ticket in refused:
            assert ticket.done
            assert isinstance(ticket.error, StoreError)
            assert "10 writes wait" in str(ticket.error)
        stop = db.writer.watch(tap)
    assert db.writer.flush(5)
    stop()
    assert all(ticket.done and ticket.error is None for ticket in kept)
    assert db.script.numbers == list(range(10))
    assert tapped, "it was called again when there was room"


def test_taps_are_not_called_while_too_much_waits(db: ScriptedDb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MOST_WAITING", 3)
    asked: list[int] = []

    def tap() -> list[Write]:
        asked.append(db.writer._desk.waiting)  # what the bound counts
        return [event(len(asked) + 100) for _ in range(4)]

    with db.script.held() as entered:
        db.writer.post(events(0))
        assert entered.wait(5)
        stops = [db.writer.watch(tap) for _ in range(3)]
        for number in range(1, 5):
            db.writer.post(events(number))
    assert db.writer.flush(5)
    for stop in stops:
        stop()
    assert max(asked) < 3


# From anywhere.


def test_threads_hand_in_side_by_side_and_each_ones_order_is_kept(db: ScriptedDb) -> None:
    def post(thread: int) -> None:
        for number in range(200):
            db.writer.post(events(1_000 * thread + number))

    threads = [threading.Thread(target=post, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert db.writer.flush(5)
    numbers = db.script.numbers
    assert len(numbers) == 1_600
    for thread in range(8):
        own = [number for number in numbers if number // 1_000 == thread]
        assert own == [1_000 * thread + number for number in range(200)]
    assert threading.active_count() <= 20
    assert [t.name for t in threading.enumerate()].count("kern-store") == 1


def test_a_signal_handler_hands_in_whatever_it_interrupts() -> None:
    db = ScriptedDb()
    handled: list[int] = []
    numbers_of_handler = itertools.count()  # a signal may interrupt the handler of the one before
    own = 0

    def handle(*_: Any) -> None:
        number = next(numbers_of_handler)
        db.writer.post(events(1_000_000 + number))
        handled.append(number)

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        while len(handled) < 300:
            assert db.writer.post(events(own)).wait_in_thread(5)
            own += 1
            if own % 20 == 0:
                db.writer.close(5)  # a handler may meet a writer that ends, and start the next
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert db.writer.flush(5)
    numbers = db.script.numbers
    assert [number for number in numbers if number < 1_000_000] == list(range(own))
    assert sorted(n - 1_000_000 for n in numbers if n >= 1_000_000) == sorted(handled)
    db.close()


def test_a_finalizer_hands_in(db: ScriptedDb) -> None:
    class Cycle:
        def __init__(self, number: int) -> None:
            self.number, self.me = number, self

        def __del__(self) -> None:
            db.writer.post(events(self.number))

    for number in range(20):
        Cycle(number)
    gc.collect()
    assert db.writer.flush(5)
    assert sorted(db.script.numbers) == list(range(20))


def test_what_was_handed_in_on_a_loop_that_is_gone_is_written(
    db: ScriptedDb, anyio_backend: tuple[str, dict[str, Any]]
) -> None:
    backend, options = anyio_backend

    async def main() -> None:
        db.writer.post(events(0))

    with db.script.held():
        anyio.run(main, backend=backend, backend_options=options)
    assert db.writer.flush(5)
    assert db.script.numbers == [0]


async def test_a_blocked_loop_holds_no_write_up(db: ScriptedDb) -> None:
    ticket = db.writer.post(events(0))
    eventually(lambda: ticket.done)  # blocks this loop
    assert db.script.numbers == [0]


def test_what_is_handed_in_just_before_the_thread_sleeps_is_seen(
    db: ScriptedDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleep = serving.Server._sleep
    late: list[Any] = []

    async def post_and_sleep(self: serving.Server, due: float) -> None:
        if not late:
            late.append(db.writer.post(events(0)))
        await sleep(self, due)

    assert db.writer.opened().wait_in_thread(5)
    server = db.writer._slot["thread"]._server
    eventually(lambda: server and server._idle)  # so that no bell is still to ring
    monkeypatch.setattr(serving.Server, "_sleep", post_and_sleep)
    assert db.writer.post(events(1)).wait_in_thread(5)
    eventually(lambda: late)
    assert late[0].wait_in_thread(2)


# Signs of life.


def test_the_first_word_to_the_database_is_that_this_process_lives(db: ScriptedDb) -> None:
    assert db.writer.post(events(0)).wait_in_thread(5)
    first, second = db.script.applied
    assert first == [Heartbeat(owner=db.writer.owner, seconds=30.0), Reap()]
    assert second == [event(0)]


def test_heartbeats_go_on_while_a_backlog_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "BATCH", 1)
    db = ScriptedDb(lease_seconds=0.15)

    async def slow(writes: Sequence[Write]) -> None:
        await anyio.sleep(0.01)

    db.script.on_apply = slow
    for number in range(30):
        db.writer.post(events(number))
    assert db.writer.flush(10)
    kinds = ["beat" if is_beat(batch) else "write" for batch in db.script.applied]
    assert "beat" in kinds[2:], "and not only at the beginning"
    db.close()
    gaps = "".join("b" if kind == "beat" else "w" for kind in kinds).split("b")
    assert max(map(len, gaps)) <= 10, "50 ms are five writes"


def test_heartbeats_go_on_while_nothing_is_to_do() -> None:
    db = ScriptedDb(lease_seconds=0.03)
    assert db.writer.opened().wait_in_thread(5)
    eventually(lambda: len(db.script.applied) >= 4)
    assert all(is_beat(batch) for batch in db.script.applied)
    db.close()


def test_without_taps_the_thread_sleeps_until_the_next_heartbeat(
    db: ScriptedDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeps: list[float] = []
    sleep = serving.Server._sleep

    async def counted(self: serving.Server, due: float) -> None:
        sleeps.append(due)
        await sleep(self, due)

    monkeypatch.setattr(serving.Server, "_sleep", counted)
    assert db.writer.post(events(0)).wait_in_thread(5)
    eventually(lambda: sleeps)
    before = len(sleeps)
    threading.Event().wait(0.3)  # time in which a thread that polls would have gone round
    assert len(sleeps) - before <= 1


def test_runs_of_dead_processes_are_marked_and_logged(
    db: ScriptedDb, caplog: pytest.LogCaptureFixture
) -> None:
    db.writer.post(lambda: [put_run(new=True)])  # of an owner that has no lease
    assert db.writer.flush(5)
    db.close()
    answer = db.writer.ask(FindRun(run_id="r"))
    assert answer.wait_in_thread(5)
    assert (answer.result.status, answer.result.error_type) == ("ERROR", "Interrupted")
    assert [record.message for record in caplog.records] == ["run.interrupted run_id=r"]
