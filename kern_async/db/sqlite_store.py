"""SQLite: how its file is opened, and how its transactions begin.

Statements are executed in the writer's own thread. One of them takes microseconds, and a hop to another thread and
back, as an async driver makes two or three times for each, takes ten times that.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import stat
from pathlib import Path
from typing import Any, Literal, TypeVar

import anyio
from sqlalchemy import Connection, bindparam, create_engine, event, func, literal_column, select, text
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool
from sqlalchemy.types import Double

from kern_async.exceptions import DatabaseUnusable

from .migrations import SCHEMA, Schema
from .prepared import driver_of
from .sql import SqlStore, Work, opened
from .tables import Dialect

T = TypeVar("T")

BUSY_SECONDS = 1.0
"""How long a statement waits for another process's lock: a run that waits two seconds still hears of it."""

_DIALECT = Dialect(
    insert=sqlite.insert,
    now=literal_column("((julianday('now') - 2440587.5) * 86400.0)", Double()),
    numbers=text(
        "WITH RECURSIVE further (place) AS"
        " (SELECT 1 UNION ALL SELECT place + 1 FROM further WHERE place < :count)"
        " SELECT (SELECT coalesce(max(number), 0) FROM kern_runs) + place FROM further"
    ),
    # One statement, however many there are.
    is_listed=lambda column: column.in_(
        select(func.json_each(bindparam("texts")).table_valued("value").c.value)
    ),
    listed=json.dumps,
)

# What opening the file fails with as long as nobody does something about it.
_FOR_EVER = {
    errno.EACCES: "may not be read and written by this user: change its permissions, or use another file",
    errno.EPERM: "may not be read and written by this user: change its permissions, or use another file",
    errno.EROFS: "is on a file system that is read-only: use another file",
    errno.ENOENT: "cannot be made there: use a file in another directory",
    errno.ENOTDIR: "is below a file: use a file in a directory",
    errno.EISDIR: "is a directory: give the path of a file",
    errno.ELOOP: "is a link that leads to itself",
    errno.ENAMETOOLONG: "is too long for a path",
}


class SqliteStore(SqlStore):
    """`Store` over one file."""

    def __init__(self, file: Path, *, schema: Schema = SCHEMA) -> None:
        super().__init__(str(file), _DIALECT, schema=schema)
        self._file = file
        self._connection: Connection | None = None

    def _connect(self) -> None:
        _check_file(self._file)
        engine = create_engine(
            URL.create("sqlite", database=str(self._file)),
            connect_args={"timeout": BUSY_SECONDS},
            poolclass=NullPool,
        )
        event.listen(engine, "connect", _set_up)
        self._connection = engine.connect()

    async def _transact(self, purpose: Literal["read", "write"], work: Work[T]) -> T:
        # A transaction that reads first and writes then fails at once if another process has written in between.
        begin = "BEGIN" if purpose == "read" else "BEGIN IMMEDIATE"
        connection = opened(self._connection)
        with connection.begin():
            driver_of(connection).execute(begin)
            return work(connection)

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    async def _settle(self) -> None:
        """With a log of its own, readers and the writer of a file do not wait for each other."""
        driver = driver_of(opened(self._connection))
        until = anyio.current_time() + BUSY_SECONDS
        while True:
            try:
                driver.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.Error as error:
                # SQLite does not wait by itself for whoever makes the same change at this moment.
                if _code_of(error) != "SQLITE_BUSY" or anyio.current_time() > until:
                    raise
            await anyio.sleep(0.01)

    def _lock(self, connection: Connection) -> None:
        """The transaction has begun as one that writes: there is no other."""

    def _why_unusable(self, error: BaseException) -> str | None:
        code = _code_of(error)
        if code == "SQLITE_NOTADB":
            return "is not an SQLite database: use another file"
        if code.startswith("SQLITE_CORRUPT"):
            return "is a damaged SQLite database: restore it from a copy, or use another file"
        return None


def _code_of(error: BaseException) -> str:
    return getattr(getattr(error, "orig", error), "sqlite_errorname", "")


def _set_up(connection: Any, _record: object) -> None:
    # Left to itself, Python's sqlite3 begins a transaction late, and not for every kind of statement.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()


def _check_file(file: Path) -> None:
    """Open the file as SQLite would, whose own errors do not tell what is wrong.

    Raises:
        DatabaseUnusable: it is no file that can be read and written, and none can be made.
        OSError: any other failure.
    """
    directory = file.parent
    try:
        if not stat.S_ISDIR(directory.stat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "")
    except FileNotFoundError as error:
        raise DatabaseUnusable(
            f"{file}: there is no directory {directory}; make it, or use another file"
        ) from error
    except OSError as error:
        raise _unusable(file, error) from error
    try:
        if stat.S_IFMT(file.stat().st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
            raise DatabaseUnusable(f"{file} is not a regular file: use another one")
    except OSError:
        pass  # opening it tells
    try:
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644))
    except OSError as error:
        raise _unusable(file, error) from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise DatabaseUnusable(
            f"{file}: the directory may not be written by this user, and SQLite keeps files beside its own"
        )


def _unusable(file: Path, error: OSError) -> Exception:
    why = _FOR_EVER.get(error.errno or 0)
    return DatabaseUnusable(f"{file} {why}") if why else error
