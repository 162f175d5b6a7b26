"""What `db.base` says of a run's and its events' writes, of every kind of database."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kern_async.db.base import (
    FindEvents,
    FindRun,
    FindRuns,
    FindSession,
    FindTree,
    Heartbeat,
    Reap,
    Store,
)
from kern_async.exceptions import Fenced, NotTheirs, RunExists

from .places import Place, done, one
from .writes import claim, events, fence, put, seed

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)


async def test_a_run_is_read_as_it_was_written(store: Store) -> None:
    write = put(
        "r",
        user="u",
        kind="team",
        entity_id="t",
        new=True,
        status="ERROR",
        output='{"content": "ü \\u0000 😀"}',
        resume="{}",
        error_type="ToolError",
        error="it failed\nbadly",
        messages=[(0, '"first"'), (1, '"second"')],
        tools=[(0, '"call"')],
    )
    await done(store, write)
    run = await store.read(FindRun(run_id="r"))
    assert run.key == write.key
    assert (run.status, run.owner, run.attempt) == ("ERROR", "me", 0)
    assert (run.output, run.resume) == ('{"content": "ü \\u0000 😀"}', "{}")
    assert (run.error_type, run.error) == ("ToolError", "it failed\nbadly")
    assert (list(run.messages), list(run.tools)) == (['"first"', '"second"'], ['"call"'])


async def test_what_is_none_in_a_write_stays(store: Store) -> None:
    await done(store, put(output="1", resume="2", status="ERROR"))
    await done(store, put(status="CANCELLED"))
    run = await store.read(FindRun(run_id="r"))
    assert (run.status, run.output, run.resume) == ("CANCELLED", "1", "2")


async def test_what_is_given_in_a_write_is_set(store: Store) -> None:
    await done(store, put(output="1", resume="2", error_type="E", error="e", status="ERROR"))
    await done(store, put(output="3", resume="4", error_type="F", error="f", status="ERROR"))
    run = await store.read(FindRun(run_id="r"))
    assert (run.output, run.resume, run.error_type, run.error) == ("3", "4", "F", "f")


@pytest.mark.parametrize("status", ["PENDING", "RUNNING", "COMPLETED", "CANCELLED"])
async def test_a_write_without_an_error_makes_the_one_of_before_go(store: Store, status: str) -> None:
    await done(store, put(status="ERROR", error_type="E", error="e"))
    await done(store, put(status=status))
    run = await store.read(FindRun(run_id="r"))
    assert (run.status, run.error_type, run.error) == (status, None, None)


async def test_a_conversation_that_is_written_anew_keeps_nothing_of_the_old_one(store: Store) -> None:
    await done(store, put(messages=[(0, "0"), (1, "1"), (2, "2"), (3, "3")]))
    await done(store, put(messages_cut=1, messages=[(1, "new")]))
    assert list((await store.read(FindRun(run_id="r"))).messages) == ["0", "new"]
    await done(
        store, put(messages=[(2, "late")]), put(messages_cut=0), put(messages=[(0, "first"), (1, "second")])
    )
    assert list((await store.read(FindRun(run_id="r"))).messages) == ["first", "second"]


async def test_lists_grow_and_have_places_set_anew(store: Store) -> None:
    await done(store, put(messages=[(0, "0"), (1, "1")], tools=[(0, "0")]))
    await done(store, put(messages=[(1, "11"), (2, "2")], tools=[(1, "1")]))
    run = await store.read(FindRun(run_id="r"))
    assert (list(run.messages), list(run.tools)) == (["0", "11", "2"], ["0", "1"])


async def test_the_order_of_writes_in_a_batch_counts(store: Store) -> None:
    await done(
        store,
        put(new=True, output="1", messages=[(0, "a")], state={"k": "1", "gone": "1"}),
        put(output="2", messages=[(0, "b"), (1, "c")], state={"k": "2"}),
        put(status="PAUSED", output="3", state={"gone": None}),
    )
    run = await store.read(FindRun(run_id="r"))
    assert (run.status, run.output, list(run.messages)) == ("PAUSED", "3", ["b", "c"])
    assert (await store.read(FindSession(session_id="s"))).state == {"k": "2"}


async def test_a_claimed_run_is_written_by_its_new_attempt_in_the_same_batch(store: Store) -> None:
    await done(store, put(status="PAUSED"))
    results = await store.apply(
        [
            claim(owner="me"),
            put(attempt=0),
            put(attempt=1, status="COMPLETED"),
            events(0, attempt=1),
        ]
    )
    assert [type(result) for result in results] == [type(None), Fenced, type(None), type(None)]
    run = await store.read(FindRun(run_id="r"))
    assert (run.status, run.attempt) == ("COMPLETED", 1)


async def test_an_empty_batch_does_nothing(store: Store) -> None:
    assert await store.apply([]) == []


# New runs.


async def test_a_new_run_is_refused_when_its_id_is_stored(store: Store) -> None:
    await done(store, put(status="COMPLETED", output="1"))
    assert isinstance(await one(store, put(owner="other", new=True, output="2")), RunExists)
    assert isinstance(await one(store, put(attempt=1, new=True, output="2")), RunExists)
    assert (await store.read(FindRun(run_id="r"))).output == "1"


async def test_a_new_run_that_was_written_already_is_written_again(store: Store) -> None:
    """A writer that did not hear that a batch was applied applies it once more."""
    await done(store, put(new=True, output="1"))
    await done(store, put(new=True, output="1"))
    assert len(await store.read(FindTree(root_run_id="r"))) == 1


async def test_of_two_new_runs_of_one_id_in_a_batch_the_first_is_written(store: Store) -> None:
    results = await store.apply([put(new=True, output="1"), put(new=True, owner="other", output="2")])
    assert [type(result) for result in results] == [type(None), RunExists]
    assert (await store.read(FindRun(run_id="r"))).output == "1"


async def test_a_rejected_write_hinders_no_other(store: Store) -> None:
    await done(store, put("taken", owner="other"))
    results = await store.apply([put("a", new=True), put("taken", new=True, session="t"), put("b", new=True)])
    assert [type(result) for result in results] == [type(None), RunExists, type(None)]
    assert {run.key.run_id for run in await store.read(FindRuns(session_id="s"))} == {"a", "b", "taken"}
    assert await store.read(FindSession(session_id="t")) is None


# Fences.


async def test_another_owner_or_attempt_is_fenced(store: Store) -> None:
    await done(store, put("r"), put("m", root="r"))
    theirs = [
        put("r", owner="other"),
        put("r", attempt=1),
        put("m", root="r", owner="other", output="1"),
        put("n", root="r", owner="other"),
        events(0, owner="other"),
        events(0, attempt=1),
    ]
    results = await store.apply(theirs)
    assert [type(result) for result in results] == [Fenced] * len(theirs)
    assert [run.key.run_id for run in await store.read(FindTree(root_run_id="r"))] == ["r", "m"]
    assert await store.read(FindEvents(root_run_id="r")) == []


async def test_where_there_is_no_root_the_write_makes_it(store: Store) -> None:
    await done(store, put("r", owner="o", attempt=3))
    run = await store.read(FindRun(run_id="r"))
    assert (run.owner, run.attempt) == ("o", 3)


async def test_a_members_row_may_come_before_its_roots(store: Store) -> None:
    await done(store, put("m", root="r", new=True), events(0, root="r"), put("r", new=True))
    assert [run.key.run_id for run in await store.read(FindTree(root_run_id="r"))] == ["m", "r"]


# Claims.


async def test_of_two_claims_one_wins(place: Place) -> None:
    async with place.store() as ours, place.store() as theirs:
        await done(ours, put(status="PAUSED"))
        await done(theirs, claim(owner="they"))
        assert isinstance(await one(ours, claim(owner="we")), Fenced)
        run = await ours.read(FindRun(run_id="r"))
        assert (run.owner, run.attempt, run.status) == ("they", 1, "RUNNING")


async def test_a_claim_takes_the_whole_tree(store: Store) -> None:
    await done(store, put("m", root="r", status="COMPLETED"), put("r", status="CANCELLED"))
    await done(store, put("x", status="CANCELLED"))
    await done(store, claim("r", owner="other"))
    owners = {run.key.run_id: run.owner for run in await store.read(FindRuns(session_id="s"))}
    assert owners == {"m": "other", "r": "other", "x": "me"}
    assert isinstance(await one(store, put("m", root="r")), Fenced)
    await done(store, put("m", root="r", owner="other", attempt=1))


async def test_a_claim_takes_rows_that_its_batch_has_written(store: Store) -> None:
    await done(store, put("r", status="PAUSED"))
    await done(store, put("m", root="r", new=True, status="PAUSED"), claim("r", owner="other"))
    assert [run.owner for run in await store.read(FindTree(root_run_id="r"))] == ["other", "other"]


@pytest.mark.parametrize("status", ["PENDING", "RUNNING", "COMPLETED"])
async def test_a_run_of_another_status_is_not_claimed(store: Store, status: str) -> None:
    await done(store, put(status=status))
    assert isinstance(await one(store, claim()), Fenced)
    await done(store, claim(statuses=[status]))


async def test_only_the_next_attempt_is_claimed(store: Store) -> None:
    await done(store, put(status="PAUSED", attempt=4))
    for attempt in (3, 4, 6):
        assert isinstance(await one(store, claim(attempt=attempt)), Fenced)
    assert (await store.read(FindRun(run_id="r"))).status == "PAUSED"
    await done(store, claim(attempt=5))


async def test_what_is_not_stored_is_not_claimed(store: Store) -> None:
    assert isinstance(await one(store, claim("nothing")), Fenced)
    assert await store.read(FindRun(run_id="nothing")) is None


# Sessions' users.


async def test_a_run_in_another_users_session_is_refused(store: Store) -> None:
    await done(store, put("r", user="ann", state={"k": "1"}))
    result = await one(store, put("x", user="bob", state={"k": "2"}))
    assert isinstance(result, NotTheirs)
    assert isinstance(result, ValueError)
    assert await store.read(FindRun(run_id="x")) is None
    assert (await store.read(FindSession(session_id="s"))).state == {"k": "1"}


@pytest.mark.parametrize(("first", "second"), [("ann", "ann"), ("ann", None), (None, "ann")])
async def test_a_run_is_not_refused_when_a_user_is_unknown(
    store: Store, first: str | None, second: str | None
) -> None:
    await done(store, put("r", user=first), put("x", user=second))
    assert (await store.read(FindSession(session_id="s"))).seed == seed(user=first)


# Events.


async def test_events_are_read_in_the_order_of_their_indices(store: Store) -> None:
    await done(store, put(), events(2, 10), events(0, 1))
    assert await store.read(FindEvents(root_run_id="r")) == [
        (index, f'"event {index}"') for index in (0, 1, 2, 10)
    ]


async def test_an_event_that_is_there_stays_as_it_is(store: Store) -> None:
    await done(store, put(), events(0))
    again = replace(events(0), events=[(0, "r", '"new"'), (1, "r", '"one"'), (1, "r", '"another"')])
    await done(store, again)
    assert await store.read(FindEvents(root_run_id="r")) == [(0, '"event 0"'), (1, '"one"')]


async def test_events_of_two_trees_are_kept_apart(store: Store) -> None:
    await done(store, put("r"), put("x"), events(0, 1, root="r"), events(0, root="x"))
    assert [index for index, _ in await store.read(FindEvents(root_run_id="r"))] == [0, 1]
    assert [index for index, _ in await store.read(FindEvents(root_run_id="x"))] == [0]


async def test_events_are_read_after_an_index_of_some_runs_and_up_to_a_limit(store: Store) -> None:
    await done(store, put(), events(0, 2, 4), events(1, 3, run_id="m"), events(5, run_id="n"))

    async def indices(**wanted: object) -> list[int]:
        found = await store.read(FindEvents(root_run_id="r", **wanted))  # pyright: ignore[reportArgumentType]
        return [index for index, _ in found]

    assert await indices(after=2) == [3, 4, 5]
    assert await indices(limit=2) == [0, 1]
    assert await indices(run_ids=["m", "n"]) == [1, 3, 5]
    assert await indices(run_ids=[]) == []
    assert await indices(after=1, run_ids=["m", "r"], limit=2) == [2, 3]
    assert await store.read(FindEvents(root_run_id="unknown")) == []


async def test_a_store_is_closed_twice_and_opened_again(place: Place) -> None:
    async with place.store() as store:
        await done(store, put())
        await store.close()
        await store.close()
        await store.open()
        assert await store.read(FindRun(run_id="r"))


async def test_what_one_store_has_written_another_one_reads(place: Place) -> None:
    async with place.store() as ours, place.store() as theirs:
        await done(ours, put(new=True), Heartbeat(owner="me", seconds=60))
        assert (await theirs.read(FindRun(run_id="r"))).status == "RUNNING"
        assert await one(theirs, Reap()) == []
        assert isinstance(await one(theirs, replace(put(), fence=fence(owner="they"))), Fenced)


async def test_a_new_run_does_not_take_the_id_of_one_in_another_tree(store: Store) -> None:
    await done(store, put("one", new=True), put("m", root="one"))
    [rejected] = await store.apply([put("m", root="m", new=True)])
    assert isinstance(rejected, RunExists)
