"""What passes and what does not is told by the drivers' own exceptions."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
import sqlalchemy.exc as sa_exc

from kern_async.db.failures import code_of, passes, store_error, words_of
from kern_async.exceptions import DatabaseUnusable, StoreError


def full(path: Path) -> None:
    connection = sqlite3.connect(path / "db")
    try:
        connection.execute("CREATE TABLE t (x)")
        connection.execute("PRAGMA max_page_count=2")
        connection.execute("INSERT INTO t VALUES (?)", ["x" * 100_000])
    finally:
        connection.close()


def locked(path: Path) -> None:
    one, other = sqlite3.connect(path / "db"), sqlite3.connect(path / "db", timeout=0)
    try:
        one.execute("CREATE TABLE t (x)")
        one.execute("BEGIN EXCLUSIVE")
        other.execute("SELECT * FROM t")
    finally:
        one.close()
        other.close()


def no_directory(path: Path) -> None:
    sqlite3.connect(path / "nowhere" / "db")


def read_only(path: Path) -> None:
    connection = sqlite3.connect(path / "db")
    try:
        connection.execute("PRAGMA query_only=1")
        connection.execute("CREATE TABLE t (x)")
    finally:
        connection.close()


def no_table(path: Path) -> None:
    connection = sqlite3.connect(path / "db")
    try:
        connection.execute("INSERT INTO t VALUES (1)")
    finally:
        connection.close()


def unfit(path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{path / 'db'}")
    try:
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT :x"), {"x": object()})
    finally:
        engine.dispose()


def too_large(path: Path) -> None:
    connection = sqlite3.connect(path / "db")
    try:
        connection.execute("SELECT ?", [2**70])
    finally:
        connection.close()


def wrapped_full(path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{path / 'db'}")
    try:
        with engine.connect() as connection:
            connection.execute(sa.text("CREATE TABLE t (x)"))
            connection.execute(sa.text("PRAGMA max_page_count=2"))
            connection.execute(sa.text("INSERT INTO t VALUES (:x)"), {"x": "secret" * 100_000})
    finally:
        engine.dispose()


def caught(cause: Callable[[Path], None], path: Path) -> Exception:
    with pytest.raises(Exception) as info:
        cause(path)
    return info.value


@pytest.mark.parametrize("cause", [full, locked, no_directory, read_only, wrapped_full])
def test_the_state_of_an_sqlite_database_passes(cause: Callable[[Path], None], tmp_path: Path) -> None:
    assert passes(caught(cause, tmp_path))


@pytest.mark.parametrize("cause", [no_table, unfit, too_large])
def test_what_sqlite_cannot_take_does_not(cause: Callable[[Path], None], tmp_path: Path) -> None:
    assert not passes(caught(cause, tmp_path))


@pytest.mark.parametrize(
    "error",
    [
        psycopg.errors.DiskFull(),
        psycopg.errors.DeadlockDetected(),
        psycopg.errors.SerializationFailure(),
        psycopg.errors.AdminShutdown(),
        psycopg.errors.TooManyConnections(),
        psycopg.errors.LockNotAvailable(),
        psycopg.errors.ReadOnlySqlTransaction(),
        psycopg.OperationalError("server closed the connection unexpectedly"),
        sa_exc.OperationalError("INSERT", {}, psycopg.OperationalError("the connection is closed")),
        sa_exc.DBAPIError("INSERT", {}, ValueError("?"), connection_invalidated=True),
        ConnectionRefusedError(),
        TimeoutError(),
        PermissionError(),
    ],
)
def test_the_state_of_a_server_passes(error: Exception) -> None:
    assert passes(error)


@pytest.mark.parametrize(
    "error",
    [
        psycopg.errors.UntranslatableCharacter(),
        psycopg.errors.NotNullViolation(),
        psycopg.errors.ProgramLimitExceeded(),
        psycopg.errors.UndefinedTable(),
        psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes"),
        sa_exc.DataError("INSERT", {}, psycopg.DataError("NUL")),
        ValueError(),
        RuntimeError(),
    ],
)
def test_what_a_server_cannot_take_does_not(error: Exception) -> None:
    assert not passes(error)


def test_a_failure_is_named_by_its_innermost_cause_and_its_code(tmp_path: Path) -> None:
    error = caught(wrapped_full, tmp_path)
    assert words_of(error) == "OperationalError: database or disk is full"
    assert code_of(error) == "SQLITE_FULL"
    assert code_of(psycopg.errors.DiskFull()) == "53100"
    assert code_of(FileNotFoundError(2, "No such file")) == "2"
    assert code_of(ValueError()) is None
    assert words_of(ValueError()) == "ValueError"
    assert words_of(ValueError("one\nsecret")) == "ValueError: one"
    assert len(words_of(ValueError("x" * 1_000))) < 400


def test_an_error_of_ours_keeps_its_kind_and_is_a_new_one() -> None:
    unusable = DatabaseUnusable("no directory")
    again = store_error("db", unusable)
    assert type(again) is DatabaseUnusable
    assert again is not unusable
    assert again.__cause__ is unusable
    other = store_error("db", ValueError("?"))
    assert type(other) is StoreError
    assert str(other) == "db: ValueError: ?"
