"""Databases that break in the middle of a run: the answer comes whole and in time, and the row later."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from kern_async import Agent, RunStatus
from kern_async.db.base import FindRun
from kern_async.db.database import BaseDb

from ..db.places import Server
from .places import ONE_LOOP, Place
from .whole import WholeModel

pytestmark = ONE_LOOP

TIMEOUT = 1.0
LONG = "A long word: " + "x" * 400_000


class Story:
    """A run whose database breaks while its model speaks."""

    def __init__(self, db: BaseDb) -> None:
        self.db = db

    async def told(
        self, run_id: str, meanwhile: Callable[[], object] = lambda: None, text: str = "All of it."
    ) -> Any:
        """The run's output, and how long its end took."""
        spoke = False

        async def pace() -> None:
            nonlocal spoke
            if not spoke:
                spoke = True
                await self.stored(run_id, "RUNNING")
                meanwhile()

        agent = Agent(name="teller", model=WholeModel("m", [(text, ())], pace=pace), db=self.db)
        return await agent.arun("Go.", run_id=run_id, session_id="s")

    async def lost(
        self, run_id: str, break_it: Callable[[], object], *causes: str, text: str = "All of it."
    ) -> None:
        """The answer comes in time, and says that and why it is not stored."""
        broken: list[float] = []

        def meanwhile() -> None:
            break_it()
            broken.append(time.monotonic())

        output = await self.told(run_id, meanwhile, text)
        assert time.monotonic() - broken[0] < TIMEOUT + 1
        assert (output.status, output.content) == (RunStatus.completed, text)
        assert output.stored is False
        assert any(cause in output.store_error for cause in causes), output.store_error

    async def stored(self, run_id: str, status: str = "COMPLETED", text: str | None = None) -> None:
        """The row is there, some time."""
        with anyio.fail_after(15):
            while True:
                ticket = self.db.writer.ask(FindRun(run_id=run_id))
                await ticket.wait(5)
                if ticket.done and ticket.error is None and ticket.result and ticket.result.status == status:
                    break
                await anyio.sleep(0.02)
        if text is not None:
            output = await Agent(model=WholeModel("reader"), db=self.db).aget_run_output(run_id)
            assert output is not None
            assert output.content == text

    async def recovers(self, run_id: str, mend: Callable[[], object], text: str = "All of it.") -> float:
        """What could not be stored is stored by itself, and later runs are as if nothing had been."""
        mend()
        mended = time.monotonic()
        await self.stored(run_id, text=text)
        took = time.monotonic() - mended
        later = await self.told("later")
        assert (later.stored, later.store_error) == (True, None)
        await self.db.aclose()
        return took


@contextmanager
def small_disk(at: Path) -> Generator[Path]:
    at.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(at)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a file system of its own needs to be mounted")
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


async def test_a_disk_that_is_full(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        story = Story(Place(str(disk / "kern.db")).database(store_timeout=TIMEOUT))

        def fill() -> None:
            try:
                with (disk / "rest").open("wb", buffering=0) as file:
                    while True:
                        file.write(b"x" * 4096)
            except OSError:  # it is full
                pass

        await story.lost("cut", fill, "disk is full", "disk I/O error", text=LONG)
        await story.recovers("cut", (disk / "rest").unlink, LONG)


async def test_a_file_that_may_not_grow(sqlite: Place) -> None:
    """The same without a file system of one's own, where that cannot be made."""
    story = Story(sqlite.database(store_timeout=TIMEOUT))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def mend() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    try:
        await story.lost(
            "cut",
            lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1])),
            "disk is full",
            "disk I/O error",
            text=LONG,
        )
    finally:
        mend()
    await story.recovers("cut", mend, LONG)


LOCKER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)
sys.stdin.readline()
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.readline()
connection.execute("COMMIT")
connection.close()
"""


def other_process(code: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


async def test_a_file_that_another_process_has_locked(sqlite: Place) -> None:
    story = Story(sqlite.database(store_timeout=1.5))  # SQLite itself waits a second before it says so
    with other_process(LOCKER, sqlite.spec) as locker:

        def lock() -> None:
            assert locker.stdin is not None
            assert locker.stdout is not None
            print("now", file=locker.stdin, flush=True)
            assert locker.stdout.readline() == "locked\n"

        def unlock() -> None:
            locker.communicate("\n")

        await story.lost("cut", lock, "database is locked")
        await story.recovers("cut", unlock)


async def test_a_server_that_is_stopped_and_started_again(postgres_server: Server) -> None:
    place = Place(postgres_server.new_database().url)
    story = Story(place.database(store_timeout=TIMEOUT))
    await story.lost("cut", postgres_server.halt, "connection", "refused", "did not answer")
    await story.recovers("cut", postgres_server.start)


async def test_connections_that_a_server_ends_are_made_anew_before_anybody_notices(
    postgres: Place, postgres_server: Server
) -> None:
    story = Story(postgres.database(store_timeout=30))

    def end() -> None:
        postgres_server.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        )

    output = await story.told("cut", end)
    assert (output.stored, output.store_error) == (True, None)
    await story.db.aclose()
