"""A database that fails, hangs or refuses: nothing is lost, nothing is done twice, nobody is held for ever."""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kern_async.db import serving
from kern_async.db.base import PutEvents, Write
from kern_async.exceptions import DatabaseUnusable, StoreError

from .stores import ALL_EVENTS, Script, ScriptedDb, event, events, eventually, is_beat, set_by_thread

pytestmark = pytest.mark.usefixtures("quick")

Hook = Callable[[Any], Awaitable[None]]


def failing(times: int, error: Exception) -> Hook:
    """Fail so often, then never again."""
    left = times

    async def fail(_: Any) -> None:
        nonlocal left
        if left:
            left -= 1
            raise error

    return fail


def refusing(*poisonous: int) -> Hook:
    """Fail whatever has one of these events in it."""

    async def refuse(writes: Sequence[Write]) -> None:
        for write in writes:
            if isinstance(write, PutEvents) and write.events[0][0] in poisonous:
                raise ValueError("a NUL in a text")

    return refuse


def test_a_failure_that_passes_is_never_given_up(db: ScriptedDb) -> None:
    db.script.on_apply = failing(30, OSError(28, "No space left on device"))
    tickets = [db.writer.post(events(number)) for number in range(3)]
    assert tickets[-1].wait_in_thread(5)
    assert [ticket.error for ticket in tickets] == [None] * 3
    assert db.script.numbers == [0, 1, 2]


def test_the_words_of_the_trouble_are_there_while_it_lasts(
    db: ScriptedDb, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kern_async")
    broken = True

    async def fail(_: Any) -> None:
        if broken:
            raise OSError(28, "No space left on device")

    db.script.on_apply = fail
    ticket = db.writer.post(events(0))
    eventually(lambda: db.script.calls.count("apply") > 5)
    assert db.writer.trouble == "OSError: [Errno 28] No space left on device"
    assert not ticket.done
    broken = False
    assert ticket.wait_in_thread(5)
    assert db.writer.flush(5)
    assert db.writer.trouble is None
    assert [record.message for record in caplog.records] == [
        "store.failed store=ScriptedDb error_type=OSError code=28",
        "store.recovered store=ScriptedDb",
    ]


def test_after_a_failure_the_store_is_closed_and_opened_again(db: ScriptedDb) -> None:
    assert db.writer.opened().wait_in_thread(5)
    db.script.on_apply = failing(1, ConnectionError("gone"))
    assert db.writer.post(events(0)).wait_in_thread(5)
    assert db.script.calls == ["open", "apply", "apply", "close", "open", "apply", "apply"]


def test_a_poisonous_write_fails_alone(db: ScriptedDb) -> None:
    entered, release = threading.Event(), threading.Event()
    refuse = refusing(2)

    async def wait_and_refuse(writes: Sequence[Write]) -> None:
        if not is_beat(writes):
            entered.set()
            await set_by_thread(release)
        await refuse(writes)

    db.script.on_apply = wait_and_refuse
    db.writer.post(events(0))
    assert entered.wait(5)
    tickets = [db.writer.post(events(number)) for number in range(1, 5)]  # one transaction
    release.set()
    assert tickets[-1].wait_in_thread(5)
    bad = tickets.pop(1)
    assert [ticket.error for ticket in tickets] == [None] * 3
    assert isinstance(bad.error, StoreError)
    assert str(bad.error) == "ScriptedDb: ValueError: a NUL in a text"
    assert bad.result is None
    indices = [
        [write.events[0][0] for write in batch if isinstance(write, PutEvents)] for batch in db.script.batches
    ]
    assert indices == [[0], [1], [3, 4]]
    assert db.writer.flush(5)
    assert db.writer.trouble is None


def test_a_poisonous_post_that_is_alone_is_told_after_three_tries(db: ScriptedDb) -> None:
    tried: list[Any] = []

    async def refuse(writes: Sequence[Write]) -> None:
        if not is_beat(writes):
            tried.append(writes)
            raise ValueError("a NUL in a text")

    db.script.on_apply = refuse
    ticket = db.writer.post(events(0))
    assert ticket.wait_in_thread(5)
    assert isinstance(ticket.error, StoreError)
    assert len(tried) == 3


def test_a_post_is_applied_whole_or_not_at_all(db: ScriptedDb) -> None:
    db.script.on_apply = refusing(2)
    whole, broken = db.writer.post(events(0)), db.writer.post(events(1, 2, 3))
    assert broken.wait_in_thread(5)
    assert whole.error is None
    assert broken.error is not None
    assert db.script.numbers == [0]


def test_while_the_database_takes_no_heartbeat_nothing_counts_as_poisonous(db: ScriptedDb) -> None:
    db.script.on_apply = failing(40, RuntimeError("no idea what that is"))
    ticket = db.writer.post(events(0))
    assert ticket.wait_in_thread(5)
    assert ticket.error is None


def test_what_hangs_is_cancelled_and_tried_again(db: ScriptedDb) -> None:
    cut: list[str] = []

    def hanging(times: int) -> Hook:
        left = times

        async def hang(writes: Any) -> None:
            nonlocal left
            if left and not (isinstance(writes, Sequence) and is_beat(writes)):
                left -= 1
                try:
                    await anyio.sleep_forever()
                finally:
                    cut.append("cut")

        return hang

    db.script.on_apply = hanging(4)
    ticket = db.writer.post(events(0))
    eventually(lambda: db.writer.trouble)
    assert db.writer.trouble == "TimeoutError: no answer for 0.1 s"
    assert ticket.wait_in_thread(5)
    assert ticket.error is None
    assert cut == ["cut"] * 4
    db.script.on_read = hanging(1)
    answer = db.writer.ask(ALL_EVENTS)
    assert answer.wait_in_thread(5)
    assert answer.result == [(0, "0")]


def test_a_read_that_cannot_be_answered_fails_and_holds_nobody(db: ScriptedDb) -> None:
    db.script.on_read = failing(3, ValueError("not JSON"))
    bad, after = db.writer.ask(ALL_EVENTS), db.writer.post(events(0))
    good = db.writer.ask(ALL_EVENTS)
    assert good.wait_in_thread(5)
    assert str(bad.error) == "ScriptedDb: ValueError: not JSON"
    assert after.error is None
    assert good.result == [(0, "0")]


def test_a_read_waits_for_a_database_that_is_away(db: ScriptedDb) -> None:
    db.script.on_open = failing(20, ConnectionRefusedError("no server"))
    answer = db.writer.ask(ALL_EVENTS)
    assert answer.wait_in_thread(5)
    assert (answer.result, answer.error) == ([], None)


# A database that cannot be used.


def test_all_who_wait_are_told_that_the_database_cannot_be_used(db: ScriptedDb) -> None:
    entered, release = threading.Event(), threading.Event()

    async def refuse(_: Any) -> None:
        entered.set()
        await set_by_thread(release)
        raise DatabaseUnusable("no directory")

    db.script.on_open = refuse
    tickets = [db.writer.opened()]
    assert entered.wait(5)
    tickets += [db.writer.post(events(0)), db.writer.ask(ALL_EVENTS), db.writer.flushed()]
    release.set()
    for ticket in tickets:
        assert ticket.wait_in_thread(5)
        assert isinstance(ticket.error, DatabaseUnusable)
        assert str(ticket.error) == "no directory"
    assert len({id(ticket.error) for ticket in tickets}) == 4, "each may raise its own"


def test_the_next_that_is_handed_in_opens_it_again_but_not_all_the_time(db: ScriptedDb) -> None:
    db.script.on_open = failing(2, DatabaseUnusable("no directory"))
    assert db.writer.post(events(0)).wait_in_thread(5)
    for number in range(5):
        ticket = db.writer.post(events(number))
        assert ticket.wait_in_thread(5)
        assert isinstance(ticket.error, DatabaseUnusable)
    assert db.script.calls.count("open") == 1

    threading.Event().wait(0.06)  # the rest between two looks
    assert db.script.calls.count("open") == 1, "nobody asked"
    assert isinstance(_last(db, events(6)), DatabaseUnusable)
    assert db.script.calls.count("open") == 2
    threading.Event().wait(0.06)
    assert _last(db, events(7)) is None
    assert db.script.numbers == [7]


def _last(db: ScriptedDb, make: Callable[[], Sequence[Write]]) -> Exception | None:
    ticket = db.writer.post(make)
    assert ticket.wait_in_thread(5)
    return ticket.error


def test_what_a_tap_gave_outlasts_a_database_that_cannot_be_used(db: ScriptedDb) -> None:
    assert db.writer.opened().wait_in_thread(5)
    give: list[Write] = [event(0)]

    def tap() -> list[Write]:
        given = list(give)
        give.clear()
        return given

    async def fail(writes: Sequence[Write]) -> None:
        if not is_beat(writes):
            raise DatabaseUnusable("somebody has deleted it")

    db.script.on_apply = fail
    stop = db.writer.watch(tap)
    eventually(lambda: not give and db.script.calls[-1] == "close")
    db.script.on_apply = failing(0, OSError())
    threading.Event().wait(0.06)  # the rest between two looks
    assert _last(db, events(1)) is None
    stop()
    assert db.script.numbers == [0, 1]


# Taps.


def test_a_tap_is_emptied_again_and_again_until_it_is_stopped(db: ScriptedDb) -> None:
    given: list[int] = []

    def tap() -> list[Write]:
        given.append(len(given))
        return [event(given[-1])]

    stop = db.writer.watch(tap)
    eventually(lambda: len(db.script.numbers) >= 3)
    stop()
    assert db.writer.flush(5)
    number = len(given)
    assert db.script.numbers == list(range(number))
    other = db.writer.watch(list)
    threading.Event().wait(3 * serving.TICK)
    other()
    assert len(given) == number


def test_a_flush_empties_the_taps_without_waiting_for_their_time(
    db: ScriptedDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "TICK", 60)
    give: list[Write] = []

    def tap() -> list[Write]:
        given = list(give)
        give.clear()
        return given

    stop = db.writer.watch(tap)
    assert db.writer.flush(5)
    give += [event(number) for number in range(2_500)]
    assert db.writer.flush(5)
    stop()
    assert db.script.numbers == list(range(2_500))
    assert max(map(len, db.script.batches)) == 1_000


def test_what_a_tap_gave_is_written_whatever_fails_meanwhile(db: ScriptedDb) -> None:
    db.script.on_apply = failing(20, OSError("disk full"))
    give: list[Write] = [event(0), event(1)]

    def tap() -> list[Write]:
        given = list(give)
        give.clear()
        return given

    stop = db.writer.watch(tap)
    eventually(lambda: db.script.numbers == [0, 1])
    stop()


def test_a_poisonous_write_of_a_tap_is_dropped_alone_and_logged(
    db: ScriptedDb, caplog: pytest.LogCaptureFixture
) -> None:
    db.script.on_apply = refusing(1)
    give: list[Write] = [event(0), event(1), event(2)]

    def tap() -> list[Write]:
        given = list(give)
        give.clear()
        return given

    stop = db.writer.watch(tap)
    assert db.writer.flush(5)
    stop()
    assert db.script.numbers == [0, 2]
    assert "store.gave_up store=ScriptedDb writes=PutEvents error_type=ValueError" in caplog.messages
    assert "NUL" not in caplog.text, "what a database says may be content"


def test_a_tap_that_raises_is_dropped_and_logged(db: ScriptedDb, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []

    def bad() -> list[Write]:
        calls.append(1)
        raise TypeError("secret")

    stops = [db.writer.watch(bad), db.writer.watch(lambda: [event(0)])]
    assert db.writer.flush(5)
    assert db.writer.flush(5)
    for stop in stops:
        stop()
    assert calls == [1]
    assert 0 in db.script.numbers
    assert caplog.messages == ["store.tap_failed store=ScriptedDb error_type=TypeError"]


# Whatever happens.

FAULTS: dict[str, Callable[[], Exception]] = {
    "full": lambda: OSError(28, "No space left on device"),
    "gone": lambda: ConnectionError("gone"),
    "odd": lambda: RuntimeError("?"),
}
steps = st.lists(st.sampled_from(["ok", "hang", *FAULTS]), max_size=12)


@settings(max_examples=40)
@given(open_faults=steps, write_faults=steps, sizes=st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_over_any_failures_everything_is_applied_once_and_in_order(
    open_faults: list[str], write_faults: list[str], sizes: list[int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "HANG", 0.005)
        patch.setattr(serving, "TICK", 0.001)
        patch.setattr(serving, "BATCH", 4)
        patch.setattr(serving, "TRIES", 100)  # what is odd passes too, in the end
        script = Script()
        script.on_open, script.on_apply = faulty(open_faults), faulty(write_faults)
        db = ScriptedDb(script)
        give: list[list[Write]] = []
        stop = db.writer.watch(lambda: give.pop(0) if give else [])
        tickets: list[Any] = []
        number = 0
        for size in sizes:
            tickets.append((db.writer.post(events(*range(number, number + size))), size))
            give.append([event(1_000 + number)])
            number += size
        eventually(lambda: not give)
        assert db.writer.flush(10)
        stop()
        db.close()
    assert all(ticket.done and ticket.error is None and len(ticket.result) == n for ticket, n in tickets)
    assert [index for index in script.numbers if index < 1_000] == list(range(number))
    tapped = [index for index in script.numbers if index >= 1_000]
    assert sorted(tapped) == tapped
    assert len(tapped) == len(sizes)


def faulty(faults: list[str]) -> Hook:
    left = list(faults)

    async def fault(_: Any) -> None:
        match left.pop(0) if left else "ok":
            case "ok":
                pass
            case "hang":
                await anyio.sleep_forever()
            case name:
                error = FAULTS[name]()
                raise error

    return fault
