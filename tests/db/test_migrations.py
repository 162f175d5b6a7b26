"""Databases of another version: older ones are brought up to date without a loss, newer ones are left alone."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from typing import Any

import anyio
import psycopg
import pytest
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream
from sqlalchemy import Column, Connection, MetaData, Sequence, Text, inspect, text

from kern_async.db.base import FindEvents, FindRun, FindRuns, FindSession, Store
from kern_async.db.migrations import SCHEMA, Schema
from kern_async.db.postgres_store import PostgresStore
from kern_async.db.sql import SqlStore
from kern_async.db.sqlite_store import SqliteStore
from kern_async.db.tables import run_numbers
from kern_async.exceptions import DatabaseUnusable

from .places import Place, PostgresPlace, SqlitePlace, all_of, done
from .writes import events, put

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)


def add_notes(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE kern_runs ADD COLUMN note TEXT"))
    connection.execute(text("UPDATE kern_runs SET note = 'of ' || run_id"))


def rename_messages(connection: Connection) -> None:
    """As one has to where a column cannot be changed: a new table, and the rows go over into it."""
    connection.execute(
        text(
            "CREATE TABLE kern_words (run_id TEXT, position INTEGER, body TEXT, PRIMARY KEY (run_id, position))"
        )
    )
    connection.execute(text("INSERT INTO kern_words SELECT run_id, position, body FROM kern_messages"))
    connection.execute(text("DROP TABLE kern_messages"))


def fail(connection: Connection) -> None:
    rename_messages(connection)
    connection.execute(text("SELECT * FROM nowhere"))


def with_note() -> MetaData:
    """The tables after `add_notes`."""
    metadata = MetaData()
    for table in SCHEMA.metadata.sorted_tables:
        table.to_metadata(metadata)
    Sequence(run_numbers.name, metadata=metadata)
    metadata.tables["kern_runs"].append_column(Column("note", Text))
    return metadata


def store_of(place: Place, schema: Schema) -> Store:
    database: Any = place.database()
    if isinstance(place, SqlitePlace):
        return SqliteStore(place.file, schema=schema)
    return PostgresStore(database.key, database.name, schema=schema)


@asynccontextmanager
async def opened(place: Place, schema: Schema) -> AsyncGenerator[Store]:
    store = store_of(place, schema)
    try:
        await store.open()
        yield store
    finally:
        await store.close()


def query(place: Place, statement: str) -> list[tuple[Any, ...]]:
    """As another program would."""
    if isinstance(place, SqlitePlace):
        with closing(sqlite3.connect(place.file)) as connection:
            return connection.execute(statement).fetchall()
    assert isinstance(place, PostgresPlace)
    with psycopg.connect(place.url) as connection:
        return connection.execute(statement.encode()).fetchall()


def set_version(place: Place, version: int) -> None:
    statement = f"UPDATE kern_schema SET version = {version}"
    if isinstance(place, SqlitePlace):
        with closing(sqlite3.connect(place.file, isolation_level=None)) as connection:
            connection.execute(statement)
    elif isinstance(place, PostgresPlace):
        with psycopg.connect(place.url, autocommit=True) as connection:
            connection.execute(statement.encode())


@pytest.fixture(params=["sqlite", "new_postgres"])
def fresh(request: pytest.FixtureRequest) -> Place:
    return request.getfixturevalue(request.param)


READS = (
    FindRuns(session_id="s"),
    FindSession(session_id="s"),
    FindEvents(root_run_id="r"),
    FindRun(run_id="m"),
)
VERSION_1 = Schema(SCHEMA.metadata, {})


async def fill(store: Store) -> list[Any]:
    await done(
        store,
        put("r", messages=[(0, "0"), (1, "1")], tools=[(0, "2")], output="3", state={"k": "4"}),
        put("m", root="r", status="ERROR", error_type="E", error="e", messages=[(0, "5")]),
        events(0, 1),
    )
    return await all_of(store, *READS)


async def test_an_older_database_is_brought_up_to_date_and_loses_nothing(fresh: Place) -> None:
    async with opened(fresh, VERSION_1) as store:
        before = await fill(store)
    async with opened(fresh, Schema(with_note(), {2: add_notes})) as store:
        assert await all_of(store, *READS) == before
        assert query(fresh, "SELECT version FROM kern_schema") == [(2,)]
        assert sorted(query(fresh, "SELECT run_id, note FROM kern_runs")) == [("m", "of m"), ("r", "of r")]
        await done(store, put("x"), events(2))


async def test_steps_are_taken_in_order_and_once(fresh: Place) -> None:
    async with opened(fresh, VERSION_1) as store:
        await fill(store)
    schema = Schema(with_note(), {3: rename_messages, 2: add_notes})
    for _ in range(2):
        async with opened(fresh, schema):
            pass
    assert query(fresh, "SELECT version FROM kern_schema") == [(3,)]
    assert query(fresh, "SELECT count(*) FROM kern_words") == [(3,)]


async def test_a_step_that_fails_leaves_the_version_before_it_whole(fresh: Place) -> None:
    async with opened(fresh, VERSION_1) as store:
        before = await fill(store)
    with pytest.raises(Exception, match="nowhere"):
        async with opened(fresh, Schema(with_note(), {2: add_notes, 3: fail})):
            pass
    assert query(fresh, "SELECT version FROM kern_schema") == [(2,)]
    assert query(fresh, "SELECT count(*) FROM kern_messages") == [(3,)]
    with pytest.raises(Exception, match="kern_words"):
        query(fresh, "SELECT * FROM kern_words")
    async with opened(fresh, Schema(with_note(), {2: add_notes})) as store:
        assert await all_of(store, *READS) == before


async def test_a_new_database_gets_the_newest_tables_at_once(fresh: Place) -> None:
    async with opened(fresh, Schema(with_note(), {2: fail})) as store:
        await fill(store)
    assert query(fresh, "SELECT version FROM kern_schema") == [(2,)]


async def test_a_newer_database_is_refused_and_not_touched(fresh: Place) -> None:
    async with opened(fresh, VERSION_1) as store:
        before = await fill(store)
    set_version(fresh, 7)
    file = fresh.file.read_bytes() if isinstance(fresh, SqlitePlace) else None
    for _ in range(2):
        with pytest.raises(DatabaseUnusable, match="schema version 7, and this kern_async knows 2") as caught:
            async with fresh.store():
                pass
    assert str(caught.value).startswith(fresh.database().name)
    assert query(fresh, "SELECT version FROM kern_schema") == [(7,)]
    if isinstance(fresh, SqlitePlace):
        assert fresh.file.read_bytes() == file
    set_version(fresh, SCHEMA.version)
    async with fresh.store() as store:
        assert await all_of(store, *READS) == before


def undo_names(connection: Connection) -> None:
    connection.execute(text("DROP INDEX kern_sessions_created_at"))
    for column in ("name", "metadata"):
        connection.execute(text(f"ALTER TABLE kern_sessions DROP COLUMN {column}"))


UNDO = {2: undo_names}
"""What makes a database of the version before of one of each version."""


async def test_steps_lead_to_the_tables_that_a_new_database_has(fresh: Place) -> None:
    """Whoever changes a table writes the step too, and the other way round."""
    assert sorted(SCHEMA.steps) == sorted(UNDO) == list(range(2, SCHEMA.version + 1))

    def shape(connection: Connection) -> dict[str, Any]:
        found = inspect(connection)
        return {
            name: (
                [(each["name"], str(each["type"]), each["nullable"]) for each in found.get_columns(name)],
                sorted(str(index["name"]) for index in found.get_indexes(name)),
            )
            for name in found.get_table_names()
        }

    async with fresh.store() as store:
        assert isinstance(store, SqlStore)
        new = await store._transact("read", shape)
        before = await fill(store)
        for version in sorted(UNDO, reverse=True):
            await store._transact("write", UNDO[version])
    set_version(fresh, 1)
    async with fresh.store() as store:
        assert isinstance(store, SqlStore)
        assert await store._transact("read", shape) == new
        assert await all_of(store, *READS) == before
        await done(store, put("x"), events(2))
    assert query(fresh, "SELECT version FROM kern_schema") == [(SCHEMA.version,)]
    assert {name: [each[0] for each in columns] for name, (columns, _) in new.items()} == {
        table.name: list(table.columns.keys()) for table in SCHEMA.metadata.sorted_tables
    }


OPEN = """
import asyncio, sys
from kern_async.db.base import FindRuns
from kern_async.db.postgres import PostgresDb
from kern_async.db.sqlite import SqliteDb
kind, where = sys.argv[1:]
store = (SqliteDb if kind == "sqlite" else PostgresDb)(where).make_store()
async def main():
    __import__("sqlalchemy.dialects." + ("sqlite.pysqlite" if kind == "sqlite" else "postgresql.psycopg"))
    print("ready", flush=True)
    sys.stdin.readline()
    await store.open()
    print(await store.read(FindRuns(session_id="s")), flush=True)
    sys.stdin.readline()
    await store.close()
asyncio.run(main())
"""


async def test_of_processes_that_open_a_new_database_at_once_all_succeed(fresh: Place) -> None:
    where = ["sqlite", str(fresh.file)] if isinstance(fresh, SqlitePlace) else ["postgres", fresh.url]  # pyright: ignore[reportAttributeAccessIssue]
    command = [sys.executable, "-c", OPEN, *where]

    async def say(process: Process, expected: bytes) -> None:
        assert process.stdout
        assert process.stdin
        assert await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", 1_000) == expected
        await process.stdin.send(b"\n")

    async with AsyncExitStack() as stack:
        processes: list[Process] = []
        for _ in range(3):
            process = await anyio.open_process(command, stderr=subprocess.STDOUT)
            processes.append(await stack.enter_async_context(process))
        for expected in (b"ready", b"[]"):
            async with anyio.create_task_group() as tasks:
                for process in processes:
                    tasks.start_soon(say, process, expected)
        for process in processes:
            assert await process.wait() == 0
