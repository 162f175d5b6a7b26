"""What is SQLite's own: its file, its transactions, its locks."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import pytest

from kern_async.db.base import FindEvents, FindRun, FindRuns
from kern_async.db.sqlite import AsyncSqliteDb, SqliteDb
from kern_async.db.sqlite_store import SqliteStore
from kern_async.exceptions import ConfigurationError, DatabaseUnusable

from .places import SqlitePlace, done
from .statements import before_statements
from .writes import events, put

on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)


def connect(file: Path, **options: Any) -> closing[sqlite3.Connection]:
    """A connection of another program."""
    return closing(sqlite3.connect(file, isolation_level=None, **options))


@on_asyncio
async def test_a_transaction_that_writes_begins_as_one(sqlite: SqlitePlace) -> None:
    """From its first statement on nobody else writes, and what it writes is seen as a whole or not at all."""
    async with sqlite.store() as store:
        await done(store, put("r"))
        seen: list[str] = []
        with connect(sqlite.file, timeout=0) as other:

            def look(_: str) -> None:
                (count,) = other.execute("SELECT count(*) FROM kern_runs").fetchone()
                with pytest.raises(sqlite3.OperationalError, match="locked"):
                    other.execute("BEGIN IMMEDIATE")
                seen.append(f"{count} runs")

            with before_statements(look):
                await done(store, put("x"), put("y"))
        assert len(seen) == 5
        assert set(seen) == {"1 runs"}
        assert len(await store.read(FindRuns(session_id="s"))) == 3


@on_asyncio
async def test_a_batch_that_fails_has_written_nothing(sqlite: SqlitePlace) -> None:
    async with sqlite.store() as store:
        await done(store, put("r"))
        with connect(sqlite.file) as other:
            other.execute(
                "CREATE TRIGGER no BEFORE INSERT ON kern_events BEGIN SELECT raise(ABORT, 'no events today'); END"
            )
            with pytest.raises(Exception, match="no events today"):
                await store.apply([put("r", output="1"), put("x", messages=[(0, "0")]), events(0)])
            assert (await store.read(FindRun(run_id="r"))).output is None
            assert await store.read(FindRun(run_id="x")) is None
            other.execute("DROP TRIGGER no")
        await done(store, put("x"), events(0))


@on_asyncio
async def test_a_reader_hinders_no_writer_and_sees_one_state(sqlite: SqlitePlace) -> None:
    async with sqlite.store() as store:
        await done(store, put("r"))
        with connect(sqlite.file, timeout=0) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT count(*) FROM kern_runs").fetchone() == (1,)
            await done(store, put("x"))
            assert reader.execute("SELECT count(*) FROM kern_runs").fetchone() == (1,)
            reader.execute("COMMIT")
            assert reader.execute("SELECT count(*) FROM kern_runs").fetchone() == (2,)


@on_asyncio
async def test_a_writer_hinders_no_reader(sqlite: SqlitePlace) -> None:
    async with sqlite.store() as store:
        await done(store, put("r"))
        with connect(sqlite.file) as writer:
            writer.execute("BEGIN EXCLUSIVE")
            with anyio.fail_after(1):
                assert await store.read(FindRun(run_id="r"))


@on_asyncio
async def test_a_locked_file_says_so_before_a_run_gives_up(sqlite: SqlitePlace) -> None:
    async with sqlite.store() as store:
        with connect(sqlite.file) as other:
            other.execute("BEGIN IMMEDIATE")
            with anyio.fail_after(1.9), pytest.raises(sqlite3.OperationalError, match="database is locked"):
                await store.apply([put("r")])
            other.execute("COMMIT")
        await done(store, put("r"))


@on_asyncio
async def test_a_commit_is_on_the_disk_before_it_is_answered(sqlite: SqlitePlace) -> None:
    async with sqlite.store() as store:
        assert isinstance(store, SqliteStore)
        assert store._connection is not None
        pragmas = [
            store._connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous")
        ]
        store._connection.rollback()
        assert pragmas == ["wal", 2]  # FULL


@on_asyncio
async def test_nothing_is_left_beside_the_file_after_a_close(sqlite: SqlitePlace) -> None:
    async with sqlite.store() as store:
        await done(store, put("r"), events(0))
    assert [file.name for file in sqlite.file.parent.iterdir()] == ["kern.db"]
    with connect(sqlite.file) as other:
        assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@on_asyncio
async def test_an_empty_file_is_a_new_database(sqlite: SqlitePlace) -> None:
    sqlite.file.touch()
    async with sqlite.store() as store:
        await done(store, put("r"))


@on_asyncio
async def test_tables_of_others_in_the_file_are_left_alone(sqlite: SqlitePlace) -> None:
    with connect(sqlite.file) as other:
        other.execute("CREATE TABLE runs (mine TEXT)")
        other.execute("INSERT INTO runs VALUES ('kept')")
    async with sqlite.store() as store:
        await done(store, put("r"))
    with connect(sqlite.file) as other:
        assert other.execute("SELECT * FROM runs").fetchall() == [("kept",)]


# What cannot be used.


async def make(place: SqlitePlace) -> None:
    async with place.store():
        pass


def contents(file: Path) -> Any:
    """What is at that path, and in it."""
    try:
        return file.read_bytes() if file.is_file() else file.exists()
    except OSError as error:
        return error.errno


def refusal(file: Path) -> str:
    """What opening it says; nothing has changed by that."""

    async def refused() -> str:
        store = SqliteDb(file).make_store()
        for _ in range(2):
            with pytest.raises(DatabaseUnusable) as caught:
                await store.open()
        await store.close()
        return str(caught.value)

    before = contents(file)
    said = anyio.run(refused)
    assert contents(file) == before
    assert str(file) in said
    return said


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("these are notes\n" * 1000)
    assert "is not an SQLite database" in refusal(file)
    assert list(tmp_path.iterdir()) == [file]


def test_a_database_that_is_damaged(sqlite: SqlitePlace) -> None:
    anyio.run(make, sqlite)
    with sqlite.file.open("r+b") as file:
        file.seek(100)  # the root of all tables
        file.write(b"\xff" * 4000)
    assert "damaged" in refusal(sqlite.file)


def test_a_directory(tmp_path: Path) -> None:
    assert "is a directory" in refusal(tmp_path)


def test_a_missing_directory(tmp_path: Path) -> None:
    file = tmp_path / "missing" / "kern.db"
    assert f"there is no directory {tmp_path / 'missing'}; make it" in refusal(file)
    assert not file.parent.exists()


def test_a_path_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refusal(tmp_path / "file" / "kern.db")


def test_a_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refusal(tmp_path / "pipe")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    assert "too long" in refusal(tmp_path / ("k" * 300))


@pytest.mark.skipif(sys.platform != "linux", reason="a file system that nobody writes to")
def test_a_place_where_no_file_can_be_made() -> None:
    assert "cannot be made there" in refusal(Path(f"/proc/{os.getpid()}/kern.db"))


ONLY_READ = """
import asyncio, os, sys
from pathlib import Path
import sqlalchemy.dialects.sqlite.pysqlite  # before this user may no longer read them
from kern_async.db.sqlite_store import SqliteStore
from kern_async.exceptions import DatabaseUnusable
file = Path(sys.argv[1])
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
try:
    asyncio.run(SqliteStore(file).open())
except DatabaseUnusable as error:
    print(error)
"""


@pytest.mark.parametrize("what", ["file", "directory", "new", "hidden"])
def test_a_file_that_this_user_may_not_write(what: str) -> None:
    with TemporaryDirectory() as above:
        Path(above).chmod(0o755)
        directory = Path(above, "theirs")
        directory.mkdir()
        file = directory / "kern.db"
        if what != "new":
            anyio.run(make, SqlitePlace(file))
            file.chmod(0o444 if what == "file" else 0o666)
        directory.chmod({"file": 0o777, "directory": 0o555, "new": 0o555, "hidden": 0o000}[what])
        command = [sys.executable, "-c", ONLY_READ, str(file)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        directory.chmod(0o755)
        assert str(file) in result.stdout, result.stderr
        assert "may not be" in result.stdout
        assert [each.name for each in directory.iterdir()] == ([] if what == "new" else ["kern.db"])


# What users write.


@pytest.mark.parametrize(
    ("db_file", "words"),
    [
        (":memory:", "InMemoryDb"),
        ("file:kern.db?mode=memory", "InMemoryDb"),
        ("sqlite:///kern.db", "not a URL"),
        ("", "path of a file"),
        ("nul\0", "path of a file"),
        (None, "path of a file"),
    ],
)
def test_what_is_no_path_is_refused_at_once(db_file: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        SqliteDb(db_file)


def test_a_relative_path_is_that_of_the_moment_when_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    database = SqliteDb()
    monkeypatch.chdir("/")
    assert database.db_file == tmp_path.resolve() / "kern.db"
    assert database.name == str(database.db_file)
    assert repr(database) == f"SqliteDb({database.name!r})"


def test_two_ways_to_say_one_file_are_one_database(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "kern.db")
    one = SqliteDb(tmp_path / "kern.db")
    assert one.key == SqliteDb(str(tmp_path / "." / "kern.db")).key == SqliteDb(tmp_path / "link.db").key
    assert one.key != SqliteDb(tmp_path / "other.db").key
    assert AsyncSqliteDb is SqliteDb


@on_asyncio
async def test_an_event_may_be_large(sqlite: SqlitePlace) -> None:
    body = '"' + "x" * 5_000_000 + '"'
    async with sqlite.store() as store:
        await done(store, put("r", output=body, messages=[(0, body)]))
        assert (await store.read(FindRun(run_id="r"))).output == body
        assert await store.read(FindEvents(root_run_id="r")) == []
