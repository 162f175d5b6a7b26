"""Runs and sessions in one file."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path

from kern_async.exceptions import ConfigurationError

from .base import Store
from .database import BaseDb
from .extras import check_installed

__all__ = ["AsyncSqliteDb", "SqliteDb"]


class SqliteDb(BaseDb):
    """A database in an SQLite file, which is made when it is first used. Needs the extra `sql`.

    Several processes of one machine may use one file. Beside it there are files of the same name with `-wal` and
    `-shm` while it is in use.

    Args:
        db_file: the file; a relative path is taken from the directory that is current now.
        store_timeout: seconds that a run waits for its own data to be written.
        lease_seconds: how long a process that died counts as alive, in seconds.

    Raises:
        ConfigurationError: an argument makes no sense, or the extra is not installed.
    """

    def __init__(
        self,
        db_file: str | Path = "kern.db",
        *,
        store_timeout: float = 2.0,
        lease_seconds: float = 30.0,
    ) -> None:
        super().__init__(store_timeout=store_timeout, lease_seconds=lease_seconds)
        check_installed("SqliteDb", "sql", "sqlalchemy")
        self.db_file = _file(db_file)
        from .sqlite_store import SqliteStore  # here: later it would block the event loop of the first run

        self._make_store = SqliteStore

    def __repr__(self) -> str:
        return f"SqliteDb({str(self.db_file)!r})"

    @property
    def name(self) -> str:
        return str(self.db_file)

    @property
    def key(self) -> Hashable:
        return self.db_file

    def make_store(self) -> Store:
        return self._make_store(self.db_file)


AsyncSqliteDb = SqliteDb


def _file(db_file: str | Path) -> Path:
    if not isinstance(db_file, (str, Path)):
        raise ConfigurationError(f"db_file is {db_file!r}; it is the path of a file")
    text = str(db_file)
    if text == ":memory:" or text.startswith("file:"):
        raise ConfigurationError(
            f"db_file is {text!r}: SqliteDb keeps a file, give its path; "
            "for a database in memory use kern_async.db.in_memory.InMemoryDb()"
        )
    if "://" in text:
        raise ConfigurationError(f"db_file is {text!r}: give the path of the file, not a URL")
    if not text or "\0" in text:
        raise ConfigurationError(f"db_file is {text!r}; it is the path of a file")
    return Path(db_file).resolve()
