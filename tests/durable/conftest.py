"""Real stores, and the same for processes of their own."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from kern_async.db.database import BaseDb
from kern_async.db.in_memory import InMemoryDb

from ..db.conftest import keyed_user, postgres_server
from ..db.places import Server
from .places import Place

__all__ = ["keyed_user", "postgres_server"]


@pytest.fixture
def sqlite(tmp_path: Path) -> Place:
    return Place(str(tmp_path / "kern.db"))


@pytest.fixture
def postgres(postgres_server: Server) -> Place:
    return Place(postgres_server.new_database().url)


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest) -> Place:
    """A fresh database that outlives processes."""
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def db(request: pytest.FixtureRequest) -> Generator[BaseDb]:
    """A fresh database of each kind, closed after the test."""
    db = (
        InMemoryDb(store_timeout=30)
        if request.param == "memory"
        else request.getfixturevalue(request.param).database(store_timeout=30)
    )
    yield db
    db.close()
