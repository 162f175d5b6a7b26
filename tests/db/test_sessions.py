"""What `db.base` says of sessions and of their runs, of every kind of database."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kern_async.db.base import (
    CountSessions,
    DeleteSession,
    FindEvents,
    FindOpenings,
    FindRun,
    FindRuns,
    FindSession,
    FindSessions,
    FindTree,
    ImportSession,
    Reap,
    SetSession,
    Store,
)
from kern_async.exceptions import Fenced, RunExists, SessionBusy, SessionExists

from .places import Place, all_of, done, one
from .writes import claim, events, put, record, seed, session_record

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)


async def run_ids(store: Store, session: str = "s", **wanted: Any) -> list[str]:
    return [run.key.run_id for run in await store.read(FindRuns(session_id=session, **wanted))]


async def session_ids(store: Store, **wanted: Any) -> list[str]:
    return [session.seed.session_id for session in await store.read(FindSessions(**wanted))]


async def test_a_session_is_made_with_the_first_run_of_it(store: Store) -> None:
    assert await store.read(FindSession(session_id="s")) is None
    await done(store, put("r", user="u", kind="team", entity_id="t"))
    session = await store.read(FindSession(session_id="s"))
    assert session.seed == seed("s", "u", kind="team", entity_id="t")
    assert session.created_at == session.updated_at > 1_700_000_000
    assert session.run_count == 1


async def test_a_later_run_of_a_session_only_updates_its_time(store: Store) -> None:
    await done(store, put("r", user="u"))
    first = await store.read(FindSession(session_id="s"))
    await done(store, put("x", user="u", kind="team", entity_id="t"))
    session = await store.read(FindSession(session_id="s"))
    assert (session.seed, session.created_at) == (first.seed, first.created_at)
    assert session.updated_at > first.updated_at


async def test_a_session_counts_its_root_runs(store: Store) -> None:
    await done(store, put("r"), put("m", root="r"), put("x"), put("y", session="t"))
    assert (await store.read(FindSession(session_id="s"))).run_count == 2
    assert [session.run_count for session in await store.read(FindSessions())] == [1, 2]


async def test_runs_of_one_session_write_only_their_own_keys_of_its_state(place: Place) -> None:
    async with place.store() as ours, place.store() as theirs:
        await done(ours, put("r", state={"a": "1", "b": "1", "c": "1"}))
        await done(theirs, put("x", owner="they", state={"b": "2", "d": "2"}))
        await done(ours, put("r", state={"a": "3", "c": None, "unknown": None}))
        assert (await theirs.read(FindSession(session_id="s"))).state == {"a": "3", "b": "2", "d": "2"}


@pytest.mark.parametrize("name", ["", "with 'quotes\"", "ünï 😀", "nul \0", "half \ud83d", "\\u0000"])
async def test_a_key_of_the_state_may_be_any_text(store: Store, name: str) -> None:
    await done(store, put(state={name: '"value"', "other": "1"}))
    assert (await store.read(FindSession(session_id="s"))).state == {name: '"value"', "other": "1"}
    await done(store, put(state={name: None}))
    assert (await store.read(FindSession(session_id="s"))).state == {"other": "1"}


# Runs of a session.


async def test_numbers_rise_in_the_order_in_which_runs_were_first_written(store: Store) -> None:
    await done(store, put("c"), put("a"), put("b"))
    await done(store, put("a"), put("0"))
    runs = await store.read(FindRuns(session_id="s"))
    assert [run.key.run_id for run in runs] == ["c", "a", "b", "0"]
    numbers = [run.number for run in runs]
    assert numbers == sorted(set(numbers))


async def test_a_tree_is_read_in_the_order_of_its_numbers(store: Store) -> None:
    await done(
        store,
        put("r", messages=[(0, "0")]),
        put("z", root="r"),
        put("x"),
        put("a", root="r", messages=[(0, "1")]),
    )
    tree = await store.read(FindTree(root_run_id="r"))
    assert [(run.key.run_id, list(run.messages)) for run in tree] == [("r", ["0"]), ("z", []), ("a", ["1"])]
    assert await store.read(FindTree(root_run_id="unknown")) == []


async def test_runs_are_found_by_what_is_asked_for(store: Store) -> None:
    await done(
        store,
        put("r", status="COMPLETED"),
        put("m", root="r", status="COMPLETED", entity_id="b"),
        put("t", kind="team"),
        put("p", status="PAUSED", entity_id="b"),
        put("q", status="PENDING"),
        put("z", session="other"),
    )
    assert await run_ids(store) == ["r", "m", "t", "p", "q"]
    assert await run_ids(store, kind="agent", entity_id="a") == ["r", "q"]
    assert await run_ids(store, kind="team") == ["t"]
    assert await run_ids(store, entity_id="b") == ["m", "p"]
    assert await run_ids(store, roots=True) == ["r", "t", "p", "q"]
    assert await run_ids(store, ended=True) == ["r", "m", "p"]
    assert await run_ids(store, last=2) == ["p", "q"]
    assert await run_ids(store, last=0) == []
    assert await run_ids(store, ended=True, roots=True, last=1) == ["p"]
    number = (await store.read(FindRun(run_id="p"))).number
    assert await run_ids(store, before=number) == ["r", "m", "t"]
    assert await run_ids(store, before=number, last=2, roots=True) == ["r", "t"]
    assert await run_ids(store, session="unknown") == []


# Sessions.


async def test_the_session_that_changed_last_comes_first(store: Store) -> None:
    await done(store, put("1", session="a"), put("2", session="b"), put("3", session="c"))
    assert await session_ids(store) == ["c", "b", "a"]
    await done(store, put("1", session="a"))
    assert await session_ids(store) == ["a", "c", "b"]
    await done(store, put("2", session="b"))
    await done(store, put("3", session="c"), put("1", session="a"))
    assert await session_ids(store) == ["a", "c", "b"]


async def test_sessions_are_found_by_what_is_asked_for(store: Store) -> None:
    await done(
        store,
        put("1", session="a", user="ann"),
        put("2", session="b", user="ann", kind="team"),
        put("3", session="c", user="bob", entity_id="b"),
        put("4", session="d"),
    )
    assert await session_ids(store, user_id="ann") == ["b", "a"]
    assert await session_ids(store, kind="agent") == ["d", "c", "a"]
    assert await session_ids(store, kind="agent", entity_id="a") == ["d", "a"]
    assert await session_ids(store, limit=2) == ["d", "c"]
    assert await session_ids(store, offset=1) == ["c", "b", "a"]
    assert await session_ids(store, limit=1, offset=2) == ["b"]
    assert await session_ids(store, user_id="nobody") == []


async def test_sessions_come_in_the_order_that_is_asked_for(store: Store) -> None:
    await done(
        store, put("1", session="a"), put("2", session="b"), put("3", session="c"), put("1", session="a")
    )
    assert await session_ids(store, by="created_at") == ["c", "b", "a"]
    assert await session_ids(store, by="created_at", first=True, limit=2) == ["a", "b"]
    assert await session_ids(store, by="updated_at", first=True) == ["b", "c", "a"]


async def test_sessions_are_found_by_a_part_of_their_name(store: Store) -> None:
    for session, name in (("a", "A hat"), ("b", "100% wool"), ("c", "Two HATS"), ("d", None)):
        await done(store, ImportSession(session=session_record(session, name=name), runs=[]))
    for part, found in (("hat", {"a", "c"}), ("0%", {"b"}), ("%", {"b"}), ("_", set()), ("x\0", set())):
        assert set(await session_ids(store, name=part)) == found
        assert await store.read(CountSessions(name=part)) == len(found)


async def test_sessions_are_counted_as_they_are_found(store: Store) -> None:
    assert await store.read(CountSessions()) == 0
    await done(
        store,
        put("1", session="a", user="ann"),
        put("2", session="b", user="ann", kind="team"),
        put("3", session="c", user="bob", entity_id="b"),
    )
    assert await store.read(CountSessions()) == 3
    assert await store.read(CountSessions(user_id="ann")) == 2
    assert await store.read(CountSessions(kind="agent", entity_id="b")) == 1
    assert await store.read(CountSessions(user_id="nobody")) == 0


async def test_a_sessions_opening_is_the_output_of_its_first_root_run(store: Store) -> None:
    await done(
        store,
        put("m", root="r", output="0"),
        put("r", output="1"),
        put("x", output="2"),
        put("y", session="t"),
        put("z", session="u", output="3"),
    )
    assert await store.read(FindOpenings(session_ids=["s", "t", "unknown", "\0"])) == {"s": "1", "t": None}
    assert await store.read(FindOpenings(session_ids=[])) == {}


async def test_runs_are_read_without_what_is_in_other_tables(store: Store) -> None:
    await done(store, put("r", output="1", messages=[(0, "2")], tools=[(0, "3")]))
    (bare,) = await store.read(FindRuns(session_id="s", bare=True))
    (whole,) = await store.read(FindRuns(session_id="s"))
    assert (list(whole.messages), list(whole.tools)) == (["2"], ["3"])
    assert bare == replace(whole, messages=[], tools=[])


# Changes.


async def test_a_session_is_changed_by_what_is_given_only(store: Store) -> None:
    await done(store, put("r", state={"k": "1", "l": "2"}), put("x", session="t", state={"k": "1"}))
    first = await store.read(FindSession(session_id="s"))
    assert (first.name, first.metadata) == (None, None)
    assert await one(store, SetSession(session_id="s", name="n", metadata='{"a":1}')) is True
    named = await store.read(FindSession(session_id="s"))
    assert named == replace(first, name="n", metadata='{"a":1}', updated_at=named.updated_at)
    assert named.updated_at > first.updated_at
    assert await one(store, SetSession(session_id="s", state={"l": "3", "m": "4"})) is True
    changed = await store.read(FindSession(session_id="s"))
    assert changed == replace(named, state={"l": "3", "m": "4"}, updated_at=changed.updated_at)
    await done(store, put("r", state={"k": "5"}))
    later = await store.read(FindSession(session_id="s"))
    assert (later.name, later.metadata) == ("n", '{"a":1}')
    assert later.state == {"k": "5", "l": "3", "m": "4"}
    other = await store.read(FindSession(session_id="t"))
    assert (other.name, other.state) == (None, {"k": "1"})


@pytest.mark.parametrize("session", ["unknown", "\0"])
async def test_a_session_that_is_not_stored_is_not_changed(store: Store, session: str) -> None:
    await done(store, put("r"))
    assert await one(store, SetSession(session_id=session, name="n", state={"k": "1"})) is False
    assert await session_ids(store) == ["s"]


async def test_changes_of_a_batch_keep_their_order(store: Store) -> None:
    await done(store, put("r", status="COMPLETED", state={"k": "1"}))
    new = session_record(name="new", state={"n": "1"})
    results = await store.apply(
        [
            put("r", status="COMPLETED", state={"l": "2"}),
            SetSession(session_id="s", name="x", state={"m": "3"}),
            put("r", status="COMPLETED", state={"m": None, "o": "4"}),
            SetSession(session_id="t", name="t"),
            ImportSession(session=session_record("t", state={"k": "0"}), runs=[]),
            SetSession(session_id="t", metadata="{}", state={"p": "5"}),
        ]
    )
    assert results == [None, True, None, False, None, True]
    changed, other = await all_of(store, FindSession(session_id="s"), FindSession(session_id="t"))
    assert (changed.name, changed.state) == ("x", {"o": "4"})
    assert (other.name, other.metadata, other.state) == (None, "{}", {"p": "5"})
    assert await store.apply(
        [
            DeleteSession(session_id="s"),
            ImportSession(session=new, runs=[]),
            SetSession(session_id="s", name="y"),
        ]
    ) == [True, None, True]
    again = await store.read(FindSession(session_id="s"))
    assert (again.name, again.state) == ("y", {"n": "1"})


# Imports.


async def test_a_session_is_imported_whole_and_owned_by_nobody(store: Store) -> None:
    session = session_record(
        state={"k": '"v"'}, created_at=3.25, updated_at=4.5, name="n", metadata='{"m":1}'
    )
    runs = [
        record("r", output="1", resume="2", messages=["3", "4"], tools=["5"], attempt=2),
        record("m", root="r", status="ERROR", error_type="E", error="e"),
    ]
    of_runs = [("r", 0, "r", '"start"'), ("r", 1, "m", '"end"')]
    await done(store, put("before", session="t"))
    assert await one(store, ImportSession(session=session, runs=runs, events=of_runs)) is None

    assert await store.read(FindSession(session_id="s")) == replace(session, run_count=1)
    root, member = await store.read(FindTree(root_run_id="r"))
    before = (await store.read(FindRun(run_id="before"))).number
    assert before < root.number < member.number
    assert replace(root, number=1, messages=list(root.messages), tools=list(root.tools)) == replace(
        runs[0], owner=None
    )
    assert (member.status, member.error_type, member.error, member.owner) == ("ERROR", "E", "e", None)
    assert await store.read(FindEvents(root_run_id="r")) == [(0, '"start"'), (1, '"end"')]


async def test_an_imported_run_is_written_only_after_a_claim(store: Store) -> None:
    await done(store, ImportSession(session=session_record(), runs=[record("r", status="PAUSED")]))
    assert isinstance(await one(store, put("r")), Fenced)
    await done(store, claim("r", owner="me"), put("r", attempt=1, status="COMPLETED"))
    assert (await store.read(FindRun(run_id="r"))).status == "COMPLETED"


async def test_an_import_of_a_stored_session_is_refused_as_a_whole(store: Store) -> None:
    await done(store, put("x"))
    write = ImportSession(session=session_record(), runs=[record("r")], events=[("r", 0, "r", "0")])
    assert isinstance(await one(store, write), SessionExists)
    assert await all_of(store, FindRun(run_id="r"), FindEvents(root_run_id="r")) == [None, []]


async def test_an_import_of_a_stored_run_is_refused_as_a_whole(store: Store) -> None:
    await done(store, put("m", root="x", session="t", output="1"))
    write = ImportSession(
        session=session_record(), runs=[record("r"), record("m", root="r")], events=[("r", 0, "r", "0")]
    )
    assert isinstance(await one(store, write), RunExists)
    reads = FindSession(session_id="s"), FindRun(run_id="r"), FindEvents(root_run_id="r")
    assert await all_of(store, *reads) == [None, None, []]
    assert (await store.read(FindRun(run_id="m"))).output == "1"


# Deletions.


async def test_a_session_is_deleted_with_all_that_belongs_to_it(store: Store) -> None:
    for name, session in (("r", "s"), ("x", "t")):
        await done(
            store,
            put(
                name,
                session=session,
                status="COMPLETED",
                messages=[(0, "0")],
                tools=[(0, "0")],
                state={"k": "1"},
            ),
            put(f"{name}m", root=name, session=session, status="ERROR", messages=[(0, "0")]),
            events(0, root=name),
        )
    assert await one(store, DeleteSession(session_id="s")) is True
    assert await one(store, DeleteSession(session_id="s")) is False
    reads = (
        FindSession(session_id="s"),
        FindRun(run_id="r"),
        FindRun(run_id="rm"),
        FindEvents(root_run_id="r"),
    )
    assert await all_of(store, *reads) == [None, None, None, []]

    await done(store, put("r", new=True, owner="another"))
    run = await store.read(FindRun(run_id="r"))
    assert (list(run.messages), list(run.tools)) == ([], [])
    assert (await store.read(FindSession(session_id="s"))).state == {}

    assert (await store.read(FindSession(session_id="t"))).state == {"k": "1"}
    assert [list(run.messages) for run in await store.read(FindTree(root_run_id="x"))] == [["0"], ["0"]]
    assert len(await store.read(FindEvents(root_run_id="x"))) == 1


async def test_a_session_that_is_not_stored_is_not_deleted(store: Store) -> None:
    assert await one(store, DeleteSession(session_id="s")) is False


@pytest.mark.parametrize("status", ["PENDING", "RUNNING"])
async def test_a_session_with_a_live_run_is_not_deleted(store: Store, status: str) -> None:
    await done(store, put("r", status="COMPLETED"), put("m", root="r", status=status))
    assert isinstance(await one(store, DeleteSession(session_id="s")), SessionBusy)
    assert await run_ids(store) == ["r", "m"]


async def test_deletions_and_writes_of_one_batch_keep_their_order(store: Store) -> None:
    await done(store, put("r", status="COMPLETED", output="1", messages=[(0, "0"), (1, "1")]), events(0, 1))
    results = await store.apply(
        [
            put("r", output="2"),
            DeleteSession(session_id="s"),
            put("r", status="PAUSED"),
            events(2),
            DeleteSession(session_id="s"),
            DeleteSession(session_id="s"),
            put("r", new=True, owner="they", messages=[(0, "new")], state={"k": "1"}),
            events(7, owner="they"),
        ]
    )
    assert [result if result is None or isinstance(result, bool) else type(result) for result in results] == [
        None,
        SessionBusy,
        None,
        None,
        True,
        False,
        None,
        None,
    ]
    run = await store.read(FindRun(run_id="r"))
    assert (run.owner, run.output, list(run.messages)) == ("they", None, ["new"])
    assert await store.read(FindEvents(root_run_id="r")) == [(7, '"event 7"')]
    assert (await store.read(FindSession(session_id="s"))).state == {"k": "1"}


async def test_what_a_batch_has_written_it_may_delete(store: Store) -> None:
    results = await store.apply(
        [
            put("r", status="COMPLETED", messages=[(0, "0")], state={"k": "1"}),
            events(0),
            DeleteSession(session_id="s"),
            ImportSession(session=session_record("t"), runs=[record("x", session="t")]),
            DeleteSession(session_id="t"),
            Reap(),
        ]
    )
    assert results == [None, None, True, None, True, []]
    assert await session_ids(store) == []
    assert await all_of(store, FindRun(run_id="r"), FindRun(run_id="x"), FindEvents(root_run_id="r")) == [
        None,
        None,
        [],
    ]
