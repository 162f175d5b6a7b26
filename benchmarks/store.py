"""What keeping a run costs, beside plain aiosqlite that does the same writes, in one process and run.

    python benchmarks/store.py [--rounds N] [--quick] [--uvloop]

Plain means: the same tables, the same rows ready-made, `BEGIN IMMEDIATE`, a write-ahead log and `synchronous = FULL`,
one connection, `executemany` where there are several rows. It checks nothing, makes no JSON and waits for nobody.

- events: a row of `store_events=True`, in batches through the database's writer, and through a whole run;
- run: one question, one answer, and from the model's last word until the caller has the output, by which time it is
  durable; against two plain transactions;
- together: runs of one session at once;
- length: ten times the turns, the history or the sessions (goal: at most 11 times the CPU).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import os
import platform
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import aiosqlite
import anyio

from kern_async.agent import Agent
from kern_async.db.base import Fence, PutEvents
from kern_async.db.database import BaseDb
from kern_async.db.in_memory import InMemoryDb
from kern_async.db.sqlite import SqliteDb
from kern_async.models.base import Emit, Model, ModelReply, ModelRequest
from kern_async.testing.scripted import ScriptedModel, call

GOAL = 11.0

Row = tuple[Any, ...]
Writes = Sequence[tuple[str, Sequence[Row]]]
"""A transaction: tables and the rows that go into them."""


@dataclass(frozen=True)
class Scale:
    rounds: int
    batches: int = 10
    batch: int = 1_000
    deltas: int = 10_000
    runs: int = 200
    together: int = 200
    length: int = 100


class Speaking(Model):
    """Says so many words, and knows when it said the last one."""

    provider: ClassVar[str] = "bench"

    def __init__(self, words: int) -> None:
        super().__init__("speaking")
        self.words = words
        self.silent_since = 0.0

    async def respond(self, request: ModelRequest, emit: Emit) -> ModelReply:
        for number in range(self.words):
            await emit("text", f"w{number} ")
        self.silent_since = time.perf_counter()
        return ModelReply()


@dataclass
class Costs:
    """Of something that was done again and again, in seconds."""

    wall: list[float] = field(default_factory=list[float])
    cpu: list[float] = field(default_factory=list[float])
    end: list[float] = field(default_factory=list[float])

    async def add(self, action: Callable[[], Awaitable[float]]) -> None:
        """Do it once; `action` returns how long its end took."""
        wall, cpu = time.perf_counter(), time.process_time()
        end = await action()
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)
        self.end.append(end)


class Plain:
    """A file with the tables of another one, written through aiosqlite."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self._turn = asyncio.Lock()

    @classmethod
    async def beside(cls, file: Path) -> Plain:
        with closing(sqlite3.connect(file)) as model:
            tables = model.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
        other = file.with_name(f"plain-{file.name}")
        connection = await aiosqlite.connect(other, isolation_level=None)
        await connection.execute("PRAGMA journal_mode = WAL")
        await connection.execute("PRAGMA synchronous = FULL")
        for (statement,) in tables:
            await connection.execute(statement)
        return cls(connection)

    async def write(self, writes: Writes) -> None:
        async with self._turn:
            await self._connection.execute("BEGIN IMMEDIATE")
            for table, rows in writes:
                statement = f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(rows[0]))})"
                if len(rows) > 1:
                    await self._connection.executemany(statement, rows)
                else:
                    await self._connection.execute(statement, rows[0])
            await self._connection.execute("COMMIT")

    async def run(self, begin: Writes, end: Writes) -> float:
        """The two transactions of a run; how long the second one took."""
        await self.write(begin)
        began = time.perf_counter()
        await self.write(end)
        return time.perf_counter() - began

    async def close(self) -> None:
        await self._connection.close()


def rows_of(file: Path, table: str) -> list[Row]:
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute(f"SELECT * FROM {table}").fetchall()


async def answer(agent: Agent, model: Speaking, session_id: str) -> float:
    """One run; how long after the model's last word its caller has the output."""
    output = await agent.arun("What does it cost?", session_id=session_id)
    assert output.stored in {True, None}
    return time.perf_counter() - model.silent_since


# Events.


async def batches(directory: Path, scale: Scale) -> None:
    """Rows that are ready, a transaction for each batch, one after the other."""
    ours: list[float] = []
    plain: list[float] = []
    for number in range(scale.rounds + 1):
        db = SqliteDb(directory / f"batches-{number}.db")
        await db.writer.opened().wait()
        other = await Plain.beside(db.db_file)
        of_runs = [f"{n:032x}" for n in range(scale.batches)]
        events = [(n, json.dumps({"event": "RunContent", "event_index": n, "run_id": of_runs[0], "created_at": 1_790_000_000, "agent_id": "bench", "agent_name": "bench", "session_id": of_runs[0], "content": f"w{n} "})) for n in range(scale.batch)]  # fmt: skip
        for run_id in of_runs:
            rows = [(index, run_id, body) for index, body in events]
            fence = Fence(root_run_id=run_id, owner=db.writer.owner, attempt=0)
            gc.collect()
            began = time.perf_counter()
            ticket = db.writer.post(partial(list[Any], [PutEvents(fence=fence, events=rows)]))
            await ticket.wait()
            ours.append(time.perf_counter() - began)
            assert ticket.error is None
            whole = [(run_id, index, run_id, body) for index, body in events]
            began = time.perf_counter()
            await other.write([("kern_events", whole)])
            plain.append(time.perf_counter() - began)
        await db.aclose()
        await other.close()
    report(
        "event in a batch, wall us",
        statistics.median(plain) / scale.batch,
        statistics.median(ours) / scale.batch,
    )


async def streamed(db: BaseDb | None, words: int) -> tuple[float, float]:
    """Wall and CPU seconds of a run for each delta, until all of them are stored."""
    agent = Agent(name="bench", model=Speaking(words), db=db, store_events=db is not None)
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    count = 0
    async with agent.arun("go", stream=True) as events:
        async for event in events:
            count += event.event == "RunContent"
    if db is not None:
        await db.writer.flushed().wait()
    return (time.perf_counter() - wall) / count, (time.process_time() - cpu) / count


async def deltas(directory: Path, scale: Scale) -> None:
    """A whole run's, with everything that is done on the way."""
    of_db: list[tuple[float, float]] = []
    without: list[tuple[float, float]] = []
    plain: list[tuple[float, float]] = []
    for number in range(scale.rounds + 1):
        db = SqliteDb(directory / f"deltas-{number}.db")
        await db.writer.opened().wait()
        without.append(await streamed(None, scale.deltas))
        of_db.append(await streamed(db, scale.deltas))
        other = await Plain.beside(db.db_file)
        rows = rows_of(db.db_file, "kern_events")
        assert len(rows) > scale.deltas
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        for start in range(0, len(rows), scale.batch):
            await other.write([("kern_events", rows[start : start + scale.batch])])
        plain.append(((time.perf_counter() - wall) / len(rows), (time.process_time() - cpu) / len(rows)))
        await db.aclose()
        await other.close()
    for place, what in enumerate(("wall", "CPU")):
        bare, kept, row = (min(each[place] for each in costs) for costs in (without, of_db, plain))
        report(f"delta of a run, {what} us", bare + row, kept, unit=1e6)
        print(f"{'':<30} (without a database {bare * 1e6:.1f}, a plain row {row * 1e6:.1f})")


# Runs.


async def one_at_a_time(directory: Path, scale: Scale) -> None:
    model = Speaking(1)
    db = SqliteDb(directory / "runs.db")
    kinds: dict[str, Agent] = {
        "without": Agent(name="bench", model=model),
        "in memory": Agent(name="bench", model=model, db=InMemoryDb()),
        "SqliteDb": Agent(name="bench", model=model, db=db),
    }
    await answer(kinds["SqliteDb"], model, "first")
    other = await Plain.beside(db.db_file)
    begin, end = transactions_of(db.db_file)
    found: dict[str, Costs] = {name: Costs() for name in ("plain", *kinds)}
    for number in range(scale.runs * scale.rounds):
        for name, agent in kinds.items():
            await found[name].add(partial(answer, agent, model, f"{name} {number}"))
        await found["plain"].add(partial(other.run, begin(number), end(number)))
    print(f"{'one run, us':<30}      wall       CPU       end   end p95")
    for name, costs in found.items():
        figures = (*map(statistics.median, (costs.wall, costs.cpu, costs.end)), p95(costs.end))
        print(f"  {name:<28}" + "".join(f"{figure * 1e6:10.0f}" for figure in figures))
    waits = statistics.median(found["SqliteDb"].end) - statistics.median(found["without"].end)
    report("the wait of the end, us", statistics.median(found["plain"].end), waits, unit=1e6)
    await db.aclose()
    await other.close()


def p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


def transactions_of(file: Path) -> tuple[Callable[[int], Writes], Callable[[int], Writes]]:
    """What the one run in the file wrote, as plain transactions of a run of any number."""
    tables = ("kern_sessions", "kern_runs", "kern_messages")
    sessions, runs, messages = (rows_of(file, table) for table in tables)

    def begin(number: int) -> Writes:
        return [
            (tables[0], [(f"s{number}", *sessions[0][1:])]),
            (tables[1], [(number, f"r{number}", f"r{number}", None, f"s{number}", *runs[0][5:])]),
        ]

    def end(number: int) -> Writes:
        return [*begin(number), (tables[2], [(f"r{number}", *row[1:]) for row in messages])]

    return begin, end


async def at_once(agent: Agent, model: Speaking, session_ids: Sequence[str]) -> float:
    """Runs of these sessions at once; how many a second."""
    gc.collect()
    began = time.perf_counter()
    async with anyio.create_task_group() as group:
        for session_id in session_ids:
            group.start_soon(answer, agent, model, session_id)
    return len(session_ids) / (time.perf_counter() - began)


async def fill(agent: Agent, model: Speaking, session_ids: Sequence[str]) -> None:
    """The same in portions, none of which can take longer than a run waits for its database."""
    for start in range(0, len(session_ids), 50):
        await at_once(agent, model, session_ids[start : start + 50])


async def together(directory: Path, scale: Scale) -> None:
    model = Speaking(1)
    db, memory = SqliteDb(directory / "together.db"), InMemoryDb()
    await answer(Agent(name="bench", model=model, db=db), model, "first")
    other = await Plain.beside(db.db_file)
    begin, end = transactions_of(db.db_file)
    rates: dict[str, list[float]] = {}
    numbers = itertools.count()
    for number in range(scale.rounds + 1):
        for name, kind in (("without", None), ("in memory", memory), ("SqliteDb", db)):
            agent = Agent(name="bench", model=model, db=kind)
            rates.setdefault(name, []).append(await at_once(agent, model, [f"s{number}"] * scale.together))
        began = time.perf_counter()
        async with anyio.create_task_group() as group:
            for _ in range(scale.together):
                place = next(numbers)
                group.start_soon(other.run, begin(place), end(place))
        rates.setdefault("plain", []).append(scale.together / (time.perf_counter() - began))
    best = {name: max(found) for name, found in rates.items()}
    print(
        f"{scale.together} runs at once, runs/s".ljust(30)
        + "   ".join(f"{name} {rate:.0f}" for name, rate in best.items())
    )
    await db.aclose()
    await other.close()


# Length.


async def seconds_of(action: Callable[[], Awaitable[object]], times: int) -> float:
    """CPU seconds, also of the writer's thread; the least of several."""
    taken: list[float] = []
    for _ in range(times):
        gc.collect()
        began = time.process_time()
        await action()
        taken.append(time.process_time() - began)
    return min(taken)


async def turns(db: BaseDb, count: int) -> object:
    """A run whose model calls a tool so many times."""

    def look() -> str:
        return "nothing"

    script = [*(call("look") for _ in range(count)), "done"]
    agent = Agent(name="bench", model=ScriptedModel("bench", script), tools=[look], db=db)
    output = await agent.arun("go")
    assert output.stored
    assert len(output.tools) == count
    return output


async def lengths(directory: Path, scale: Scale) -> None:
    """Each with a database of its own, so that nothing else is in it."""
    short, long = scale.length // 10, scale.length
    model = Speaking(1)
    for name, make in (("SqliteDb", partial(SqliteDb, directory / "lengths.db")), ("in memory", InMemoryDb)):
        db: BaseDb = make()
        found = [await seconds_of(partial(turns, db, count), scale.rounds) for count in (short, long)]
        growth(f"turns, {name}", *found)
        silent = Agent(name="bench", model=model, db=db)
        told = Agent(name="bench", model=model, db=db, add_history_to_context=True)
        found.clear()
        for count in (10 * short, 10 * long):
            session_id = f"history of {count}"
            await fill(silent, model, [session_id] * count)
            found.append(await seconds_of(partial(answer, told, model, session_id), scale.rounds))
        growth(f"history, {name}", *found)
        found.clear()
        stored = len(await silent.alist_sessions())
        for count in (10 * short, 10 * long):
            await fill(silent, model, [f"session {place}" for place in range(stored, count)])
            stored = count
            found.append(await seconds_of(silent.alist_sessions, scale.rounds))
        growth(f"list of sessions, {name}", *found)
        await db.aclose()


# What is printed.


def growth(what: str, short: float, long: float) -> None:
    ratio = long / short
    verdict = "ok" if ratio <= GOAL else "MISSED"
    print(
        f"10x {what:<26} once {short * 1e3:8.1f} ms   ten times {long * 1e3:8.1f} ms   ratio {ratio:6.2f}   goal <= {GOAL:g}  {verdict}"
    )


def report(what: str, plain: float, ours: float, *, unit: float = 1e6) -> None:
    print(f"{what:<30} plain {plain * unit:8.1f}   kern_async {ours * unit:8.1f}   ratio {ours / plain:6.2f}")


async def measure(scale: Scale) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for part in (batches, deltas, one_at_a_time, together, lengths):
            await part(directory, scale)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a few seconds: less of everything")
    parser.add_argument("--uvloop", action="store_true")
    arguments = parser.parse_args()
    quick = Scale(rounds=2, batches=3, deltas=2_000, runs=20, together=50, length=50)
    scale = quick if arguments.quick else Scale(rounds=arguments.rounds)
    print(
        f"Python {platform.python_version()}, {'uvloop' if arguments.uvloop else 'asyncio'}, {os.cpu_count()} cores,"
        f" SQLite {sqlite3.sqlite_version}; {scale.rounds} rounds"
    )
    anyio.run(measure, scale, backend_options={"use_uvloop": arguments.uvloop})


if __name__ == "__main__":
    main()
