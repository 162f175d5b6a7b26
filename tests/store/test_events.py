"""The events that are stored are those that a consumer saw, and can be read again from any place."""

from __future__ import annotations

import json
import threading
from typing import Any

import anyio
import pytest

from kern_async import Team, tool
from kern_async.db.base import FindEvents, FindRun
from kern_async.db.database import BaseDb
from kern_async.engine import registry
from kern_async.engine.following import EventReader
from kern_async.testing.scripted import call

from .parts import agent, cancel_at, delegate, forever, model, new_process, read, read_stream, tree, until


@tool(requires_confirmation=True)
def pay(amount: int) -> str:
    """Pay."""
    return f"paid {amount}"


def double(x: int) -> int:
    """Twice as much."""
    return 2 * x


def dicts(events: Any) -> list[dict[str, Any]]:
    return [event.to_dict() for event in events]


def check_alike(made: Any, seen: Any) -> None:
    """An end that was made anew of the row says what the event did, and when, by a second more or less."""
    assert abs(made.created_at - seen.created_at) <= 1
    assert made.to_dict() == seen.model_copy(update={"created_at": made.created_at}).to_dict()


def indices(events: Any) -> list[int]:
    return [event.event_index for event in events]


async def again(who: Any, run_id: str, **options: Any) -> list[Any]:
    with anyio.fail_after(5):
        return [event async for event in who.run_events(run_id, **options)]


def team_of(db: BaseDb, *, second: Any = "Second one.", store_events: bool = True) -> Team:
    inner = Team([agent("One", [call("double", x=2)], "First.", tools=[double])], name="Inner",
                 model=model(delegate("one"), "Inner says."))  # fmt: skip
    return Team(
        [inner, agent("Two", second)],
        name="T",
        model=model(["I ask. ", delegate("inner"), delegate("two")], "All."),
        db=db,
        store_events=store_events,
    )


async def test_stored_events_are_those_that_a_consumer_saw(db: BaseDb) -> None:
    team = team_of(db)
    events, output = await read(team)
    for each in tree(output):
        assert dicts(each.events) == dicts(event for event in events if event.run_id == each.run_id)
        got = await team.aget_run_output(each.run_id)
        assert got is not None
        assert dicts(got.events or ()) == dicts(each.events)
    for forget in (False, True):
        if forget:
            new_process()
        assert dicts(await again(team, output.run_id)) == dicts(events)


async def test_reading_again_from_any_place(db: BaseDb) -> None:
    team = team_of(db)
    events, output = await read(team)
    for after in range(-1, len(events)):
        assert dicts(await again(team, output.run_id, after=after)) == dicts(events[after + 1 :])
    assert await again(team, output.run_id, after=10_000) == []


async def test_reading_a_member_s_own_events_and_those_below_it(db: BaseDb) -> None:
    team = team_of(db)
    events, output = await read(team)
    inner = next(each for each in tree(output) if getattr(each, "team_id", None) == "inner")
    below = {each.run_id for each in tree(inner)}
    theirs = [event for event in events if event.run_id in below]
    assert dicts(await again(team, inner.run_id)) == dicts(theirs)
    middle = theirs[len(theirs) // 2].event_index
    assert dicts(await again(team, inner.run_id, after=middle)) == dicts(
        event for event in theirs if event.event_index > middle
    )


def test_reading_in_a_thread(db: BaseDb) -> None:
    team = team_of(db)
    stream = team.run("Go.", stream=True, stream_events=True)
    seen: list[Any] = []
    with stream:
        first = next(stream)
        thread = threading.Thread(target=lambda: seen.extend(team.run_events(first.run_id)))
        thread.start()
        events = [first, *stream]
    thread.join()
    assert dicts(seen) == dicts(events)
    assert dicts(team.run_events(first.run_id)) == dicts(events)
    assert dicts(team.run_events(first.run_id, after=5)) == dicts(events[6:])


async def test_reading_a_live_run_from_its_middle_to_its_end(db: BaseDb) -> None:
    """A reader that comes late gets what is stored or in memory, then what comes, each event once."""
    go_on = anyio.Event()

    async def wait(_: Any) -> None:
        await go_on.wait()

    team = team_of(db, second=["Second", wait, " one."])
    read_again: list[list[Any]] = []

    async def follow(run_id: str, after: int) -> None:
        read_again.append(await again(team, run_id, after=after))

    events: list[Any] = []
    async with (
        anyio.create_task_group() as group,
        team.arun("Go.", stream=True, stream_events=True) as stream,
    ):
        async for event in stream:
            events.append(event)
            if event.content == "Second":
                for after in (-1, 4, event.event_index):
                    group.start_soon(follow, stream.run_id, after)
                group.start_soon(_set, go_on)
    assert max(len(each) for each in read_again) == len(events)
    for each in read_again:
        assert dicts(each) == dicts(events[len(events) - len(each) :])


async def _set(event: anyio.Event) -> None:
    await anyio.sleep(0.05)  # not to synchronise: that some of it is read before and some of it live
    event.set()


async def test_reading_a_member_of_a_live_run(db: BaseDb) -> None:
    go_on = anyio.Event()

    async def wait(_: Any) -> None:
        await go_on.wait()

    team = team_of(db, second=["Second", wait, " one."])
    got: list[Any] = []
    member = ""

    async def follow(run_id: str) -> None:
        got.extend(await again(team, run_id))

    events: list[Any] = []
    async with (
        anyio.create_task_group() as group,
        team.arun("Go.", stream=True, stream_events=True) as stream,
    ):
        async for event in stream:
            events.append(event)
            if event.content == "Second":
                member = event.run_id
                group.start_soon(follow, member)
                group.start_soon(_set, go_on)
    assert dicts(got) == dicts(event for event in events if event.run_id == member)


async def test_a_paused_run_is_read_to_its_pause_and_later_on_from_there(db: BaseDb) -> None:
    solo = agent("Solo", ["I pay. ", call("pay", amount=3)], "Paid.", db=db, tools=[pay], store_events=True)
    events, output = await read(solo)
    assert events[-1].event == "RunPaused"
    assert dicts(await again(solo, output.run_id)) == dicts(events)
    output.requirements[0].confirm()
    more, _ = await read_stream(solo.acontinue_run(output, stream=True, stream_events=True))
    whole = await again(solo, output.run_id)
    assert indices(whole) == list(range(len(whole)))
    assert dicts(whole) == dicts([*events, *more])
    assert dicts(await again(solo, output.run_id, after=events[-1].event_index)) == dicts(more)
    got = await solo.aget_run_output(output.run_id)
    assert got is not None
    assert dicts(got.events or ()) == dicts(whole)


async def test_a_paused_run_is_read_to_its_pause_in_a_new_process(db: BaseDb) -> None:
    solo = agent("Solo", ["I pay. ", call("pay", amount=3)], db=db, tools=[pay], store_events=True)
    events, output = await read(solo)
    new_process()
    assert dicts(await again(solo, output.run_id)) == dicts(events)


@pytest.mark.parametrize("paused", [False, True])
async def test_without_stored_events_the_end_is_all_there_is(db: BaseDb, paused: bool) -> None:
    solo = agent("Solo", ["I pay. ", call("pay", amount=3)] if paused else "Done.", db=db, tools=[pay])
    events, output = await read(solo)
    new_process()
    (only,) = await again(solo, output.run_id)
    check_alike(only, events[-1])
    assert await again(solo, output.run_id, after=only.event_index) == []


@pytest.mark.parametrize("ended", ["cancelled", "failed"])
async def test_without_stored_events_an_unhappy_end_is_all_there_is(db: BaseDb, ended: str) -> None:
    solo = agent("Solo", ["The lo", forever if ended == "cancelled" else ValueError("broken")], db=db)
    events, output = await read(
        solo, on=cancel_at("The lo", reason="why not") if ended == "cancelled" else None
    )
    (only,) = await again(solo, output.run_id)
    check_alike(only, events[-1])


async def test_a_team_without_stored_events_gives_a_members_end_for_its_id(db: BaseDb) -> None:
    team = team_of(db, store_events=False)
    events, output = await read(team)
    for each in tree(output):
        *_, end = (event for event in events if event.run_id == each.run_id)
        (only,) = await again(team, each.run_id)
        # A member's place among the events that nobody kept is known only roughly.
        place = end.event_index if each is output else only.event_index
        check_alike(only, end.model_copy(update={"event_index": place}))


async def test_events_that_are_skipped_are_nowhere(db: BaseDb) -> None:
    solo = agent("Solo", ["One ", "two."], db=db, store_events=True, events_to_skip=["RunContent"])
    events, output = await read(solo)
    kept = [event for event in events if event.event != "RunContent"]
    assert dicts(output.events) == dicts(kept)
    assert dicts(await again(solo, output.run_id)) == dicts(kept)


async def test_an_end_that_is_made_anew_says_when_the_run_ended(db: BaseDb) -> None:
    solo = agent("Solo", "Done.", db=db)
    output = await solo.arun("Go.")
    ticket = db.writer.ask(FindRun(run_id=output.run_id))
    await ticket.wait(5)
    row = ticket.result
    (only,) = await again(solo, output.run_id)
    assert only.created_at == json.loads(row.resume)["ended_at"]


async def test_an_unknown_run_has_no_events(db: BaseDb) -> None:
    solo = agent("Solo", "Done.", db=db)
    assert await again(solo, "nope") == []
    assert list(solo.run_events("nope")) == []
    assert await again(agent("None"), "nope") == []


async def test_many_events_are_read_in_pieces(db: BaseDb) -> None:
    solo = agent("Solo", ["x"] * 2_500, db=db, store_events=True)
    events, output = await read(solo)
    got = await again(solo, output.run_id)
    assert dicts(got) == dicts(events)
    assert dicts(await again(solo, output.run_id, after=1_200)) == dicts(events[1_201:])
    whole = await solo.aget_run_output(output.run_id)
    assert whole is not None
    assert len(whole.events or ()) == len(events)


async def test_a_cancelled_wait_for_events_loses_none(db: BaseDb) -> None:
    go_on = anyio.Event()

    async def wait(_: Any) -> None:
        await go_on.wait()

    solo = agent("Solo", ["The ", wait, "end."], db=db, store_events=True)
    got: list[Any] = []
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: solo.arun("Go.", run_id="r"))
        await until(lambda: registry.find("r"))
        reader = solo.run_events("r")
        while True:
            with anyio.move_on_after(0.01) as scope:
                async for event in reader:
                    got.append(event)  # noqa: PERF401 - those before a cancel count
                break
            if scope.cancelled_caught and got and got[-1].content == "The ":
                go_on.set()
    assert dicts(got) == dicts(await again(solo, "r"))


async def test_the_events_of_a_run_that_was_cut_off_are_in_the_database_in_order(db: BaseDb) -> None:
    solo = agent("Solo", ["a", "b", "c", forever], db=db, store_events=True)
    events, output = await read(solo, on=cancel_at("c"))
    ticket = db.writer.ask(FindEvents(root_run_id=output.run_id))
    await ticket.wait(5)
    assert [index for index, _ in ticket.result] == indices(events)


async def test_a_reader_of_an_attempt_waits_for_its_first_step(db: BaseDb) -> None:
    solo = agent("Solo", ["Once ", forever], ["upon a time."], db=db, store_events=True)
    seen, output = await read(solo, on=cancel_at("Once "))
    new_process()
    run = await solo.start_again(run_id=output.run_id)
    reader = EventReader(db, run.id, -1, run, attempt=run.attempt.number)
    # Without a step of the event loop: the attempt is begun, and its task has not come to it.
    assert dicts(next(reader) for _ in seen) == dicts(seen)
    assert reader.ready() == []
    assert not reader.over
    with anyio.fail_after(5):
        rest = [event async for event in reader]
    assert [rest[0].event, rest[-1].event] == ["RunContinued", "RunCompleted"]
    assert indices(seen + rest) == list(range(len(seen + rest)))
