"""What a batch costs in an SQL database, and what becomes of text that no column can keep."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from kern_async.db.base import (
    DeleteSession,
    FindEvents,
    FindRun,
    FindRuns,
    FindSession,
    FindSessions,
    FindTree,
    Heartbeat,
    ImportSession,
    PutEvents,
    Reap,
    Retire,
    Write,
)
from kern_async.exceptions import RunExists, WriteRejected

from .places import Place, all_of, done, one
from .statements import before_statements
from .writes import claim, events, fence, put, record, session_record

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)


@contextmanager
def counted() -> Generator[list[str]]:
    """The statements that are executed in the block, on any connection."""
    statements: list[str] = []
    with before_statements(statements.append):
        yield statements


def many(count: int) -> list[Write]:
    """Runs of many sessions with all that a run has, and their events."""
    writes: list[Write] = []
    for number in range(count // 2):
        run_id, session = f"r{number}", f"s{number % 50}"
        writes += [
            put(
                run_id,
                session=session,
                messages=[(0, "0"), (1, "1")],
                tools=[(0, "0")],
                output="1",
                state={"k": str(number), "gone": None},
            ),
            events(0, 1, 2, root=run_id),
        ]
    return writes


async def test_five_hundred_writes_cost_no_more_statements_than_a_few(sql_place: Place) -> None:
    async with sql_place.store() as store:
        await done(store, *many(4))
        with counted() as few:
            await done(store, *many(8))
        with counted() as statements:
            await done(store, *many(500))
        assert len(statements) <= len(few) + 1 <= 14, statements
        with counted() as statements:
            await done(store, *many(500))
        assert len(statements) <= 14
        assert len(await store.read(FindRuns(session_id="s7"))) == 5


async def test_deletions_claims_and_imports_are_bounded_too(sql_place: Place) -> None:
    writes: list[Write] = []
    for number in range(100):
        writes += [
            claim(f"r{number}", owner="me"),
            put(f"r{number}", session=f"s{number % 50}", attempt=1, status="COMPLETED"),
            ImportSession(
                session=session_record(f"i{number}"),
                runs=[record(f"i{number}", session=f"i{number}", messages=["0"])],
            ),
        ]
    writes += [DeleteSession(session_id=f"s{number}") for number in range(50)]
    writes += [Heartbeat(owner="me", seconds=9), Retire(owner="they"), Reap()]
    async with sql_place.store() as store:
        await done(
            store, *(put(f"r{number}", session=f"s{number % 50}", status="PAUSED") for number in range(100))
        )
        with counted() as statements:
            results = await store.apply(writes)
        assert results == [None] * 300 + [True] * 50 + [None, None, []]
        assert len(statements) <= 24, statements


async def test_reading_many_runs_costs_few_statements(sql_place: Place) -> None:
    async with sql_place.store() as store:
        await done(store, *many(500))
        with counted() as statements:
            await store.read(FindRuns(session_id="s1"))
            await store.read(FindSessions())
        assert len(statements) <= 7


async def test_a_batch_has_no_limit_that_a_database_has(sql_place: Place) -> None:
    """SQLite has 32,766 values in a statement at most, and Postgres 65,535."""
    async with sql_place.store() as store:
        assert set(await store.apply([events(root=f"r{number}") for number in range(66_000)])) == {None}


async def test_a_large_tree_is_written_read_and_deleted(sql_place: Place) -> None:
    names = [f"m{number}" for number in range(2_500)]
    indices = range(5_500)
    async with sql_place.store() as store:
        await done(store, *(put(name, root="r", messages=[(0, "0")]) for name in names), events(*indices))
        found = await store.read(FindEvents(root_run_id="r", limit=100_000))
        assert [index for index, _ in found] == [*indices]
        tree = await store.read(FindTree(root_run_id="r"))
        assert [(run.key.run_id, list(run.messages)) for run in tree] == [(name, ["0"]) for name in names]
        ended = [put(name, root="r", status="COMPLETED") for name in names]
        assert (await store.apply([*ended, DeleteSession(session_id="s")]))[-1] is True
        assert await all_of(store, FindEvents(root_run_id="r"), FindTree(root_run_id="r")) == [[], []]


UNSTORABLE = ["nul\0", "half of a pair \ud83d"]


@pytest.mark.parametrize("text", UNSTORABLE)
async def test_an_id_that_cannot_be_stored_is_refused_and_hinders_no_other(
    sql_place: Place, text: str
) -> None:
    writes = [
        put(text),
        put("m", root=text),
        put("x", session=text),
        put("x", user=text),
        put("x", owner=text),
        put("x", entity_id=text),
        put("x", status=text),
        events(0, root=text),
        events(0, root="r", run_id=text),
        claim(text),
        claim("r", owner=text),
        ImportSession(session=session_record(text), runs=[]),
        ImportSession(session=session_record("t"), runs=[record(text, session="t")]),
        ImportSession(session=session_record("t"), runs=[record("x", root=text, session="t")]),
        ImportSession(session=session_record("t"), runs=[], events=[("r", 9, text, "0")]),
        Heartbeat(owner=text, seconds=1),
        Retire(owner=text),
    ]
    async with sql_place.store() as store:
        await done(store, put("r"))
        results = await store.apply([*writes, events(1), DeleteSession(session_id=text)])
        assert [type(result) for result in results] == [WriteRejected] * len(writes) + [type(None), bool]
        assert all(repr(text) in str(result) and "cannot be stored" in str(result) for result in results[:-2])
        assert await store.read(FindEvents(root_run_id="r")) == [(1, '"event 1"')]
        assert [session.seed.session_id for session in await store.read(FindSessions())] == ["s"]


@pytest.mark.parametrize("text", UNSTORABLE)
async def test_nothing_is_found_under_an_id_that_cannot_be_stored(sql_place: Place, text: str) -> None:
    async with sql_place.store() as store:
        await done(store, put(), events(0))
        assert await all_of(
            store,
            FindRun(run_id=text),
            FindTree(root_run_id=text),
            FindSession(session_id=text),
            FindRuns(session_id=text),
            FindRuns(session_id="s", entity_id=text),
            FindSessions(user_id=text),
            FindSessions(entity_id=text),
            FindEvents(root_run_id=text),
        ) == [None, [], None, [], [], [], [], []]
        assert await store.read(FindEvents(root_run_id="r", run_ids=[text, "r"])) == [(0, '"event 0"')]


async def test_json_keeps_every_character(sql_place: Place) -> None:
    value = 'nul \0, half of a pair \ud83d, a whole one 😀, ü, "'
    raw = json.dumps(value, ensure_ascii=False).replace("\\u0000", "\0")  # as no JSON should be, yet may be
    writes = put(output=raw, resume=raw, messages=[(0, raw)], tools=[(0, raw)], state={"k": raw})
    async with sql_place.store() as store:
        await done(store, writes, PutEvents(fence=fence(), events=[(0, "r", raw)]))
        run, session, [(_, body)] = await all_of(
            store, FindRun(run_id="r"), FindSession(session_id="s"), FindEvents(root_run_id="r")
        )
    for text in (run.output, run.resume, run.messages[0], run.tools[0], session.state["k"], body):
        assert json.loads(text) == value


async def test_an_errors_words_are_kept_as_far_as_they_can_be(sql_place: Place) -> None:
    async with sql_place.store() as store:
        await done(store, put(status="ERROR", error_type="E\0", error="it \ud83d failed\0"))
        run = await store.read(FindRun(run_id="r"))
        assert (run.error_type, run.error) == ("E\ufffd", "it \ufffd failed\ufffd")


async def test_ids_are_compared_as_they_are(sql_place: Place) -> None:
    """No case folding, no Unicode normalisation, no trimming."""
    ids = ["r", "R", "r ", "é", "e\u0301", "%", "_"]
    async with sql_place.store() as store:
        await done(store, *(put(each, new=True) for each in ids))
        assert [run.key.run_id for run in await store.read(FindRuns(session_id="s"))] == ids
        for each in ids:
            assert isinstance(await one(store, put(each, new=True, owner="they")), RunExists)
