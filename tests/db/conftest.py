"""Databases that are closed after the test, of every kind."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import pytest

from kern_async.db import serving
from kern_async.db.base import Store

from .places import MemoryPlace, Place, PostgresPlace, Server, SqlitePlace, server
from .stores import ScriptedDb


@pytest.fixture
def db() -> Generator[ScriptedDb]:
    db = ScriptedDb()
    yield db
    db.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failures are got over in milliseconds."""
    times: dict[str, Any] = {"_FIRST_PAUSE": 0.001, "_LONGEST_PAUSE": 0.002, "_REST": 0.05, "HANG": 0.1}
    for name, seconds in times.items():
        monkeypatch.setattr(serving, name, seconds)


@pytest.fixture(scope="session")
def postgres_server() -> Generator[Server]:
    """One for all tests of this process."""
    with server() as running:
        yield running


@pytest.fixture
def sqlite(tmp_path: Path) -> SqlitePlace:
    return SqlitePlace(tmp_path / "kern.db")


@pytest.fixture
def postgres(postgres_server: Server) -> PostgresPlace:
    return postgres_server.empty_database()


@pytest.fixture
def new_postgres(postgres_server: Server) -> PostgresPlace:
    """A database without tables."""
    return postgres_server.new_database()


@pytest.fixture
def keyed_user(postgres_server: Server) -> str:
    """A user who needs a password to come in, and has no rights."""
    rules = postgres_server.directory / "pg_hba.conf"
    rule = "local all keyed scram-sha-256\nlocal all banned reject\n"
    if not rules.read_text().startswith(rule):
        rules.write_text(rule + rules.read_text())
        postgres_server.run(
            "CREATE USER keyed PASSWORD 's3cret'", "CREATE USER banned", "SELECT pg_reload_conf()"
        )
    return "keyed"


@pytest.fixture(params=["in_memory", "sqlite", "postgres"])
def place(request: pytest.FixtureRequest) -> Place:
    """A fresh database of each kind."""
    return MemoryPlace() if request.param == "in_memory" else request.getfixturevalue(request.param)


@pytest.fixture(params=["sqlite", "postgres"])
def sql_place(request: pytest.FixtureRequest) -> Place:
    return request.getfixturevalue(request.param)


@pytest.fixture
async def store(place: Place) -> AsyncGenerator[Store]:
    async with place.store() as store:
        yield store
