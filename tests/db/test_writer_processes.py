"""A process that ends or forks with a writer: in real processes, with warnings as errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

PRELUDE = """
import anyio, asyncio, atexit, json, os, sys, threading, time
from kern_async.db.base import Fence, FindEvents, PutEvents
from kern_async.db.database import BaseDb
from kern_async.db.in_memory import InMemoryDb
from kern_async.db.writer import flush_all

fence = Fence(root_run_id="r", owner="o", attempt=0)

def events(*numbers):
    return lambda: [PutEvents(fence=fence, events=[(n, "r", str(n))]) for n in numbers]

def report(*facts):
    print(json.dumps(facts), flush=True)

class Slow:
    \"\"\"A database in a file that takes its time.\"\"\"
    def __init__(self, path, seconds):
        self.path, self.seconds = path, seconds
    async def open(self):
        pass
    async def apply(self, writes):
        await asyncio.sleep(self.seconds)
        with open(self.path, "a") as file:
            for write in writes:
                if isinstance(write, PutEvents):
                    print(write.events[0][0], file=file)
        return [None] * len(writes)
    async def read(self, read):
        with open(self.path) as file:
            return file.read().split()
    async def close(self):
        pass

class SlowDb(BaseDb):
    def __init__(self, path, seconds=0.05, **options):
        super().__init__(**options)
        self.path, self.seconds = path, seconds
    name = "SlowDb"
    key = property(lambda self: self.path)
    def make_store(self):
        return Slow(self.path, self.seconds)
"""


def run(code: str, path: Path) -> list[Any]:
    """What the process reported; it ended well and had nothing to complain about."""
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", PRELUDE + textwrap.dedent(code), str(path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def written(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()]


def test_what_was_handed_in_is_written_before_the_interpreter_exits(tmp_path: Path) -> None:
    run(
        """
        db = SlowDb(sys.argv[1])
        give = [events(100)()]
        stop = db.writer.watch(lambda: give.pop() if give else [])
        for number in range(100):
            db.writer.post(events(number))
        """,
        tmp_path / "db",
    )
    assert sorted(written(tmp_path / "db")) == list(range(101))


def test_what_ends_later_in_the_exit_may_still_write(tmp_path: Path) -> None:
    """Exit handlers run the last registered first: one that was there before the writer's comes after it."""
    reports = run(
        """
        db = SlowDb(sys.argv[1])

        def late():
            ticket = db.writer.post(events(1))
            report(flush_all(2), ticket.done, ticket.error is None)

        from kern_async.db import writer
        atexit.unregister(writer._flush_at_exit)
        atexit.register(late)
        atexit.register(writer._flush_at_exit)
        db.writer.post(events(0))
        """,
        tmp_path / "db",
    )
    assert reports == [[True, True, True]]
    assert written(tmp_path / "db") == [0, 1]


@pytest.mark.parametrize("place", ["open", "apply"])
def test_a_database_that_hangs_holds_the_exit_no_longer_than_it_may(place: str, tmp_path: Path) -> None:
    reports = run(
        f"""
        async def hang(*_):
            await asyncio.sleep(3600)

        Slow.{place} = hang
        db = SlowDb(sys.argv[1], store_timeout=0.3)
        db.writer.post(events(0))
        report(time.time())
        """,
        tmp_path / "db",
    )
    assert time.time() - reports[0][0] < 2


def test_a_writer_that_cannot_begin_any_more_fails_and_raises_nothing(tmp_path: Path) -> None:
    reports = run(
        """
        db = SlowDb(sys.argv[1])

        def late():
            stop = db.writer.watch(lambda: [])
            tickets = [db.writer.post(events(0)), db.writer.ask(None), db.writer.opened()]
            for ticket in tickets:
                ticket.wait_in_thread(5)
            stop()
            report([ticket.done and str(ticket.error) for ticket in tickets])
            db.close()

        atexit.register(late)
        """,
        tmp_path / "db",
    )
    # Whether a thread can still be started at the exit depends on the version of Python.
    ((errors,),) = reports
    assert errors == ["None"] * 3 or all("no thread to write in" in error for error in errors)


def test_a_close_at_the_exit_is_a_close(tmp_path: Path) -> None:
    run(
        """
        async def in_thread(*_):
            await asyncio.to_thread(int)

        Slow.open = in_thread  # the loop has an executor then, as if it had resolved a name
        db = SlowDb(sys.argv[1])
        db.writer.post(events(0)).wait_in_thread(5)
        db.writer.post(events(1))
        atexit.register(db.close)
        """,
        tmp_path / "db",
    )
    assert written(tmp_path / "db") == [0, 1]


def test_a_database_that_nobody_has_any_more_is_written_before_the_exit(tmp_path: Path) -> None:
    run(
        """
        db = SlowDb(sys.argv[1], 0.1)
        db.writer.post(events(0))
        del db
        """,
        tmp_path / "db",
    )
    assert written(tmp_path / "db") == [0]


FORK = """
import warnings
warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
"""


def test_a_forked_child_has_a_writer_of_its_own(tmp_path: Path) -> None:
    reports = run(
        FORK
        + textwrap.dedent("""
        db = SlowDb(sys.argv[1])
        old = db.writer
        old.post(events(0)).wait_in_thread(5)
        pending = [old.post(events(number)) for number in range(1, 20)]
        pid = os.fork()
        if pid == 0:
            foreign = [old.post(events(99)), old.ask(None), old.opened(), old.flushed()]
            old.close()
            ticket = db.writer.post(events(100))
            ticket.wait_in_thread(5)
            report("child", db.writer.owner != old.owner, ticket.error is None and flush_all(5),
                   [str(each.error) for each in foreign])
        else:
            _, status = os.waitpid(pid, 0)
            report("parent", status, db.writer is old, old.flush(5), all(each.error is None for each in pending))
        """),
        tmp_path / "db",
    )
    assert reports[0] == [
        "child",
        True,
        True,
        ["SlowDb: this writer is in the parent process"] * 4,
    ]
    assert reports[1] == ["parent", 0, True, True, True]
    assert sorted(written(tmp_path / "db")) == [*range(20), 100]


def test_a_forked_child_flushes_its_own_at_its_exit_and_not_its_parents(tmp_path: Path) -> None:
    reports = run(
        FORK
        + textwrap.dedent("""
        db = SlowDb(sys.argv[1], 0.2, store_timeout=20)
        db.writer.opened().wait_in_thread(5)
        db.writer.post(events(0))
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            other = SlowDb(sys.argv[1], 0)
            other.writer.post(events(1))
        else:
            _, status = os.waitpid(pid, 0)
            report(status, time.monotonic() - began)
        """),
        tmp_path / "db",
    )
    ((status, seconds),) = reports
    assert status == 0
    assert seconds < 5
    assert sorted(written(tmp_path / "db")) == [0, 1]


def test_a_database_in_memory_leaves_quietly(tmp_path: Path) -> None:
    reports = run(
        """
        db = InMemoryDb()
        async def main():
            ticket = db.writer.post(events(0))
            answer = db.writer.ask(FindEvents(root_run_id="r"))
            await answer.wait(5)
            report(answer.result)
        anyio.run(main)
        db.writer.post(events(1))
        """,
        tmp_path,
    )
    assert reports == [[[[0, "0"]]]]
