"""Postgres: how to connect, how to notice that a server hangs, and what of its failures is for ever."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal, TypeVar

from sqlalchemy import Connection, bindparam, event, func, literal_column, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.types import Double

from .migrations import SCHEMA, Schema
from .sql import SqlStore, Work, opened
from .tables import Dialect

# The server itself gives up first, in its own words: what it does not say in time is cut off here.
CONNECT_SECONDS = 4
LOCK_SECONDS = 1.0
STATEMENT_SECONDS = 4.0
HANG_SECONDS = 5.0

_DIALECT = Dialect(
    insert=postgresql.insert,
    now=literal_column("extract(epoch from clock_timestamp())::float8", Double()),
    numbers=text("SELECT nextval('kern_run_numbers') FROM generate_series(1, :count)"),
    is_listed=lambda column: column.in_(bindparam("texts", expanding=True)),
    listed=list,
)

T = TypeVar("T")

_SCHEMA_LOCK = 0x6B65726E  # any number that no other program is likely to lock

# By class or code of SQLSTATE.
_FOR_EVER = {
    "28": "does not let this user in: check the user's name and password",
    "3D000": "does not exist: create the database, or name another one",
    "42501": "does not let this user create tables: grant it, or use another user",
    "3F000": "has no schema to create tables in: create one, or set the user's search_path",
}
_COLLISIONS = ("40001", "40P01")

# While connecting there is no SQLSTATE, only words, and unless the server speaks English they tell nothing.
_FOR_EVER_WORDS = {
    "password authentication failed": _FOR_EVER["28"],
    "no password supplied": _FOR_EVER["28"],
    "pg_hba.conf": "does not let this user in from here: see the server's pg_hba.conf",
    "is not permitted to log in": _FOR_EVER["28"],
    "does not exist": "does not exist: check the names of the user and of the database",
    "invalid connection option": "has an option in its URL that is none of Postgres",
    "failed to resolve host": "has a host that nobody knows: check its name",
}


class PostgresStore(SqlStore):
    """`Store` over a database of a server."""

    def __init__(self, url: URL, name: str, *, schema: Schema = SCHEMA) -> None:
        super().__init__(name, _DIALECT, schema=schema)
        self._url = url
        self._engine: AsyncEngine | None = None
        self._reading: AsyncEngine | None = None

    def _connect(self) -> None:
        limits = {
            "lock_timeout": LOCK_SECONDS,
            "statement_timeout": STATEMENT_SECONDS,
            "idle_in_transaction_session_timeout": STATEMENT_SECONDS,
        }
        defaults: dict[str, Any] = {
            "connect_timeout": CONNECT_SECONDS,
            "application_name": "kern_async",
            "options": " ".join(f"-c {name}={seconds * 1000:.0f}" for name, seconds in limits.items()),
        }
        engine = self._engine = create_async_engine(
            self._url,
            connect_args={name: value for name, value in defaults.items() if name not in self._url.query},
            isolation_level="READ COMMITTED",
            pool_size=1,
        )
        event.listen(engine.sync_engine, "before_cursor_execute", _renew)
        self._reading = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    async def _transact(self, purpose: Literal["read", "write"], work: Work[T]) -> T:
        engine = opened(self._reading if purpose == "read" else self._engine)
        async with engine.connect() as connection, _watch(connection), connection.begin():
            return await connection.run_sync(work)

    async def close(self) -> None:
        engine, self._engine, self._reading = self._engine, None, None
        if engine is not None:
            await engine.dispose()

    async def _settle(self) -> None:
        """Nothing is kept over connections."""

    def _lock(self, connection: Connection) -> None:
        for limit in ("lock_timeout", "statement_timeout"):
            connection.execute(text(f"SET LOCAL {limit} = 0"))  # however long it takes, it is done once
        connection.execute(select(func.pg_advisory_xact_lock(_SCHEMA_LOCK)))

    def _why_unusable(self, error: BaseException) -> str | None:
        if not isinstance(error, DBAPIError):
            # The name of a host that cannot be one.
            return _FOR_EVER_WORDS["failed to resolve host"] if isinstance(error, UnicodeError) else None
        code = getattr(error.orig, "sqlstate", None)
        if code:
            return _FOR_EVER.get(code) or _FOR_EVER.get(code[:2])
        words = str(error.orig)
        if f"[Errno {socket.EAI_AGAIN}]" in words:
            return None
        return next((why for known, why in _FOR_EVER_WORDS.items() if known in words), None)

    def _is_collision(self, error: DBAPIError) -> bool:
        return getattr(error.orig, "sqlstate", None) in _COLLISIONS


class _Fuse:
    """Cuts a connection when no statement of it has begun for so long that the server, or the way to it, hangs.

    Cancelling instead would first ask the server to agree.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(HANG_SECONDS, self._cut)

    def renew(self) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_later(HANG_SECONDS, self._cut)

    def remove(self) -> None:
        self._timer.cancel()

    def _cut(self) -> None:
        with suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as double:
            double.shutdown(socket.SHUT_RDWR)


_FUSE = "kern_fuse"


@asynccontextmanager
async def _watch(connection: AsyncConnection) -> AsyncGenerator[None]:
    raw = await connection.get_raw_connection()
    fuse = raw.info[_FUSE] = _Fuse(raw.driver_connection)
    try:
        yield
    finally:
        fuse.remove()


def _renew(connection: Connection, *_statement: object) -> None:
    if fuse := connection.info.get(_FUSE):
        fuse.renew()
