"""`Store` over an SQL database, in SQLAlchemy's words; what the databases do not share is in `sqlite` and `postgres`."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

from sqlalchemy import Connection, select
from sqlalchemy.exc import DBAPIError

from kern_async.exceptions import DatabaseUnusable

from .base import Read, Write
from .flush import OvertakenError, Tables
from .migrations import SCHEMA, Schema, check_version, take_step
from .reads import answer
from .tables import Dialect

_TRIES = 10
"""How often a batch begins anew because another process was in its way."""

T = TypeVar("T")
Work = Callable[[Connection], T]
"""What is done in one transaction."""


class SqlStore(ABC):
    """One database. Its subclasses say how to connect and hold a transaction, and which failures are for ever."""

    def __init__(self, name: str, dialect: Dialect, *, schema: Schema = SCHEMA) -> None:
        self._name = name
        self._schema = schema
        self._now = select(dialect.now)
        self._tables = Tables(dialect)
        self._ahead = self._last_stamp = 0.0

    async def open(self) -> None:
        await self.close()
        try:
            self._connect()
            await self._transact("read", self._check)
            await self._settle()
            version = -1
            while version < self._schema.version:
                version = await self._transact("write", self._take_step)
            self._ahead = await self._transact("read", self._clock) - time.time()
        except BaseException as error:
            await self.close()
            if why := self._why_unusable(error):
                raise DatabaseUnusable(f"{self._name} {why}") from error
            raise

    async def apply(self, writes: Sequence[Write]) -> list[Any]:
        for _ in range(_TRIES):
            try:
                return await self._transact("write", partial(self._write, writes))
            except OvertakenError:
                continue
            except DBAPIError as error:
                if not self._is_collision(error):
                    raise
        raise OvertakenError(f"other processes were in the way {_TRIES} times")

    async def read(self, read: Read) -> Any:
        return await self._transact("read", lambda connection: answer(connection, read))

    @abstractmethod
    async def close(self) -> None: ...

    # What is done in a transaction.

    def _check(self, connection: Connection) -> None:
        check_version(connection, self._name, self._schema)

    def _take_step(self, connection: Connection) -> int:
        return take_step(connection, self._schema, self._lock)

    def _clock(self, connection: Connection) -> float:
        return connection.execute(self._now).scalar_one()

    def _write(self, writes: Sequence[Write], connection: Connection) -> list[Any]:
        batch = self._tables.look(connection, writes, self._stamps())
        results = batch.walk(writes)
        self._tables.write(connection, batch)
        return results

    def _stamps(self) -> Iterator[float]:
        """The time by the database's clock, rising with each call: of two changes the later one is known."""
        while True:
            self._last_stamp = max(time.time() + self._ahead, self._last_stamp + 2e-6)
            yield self._last_stamp

    # What the databases do not share.

    @abstractmethod
    def _connect(self) -> None:
        """Be ready to connect; see `close`."""

    @abstractmethod
    async def _transact(self, purpose: Literal["read", "write"], work: Work[T]) -> T:
        """Do it in a transaction: one that writes keeps others from what it looks at, one that reads keeps nobody."""

    @abstractmethod
    async def _settle(self) -> None:
        """Set what the database keeps over connections, once its schema is known not to be newer."""

    @abstractmethod
    def _lock(self, connection: Connection) -> None:
        """Keep others who would change the schema out until the transaction ends."""

    @abstractmethod
    def _why_unusable(self, error: BaseException) -> str | None:
        """What is wrong with the database and what to do, if it cannot be opened with this error, now or later."""

    def _is_collision(self, error: DBAPIError) -> bool:
        """Whether another process was in the way, so that the same transaction may succeed now."""
        return False


def opened(engine: T | None) -> T:
    """The engine of a store that is open."""
    if engine is None:
        raise RuntimeError("the store is not open")
    return engine
