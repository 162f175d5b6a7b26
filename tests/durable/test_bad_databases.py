"""A database that can never be used says so at the call, by its name, and nothing has begun."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from kern_async import Agent
from kern_async.db.database import BaseDb
from kern_async.db.postgres import PostgresDb
from kern_async.db.sqlite import SqliteDb
from kern_async.engine.registry import get_active_runs
from kern_async.exceptions import DatabaseUnusable

from ..db.places import Server
from .places import ONE_LOOP
from .whole import WholeModel


def no_database(path: Path) -> str:
    path.write_text("This is a letter to a friend, and no database at all. " * 40)
    return "is not an SQLite database"


def a_directory(path: Path) -> str:
    path.mkdir()
    return "is a directory"


def below_nothing(path: Path) -> str:
    path.parent.rmdir()
    return "there is no directory"


def newer(path: Path) -> str:
    db = SqliteDb(path)
    assert Agent(model=WholeModel("m"), db=db).list_sessions() == []
    db.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE kern_schema SET version = version + 1")
    connection.close()
    return "newer"


FILES = (no_database, a_directory, below_nothing, newer)


async def awaited(agent: Agent) -> None:
    await agent.arun("Go.")


async def streamed(agent: Agent) -> None:
    agent.arun("Go.", stream=True)


async def background(agent: Agent) -> None:
    await agent.arun("Go.", background=True)


async def sync(agent: Agent) -> None:
    agent.run("Go.")


async def sync_streamed(agent: Agent) -> None:
    agent.run("Go.", stream=True)


async def continued(agent: Agent) -> None:
    await agent.acontinue_run(run_id="some")


async def looked_for(agent: Agent) -> None:
    await agent.aget_run_output("some")


CALLS = (awaited, streamed, background, sync, sync_streamed, continued, looked_for)


async def check(db: BaseDb, call: Callable[[Agent], Awaitable[None]], *words: str) -> None:
    model = WholeModel("m", [("Nobody hears this.", ())])
    with pytest.raises(DatabaseUnusable) as info:
        await call(Agent(model=model, db=db))
    for word in words:
        assert word in str(info.value)
    assert model.requests == []
    assert not get_active_runs()


def files(path: Path) -> list[tuple[str, bytes]]:
    return sorted((str(each), each.read_bytes()) for each in path.rglob("*") if each.is_file())


@ONE_LOOP
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
@pytest.mark.parametrize("make", FILES, ids=lambda make: make.__name__)
async def test_a_file_that_cannot_be_one(make: Callable[[Path], str], call: Any, tmp_path: Path) -> None:
    path = tmp_path / "place" / "kern.db"
    path.parent.mkdir()
    wrong = make(path)
    before = files(tmp_path)
    db = SqliteDb(path)
    await check(db, call, str(path), wrong)
    await db.aclose()
    assert files(tmp_path) == before


@ONE_LOOP
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
async def test_a_server_that_lets_nobody_in(call: Any, postgres_server: Server, keyed_user: str) -> None:
    for url, wrong in (
        (postgres_server.url("nowhere"), "does not exist"),
        (postgres_server.url(user="stranger"), "does not exist"),
        (postgres_server.url(user=keyed_user, password="wr0ng"), "does not let this user in"),
    ):
        db = PostgresDb(url)
        await check(db, call, db.name, wrong)
        await db.aclose()


@pytest.mark.parametrize(
    "url",
    ["kern.db", "mysql://localhost/kern", "postgresql://me@there@here/kern", "", "postgresql://h:port/kern"],
)
def test_what_is_no_url_is_refused_when_it_is_given(url: str) -> None:
    with pytest.raises(DatabaseUnusable, match=r"db_url"):
        PostgresDb(url)
