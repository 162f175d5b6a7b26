"""Two real processes write to one database at once."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from kern_async.db.base import FindEvents, FindRuns, FindSession, FindTree

from .places import PostgresPlace, SqlitePlace

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)

TURNS = 25
OWNERS = "one", "two"


async def hammered(kind: str, where: str) -> dict[str, Any]:
    """What each of the processes was told."""
    told: dict[str, Any] = {}

    async def run(owner: str) -> None:
        command = [sys.executable, str(Path(__file__).with_name("hammer.py")), kind, where, owner, str(TURNS)]
        result = await anyio.run_process(command, check=False, stderr=subprocess.PIPE)
        assert result.returncode == 0, result.stderr.decode()
        told[owner] = json.loads(result.stdout)

    async with anyio.create_task_group() as tasks:
        for owner in OWNERS:
            tasks.start_soon(run, owner)
    return told


async def check(place: SqlitePlace | PostgresPlace, told: dict[str, Any]) -> None:
    attempts = [str(turn + 1) for turn in range(TURNS)]
    names = [f"new-{turn}" for turn in range(TURNS)]
    own = {owner: [f"{owner}-{turn}" for turn in range(TURNS)] for owner in OWNERS}
    # Of two claims, and of two new runs of one id, exactly one is told that it was first, and all the rest is written.
    assert sorted(told["one"]["won"] + told["two"]["won"], key=int) == attempts
    assert sorted(told["one"]["begun"] + told["two"]["begun"]) == sorted(names)
    assert {owner: told[owner]["written"] for owner in OWNERS} == own

    async with place.store() as store:
        runs = {run.key.run_id: run for run in await store.read(FindRuns(session_id="s"))}
        members = {f"{name}-member" for owner in OWNERS for name in own[owner]}
        assert set(runs) == {"shared", *names, *own["one"], *own["two"], *members}
        assert len({run.number for run in runs.values()}) == len(runs)
        shared = await store.read(FindEvents(root_run_id="shared"))
        for owner in OWNERS:
            assert all(runs[name].owner == owner for name in [*own[owner], *told[owner]["begun"]])
            ended = [str(index + 1) for index, body in shared if json.loads(body) == owner]
            assert ended == told[owner]["won"]
            for turn, name in enumerate(own[owner]):
                assert await store.read(FindEvents(root_run_id=name)) == [(turn, json.dumps(owner))]
        assert (runs["shared"].status, runs["shared"].attempt) == ("PAUSED", TURNS)
        assert len(await store.read(FindTree(root_run_id="one-3"))) == 2
        state = (await store.read(FindSession(session_id="s"))).state
        assert {f"{owner}-{name}" for owner in OWNERS for name in own[owner]} <= set(state)


async def test_two_processes_lose_nothing_in_one_file(sqlite: SqlitePlace) -> None:
    await check(sqlite, await hammered("sqlite", str(sqlite.file)))
    with closing(sqlite3.connect(sqlite.file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_two_processes_lose_nothing_in_one_postgres_database(postgres: PostgresPlace) -> None:
    await check(postgres, await hammered("postgres", postgres.url))
