"""A database that several processes use, looked at with its own client too."""

from __future__ import annotations

import sqlite3
from typing import Any

import psycopg
import pytest

from kern_async.db.database import BaseDb
from kern_async.db.postgres import PostgresDb
from kern_async.db.sqlite import SqliteDb

ONE_LOOP = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
"""For what is about databases and processes, whatever the loop."""


class Place:
    """`spec` is a file or a URL: what another process is told."""

    def __init__(self, spec: str) -> None:
        self.spec = spec

    @property
    def is_file(self) -> bool:
        return "://" not in self.spec

    def database(self, **options: Any) -> BaseDb:
        return SqliteDb(self.spec, **options) if self.is_file else PostgresDb(self.spec, **options)

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """What the database's own client says, without any of our code."""
        if not self.is_file:
            with psycopg.connect(self.spec) as connection:
                return connection.execute(query.encode()).fetchall()
        connection = sqlite3.connect(self.spec)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()

    def statuses(self, roots: bool = True) -> dict[str, str]:
        """The status of each root run, or of each run, by its id."""
        where = "WHERE parent_run_id IS NULL" if roots else ""
        return dict(self.ask(f"SELECT run_id, status FROM kern_runs {where}"))

    def events(self) -> set[tuple[str, int]]:
        """All stored events: whose root's, and which."""
        return set(self.ask("SELECT root_run_id, event_index FROM kern_events"))

    def check_whole(self) -> None:
        if self.is_file:
            assert self.ask("PRAGMA integrity_check") == [("ok",)]
