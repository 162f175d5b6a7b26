"""What is Postgres's own: many writers at once, a server that hangs or goes, and what cannot be used."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager
from operator import methodcaller
from typing import Any

import anyio
import psycopg
import pytest
from sqlalchemy import Connection

from kern_async.db import postgres_store
from kern_async.db.base import DeleteSession, FindRun, FindRuns, FindSession, Heartbeat, Reap, Store, Write
from kern_async.db.postgres import PostgresDb
from kern_async.db.postgres_store import PostgresStore
from kern_async.exceptions import DatabaseUnusable, Fenced, NotTheirs, RunExists, SessionBusy, StoreError

from .places import PostgresPlace, Server, done, one
from .writes import claim, events, put

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)


@contextmanager
def other(place: PostgresPlace) -> Generator[psycopg.Connection]:
    """A transaction of another process, which ends with the block."""
    with psycopg.connect(place.url) as connection:
        yield connection


async def waits_for_a_lock(place: PostgresPlace) -> None:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with psycopg.connect(place.url, autocommit=True) as connection, anyio.fail_after(5):
        while connection.execute(query).fetchone() == (0,):  # noqa: ASYNC110 - another program's event
            await anyio.sleep(0.005)


async def meets(place: PostgresPlace, statement: str, write: Write) -> Any:
    """What becomes of a write that has to wait for another process's transaction, when that commits."""
    results: list[Any] = []

    async def apply() -> None:
        async with place.store() as store:
            results.append(await one(store, write))

    with other(place) as connection:
        connection.execute(statement.encode())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(apply)
            await waits_for_a_lock(place)
            connection.commit()
    return results[0]


CLAIMED = "UPDATE kern_runs SET owner = 'they', attempt = 1, status = 'RUNNING' WHERE run_id = 'r'"


@pytest.mark.parametrize("write", [put("r"), events(0), claim("r"), put("m", root="r")])
async def test_a_fence_is_checked_against_what_another_process_has_just_committed(
    postgres: PostgresPlace, write: Write
) -> None:
    async with postgres.store() as store:
        await done(store, put("r", status="PAUSED"))
        assert isinstance(await meets(postgres, CLAIMED, write), Fenced)
        run = await store.read(FindRun(run_id="r"))
        assert (run.owner, run.attempt) == ("they", 1)


INSERTED = """
INSERT INTO kern_runs (number, run_id, root_run_id, session_id, kind, entity_id, created_at, owner, attempt, status)
VALUES (nextval('kern_run_numbers'), '{}', '{}', 's', 'agent', 'a', 0, 'they', 0, '{}')
"""


async def test_a_new_run_that_another_process_has_just_written_is_refused(postgres: PostgresPlace) -> None:
    async with postgres.store() as store:
        await done(store, put("before"))
        result = await meets(postgres, INSERTED.format("r", "r", "RUNNING"), put("r", new=True, session="t"))
        assert isinstance(result, RunExists)
        assert await store.read(FindSession(session_id="t")) is None


async def test_a_session_that_another_users_process_has_just_made_is_theirs(postgres: PostgresPlace) -> None:
    async with postgres.store() as store:
        made = "INSERT INTO kern_sessions VALUES ('s', 'bob', 'agent', 'a', 0, 0)"
        assert isinstance(await meets(postgres, made, put("r", user="ann")), NotTheirs)
        assert await store.read(FindRun(run_id="r")) is None


async def test_a_session_in_which_another_process_has_just_begun_a_run_is_not_deleted(
    postgres: PostgresPlace,
) -> None:
    async with postgres.store() as store:
        await done(store, put("r", status="COMPLETED"))
        begun = "SELECT FROM kern_sessions FOR UPDATE;" + INSERTED.format("x", "x", "RUNNING")
        assert isinstance(await meets(postgres, begun, DeleteSession(session_id="s")), SessionBusy)


def deadlocks(server: Server, place: PostgresPlace) -> int:
    database = place.url.partition("@/")[2].partition("?")[0]
    query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    ((count,),) = server.run("SELECT pg_stat_force_next_flush()", query, database=database)
    return count


async def test_batches_that_cross_never_wait_for_each_other(postgres_server: Server) -> None:
    """The same rows, new and old, in opposite orders, as writers of two processes would have them."""
    place = postgres_server.new_database()
    names = [f"r{number}" for number in range(12)]

    async def write(mine: list[str], owner: str) -> None:
        async with place.store() as store:
            for turn in range(25):
                batch: list[Write] = [Heartbeat(owner=owner, seconds=60)]
                for name in mine:
                    session = f"s{name}{turn % 5}"
                    batch += [
                        put(f"{name}-{turn}", session=session, owner=owner, new=True),
                        claim(f"{name}-{turn - 1}", owner=owner, statuses=["RUNNING"]),
                        put(name, owner=owner, session=session, status="COMPLETED"),
                    ]
                    if turn % 5 == 4:
                        batch.append(DeleteSession(session_id=f"s{name}{turn % 3}"))
                batch += [Heartbeat(owner="shared", seconds=60), Reap()]
                await store.apply(batch)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write, names, "one")
        tasks.start_soon(write, names[::-1], "two")
    assert deadlocks(postgres_server, place) == 0


async def test_new_runs_that_cross_never_wait_for_each_other(postgres_server: Server) -> None:
    """Of two processes that begin runs of the same ids at the same moment, each in a session of its own."""
    place = postgres_server.new_database()

    async def begin(store: Store, owner: str, names: list[str], told: list[Any]) -> None:
        told.append(await store.apply([put(name, session=owner, owner=owner, new=True) for name in names]))

    async with place.store() as one, place.store() as two:
        for turn in range(10):
            names = [f"{turn}-{number}" for number in range(300)]
            told: list[Any] = []
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(begin, one, "one", names, told)
                tasks.start_soon(begin, two, "two", names[::-1], told)
            refused = [len([each for each in of_one if isinstance(each, RunExists)]) for of_one in told]
            assert sorted(refused) == [0, 300]
    assert deadlocks(postgres_server, place) == 0


# A server that hangs or goes.


def backends(place: PostgresPlace) -> list[int]:
    """The server's processes that serve our connections."""
    query = (
        "SELECT pid FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'kern_async'"
    )
    with psycopg.connect(place.url) as connection:
        return [pid for (pid,) in connection.execute(query)]


async def test_a_server_that_hangs_is_noticed_and_connected_to_anew(
    postgres: PostgresPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with postgres.store() as store:
        await done(store, put("r"))
        monkeypatch.setattr(postgres_store, "HANG_SECONDS", 0.3)
        (pid,) = backends(postgres)
        os.kill(pid, signal.SIGSTOP)
        try:
            with anyio.fail_after(5), pytest.raises(Exception, match="closed the connection") as caught:
                await store.apply([put("r", output="1")])
            assert caught.value.connection_invalidated  # pyright: ignore[reportAttributeAccessIssue]
            await done(store, put("x", output="2"))
            with anyio.fail_after(5):
                assert (await store.read(FindRun(run_id="x"))).output == "2"
        finally:
            os.kill(pid, signal.SIGCONT)
        assert (await store.read(FindRun(run_id="r"))).output is None


async def test_a_transaction_that_goes_on_is_not_cut(
    postgres: PostgresPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_store, "HANG_SECONDS", 0.25)
    async with postgres.store() as store:
        assert isinstance(store, PostgresStore)

        def work(connection: Connection) -> None:
            for _ in range(5):
                connection.exec_driver_sql("SELECT pg_sleep(0.1)")

        await store._transact("write", work)


async def test_a_connection_that_is_lost_is_made_anew(postgres: PostgresPlace) -> None:
    async with postgres.store() as store:
        await done(store, put("r"))
        with psycopg.connect(postgres.url) as connection:
            connection.execute("SELECT pg_terminate_backend(%s, 5000)", [backends(postgres)[0]])
        with pytest.raises(Exception, match="terminating connection"):
            await store.apply([put("x")])
        await done(store, put("x"))
        assert len(await store.read(FindRuns(session_id="s"))) == 2


async def test_a_lock_that_is_held_for_long_is_named_before_a_run_gives_up(postgres: PostgresPlace) -> None:
    async with postgres.store() as store:
        await done(store, put("r"))
        with other(postgres) as connection:
            connection.execute("SELECT FROM kern_runs FOR UPDATE")
            with anyio.fail_after(1.9), pytest.raises(Exception, match="lock timeout"):
                await store.apply([put("r")])
        await done(store, put("r"))


# What cannot be used.


async def refusal(url: str) -> str:
    store = PostgresDb(url).make_store()
    try:
        with pytest.raises(DatabaseUnusable) as caught:
            await store.open()
    finally:
        await store.close()
    return str(caught.value)


async def test_an_unknown_database_or_user(postgres_server: Server) -> None:
    said = await refusal(postgres_server.url("nowhere"))
    assert "nowhere does not exist" in said
    assert "does not exist" in await refusal(postgres_server.url(user="nobody_knows"))


async def test_a_wrong_password(postgres_server: Server, keyed_user: str) -> None:
    for password in ("wr0ng", None):
        said = await refusal(postgres_server.url(user=keyed_user, password=password))
        assert "does not let this user in" in said
        assert "wr0ng" not in said
    assert "pg_hba.conf" in await refusal(postgres_server.url(user="banned"))


async def test_a_user_who_may_not_create_tables(postgres_server: Server, keyed_user: str) -> None:
    place = postgres_server.new_database()
    url = place.url.replace("postgres@", f"{keyed_user}:s3cret@")
    said = await refusal(url)
    assert "does not let this user create tables" in said
    assert "s3cret" not in said
    postgres_server.run(
        "GRANT CREATE ON SCHEMA public TO keyed", database=place.url.partition("@/")[2].partition("?")[0]
    )
    async with PostgresPlace(url).store() as store:
        await done(store, put("r"))


async def test_a_host_that_nobody_knows() -> None:
    assert "host that nobody knows" in await refusal(f"postgresql://u:s3cret@{'h' * 64}.invalid/db")


async def test_a_host_that_refuses_connections_may_come_back() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = PostgresDb(f"postgresql://u:s3cret@127.0.0.1:{port}/db").make_store()
    with pytest.raises(Exception, match="refused") as caught:
        await store.open()
    assert not isinstance(caught.value, StoreError)
    assert "s3cret" not in str(caught.value)
    await store.close()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "s3cret",
        "postgresql:/u:s3cret@h/db",
        "postgresql://u:s3cret@h:port/db",
        "postgresql://u:s3c@ret@h/db",
        "postgresql://u:s3/c@ret@h/db",
        "mysql://u:s3cret@h/db",
        "postgresql+asyncpg://u:s3cret@h/db",
        "sqlite:///s3cret.db",
        "post gres://u:s3cret@h/db",
        "postgresql://u:s3cret@h/db\0",
        None,
    ],
)
async def test_what_is_no_url_of_a_postgres_database_is_refused_at_once(url: Any) -> None:
    with pytest.raises(DatabaseUnusable) as caught:
        PostgresDb(url)
    said = [str(caught.value)]
    error: BaseException | None = caught.value
    while error := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        said.append(str(error))
    assert "postgresql://" in said[0] or "%40" in said[0]
    assert not any(part in text for text in said for part in ("s3c", "cret"))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:s3cret@h:5433/db",
        "postgres://u:s3cret@h:5433/db?connect_timeout=9",
        " postgresql+psycopg://u:s3cret@h:5433/db ",
        "postgresql://u@h:5433/db?password=s3cret",
    ],
)
async def test_a_database_is_named_without_its_password(url: str) -> None:
    database = PostgresDb(url)
    assert database.name == "postgresql://u@h:5433/db"
    assert repr(database) == "PostgresDb('postgresql://u@h:5433/db')"
    assert "s3cret" not in repr(database.make_store()) + repr(database.key) + str(database.key)


async def test_two_ways_to_say_one_url_are_one_database() -> None:
    one = PostgresDb("postgresql://u:p@h/db")
    assert one.key == PostgresDb("postgres://u:p@h/db").key == PostgresDb("postgresql+psycopg://u:p@h/db").key
    assert one.key != PostgresDb("postgresql://u:q@h/db").key
    assert one.key != PostgresDb("postgresql://u:p@h/other").key
    assert hash(one.key) == hash(PostgresDb("postgres://u:p@h/db").key)


async def test_settings_in_the_url_win(postgres: PostgresPlace) -> None:
    place = PostgresPlace(f"{postgres.url}&application_name=mine&options=-c%20statement_timeout%3D1234")
    async with place.store() as store:
        assert isinstance(store, PostgresStore)
        for name, value in (("application_name", "mine"), ("statement_timeout", "1234ms")):
            shown = await store._transact("read", methodcaller("exec_driver_sql", f"SHOW {name}"))
            assert shown.scalar() == value
