"""Runs and sessions in a Postgres database."""

from __future__ import annotations

from collections.abc import Hashable

from .base import Store
from .database import BaseDb
from .extras import check_installed

__all__ = ["PostgresDb"]


class PostgresDb(BaseDb):
    """A database of a Postgres server; tables whose names begin with `kern_` are made when it is first used.

    Needs the extra `postgres`. Any number of processes on any number of machines may use one database.

    Args:
        db_url: `postgresql://user:password@host:port/database`. What of it has a meaning in URLs is to be
            percent-encoded in a password.
        store_timeout: seconds that a run waits for its own data to be written.
        lease_seconds: how long a process that died counts as alive, in seconds.

    Raises:
        ConfigurationError: an argument makes no sense, or the extra is not installed.
        DatabaseUnusable: it is no URL of a Postgres database.
    """

    def __init__(self, db_url: str, *, store_timeout: float = 2.0, lease_seconds: float = 30.0) -> None:
        super().__init__(store_timeout=store_timeout, lease_seconds=lease_seconds)
        check_installed("PostgresDb", "postgres", "sqlalchemy", "psycopg")
        from .postgres_store import (
            PostgresStore,  # here: later it would block the event loop of the first run
        )
        from .postgres_url import name_of, parse

        self._make_store = PostgresStore
        self._url = parse(db_url)
        self._name = name_of(self._url)

    def __repr__(self) -> str:
        return f"PostgresDb({self._name!r})"

    @property
    def name(self) -> str:
        return self._name

    @property
    def key(self) -> Hashable:
        return self._url

    def make_store(self) -> Store:
        return self._make_store(self._url, self._name)
