"""What keeping a run costs, beside plain aiosqlite that does the same writes, in one process and run.

Plain means: the same tables, the same rows ready-made, `BEGIN IMMEDIATE`, a write-ahead log and `synchronous = FULL`,
one connection, `executemany` where there are several rows. It checks nothing, makes no JSON and waits for nobody.

- events: a row of `store_events=True`, in batches through the database's writer, and through a whole run;
- run: one question, one answer, and from the model's last word until the caller has the output, by which time it is
  durable; against two plain transactions;
- together: runs of one session at once.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
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

from benchmarks.figures import Figure
from benchmarks.measure import Scale
from kern_async.agent import Agent
from kern_async.db.base import Fence, PutEvents
from kern_async.db.database import BaseDb
from kern_async.db.in_memory import InMemoryDb
from kern_async.db.sqlite import SqliteDb
from kern_async.models.base import Emit, Model, ModelReply, ModelRequest

Row = tuple[Any, ...]
Writes = Sequence[tuple[str, Sequence[Row]]]
"""A transaction: tables and the rows that go into them."""


LOOPS = ("asyncio", "uvloop")


@dataclass(frozen=True)
class Amount:
    rounds: int = 5
    batches: int = 10
    batch: int = 1_000
    deltas: int = 10_000
    runs: int = 200
    together: int = 200


QUICK = Amount(rounds=2, batches=3, deltas=2_000, runs=20, together=50)


async def measure(scale: Scale) -> list[Figure]:
    amount = QUICK if scale.quick else Amount()
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as name:
        for part in (batches, deltas, one_at_a_time, together):
            figures += await part(Path(name), amount)
    return figures


def figure(what: str, unit: str, ours: float, **others: Any) -> Figure:
    return Figure(part="store", what=what, unit=unit, ours=ours, **others)


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


async def batches(directory: Path, amount: Amount) -> list[Figure]:
    """Rows that are ready, a transaction for each batch, one after the other."""
    ours: list[float] = []
    plain: list[float] = []
    for number in range(amount.rounds + 1):
        db = SqliteDb(directory / f"batches-{number}.db")
        await db.writer.opened().wait()
        other = await Plain.beside(db.db_file)
        of_runs = [f"{n:032x}" for n in range(amount.batches)]
        events = [(n, json.dumps({"event": "RunContent", "event_index": n, "run_id": of_runs[0], "created_at": 1_790_000_000, "agent_id": "bench", "agent_name": "bench", "session_id": of_runs[0], "content": f"w{n} "})) for n in range(amount.batch)]  # fmt: skip
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
    return [
        figure(
            "an event stored in a batch of 1,000, wall time, median",
            "us",
            statistics.median(ours) / amount.batch * 1e6,
            bare=statistics.median(plain) / amount.batch * 1e6,
            goal=1.5,
            against="bare",
        )
    ]


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


async def deltas(directory: Path, amount: Amount) -> list[Figure]:
    """A whole run's, with everything that is done on the way."""
    of_db: list[tuple[float, float]] = []
    without: list[tuple[float, float]] = []
    plain: list[tuple[float, float]] = []
    for number in range(amount.rounds + 1):
        db = SqliteDb(directory / f"deltas-{number}.db")
        await db.writer.opened().wait()
        without.append(await streamed(None, amount.deltas))
        of_db.append(await streamed(db, amount.deltas))
        other = await Plain.beside(db.db_file)
        rows = rows_of(db.db_file, "kern_events")
        assert len(rows) > amount.deltas
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        for start in range(0, len(rows), amount.batch):
            await other.write([("kern_events", rows[start : start + amount.batch])])
        plain.append(((time.perf_counter() - wall) / len(rows), (time.process_time() - cpu) / len(rows)))
        await db.aclose()
        await other.close()
    bare, kept, row = (min(cpu for _, cpu in costs) * 1e6 for costs in (without, of_db, plain))
    return [
        figure("CPU of a streamed delta with `store_events=True`", "us", kept, bare=bare + row),
        figure("CPU of a streamed delta without a database", "us", bare),
    ]


# Runs.


async def one_at_a_time(directory: Path, amount: Amount) -> list[Figure]:
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
    for number in range(amount.runs * amount.rounds):
        for name, agent in kinds.items():
            await found[name].add(partial(answer, agent, model, f"{name} {number}"))
        await found["plain"].add(partial(other.run, begin(number), end(number)))
    await db.aclose()
    await other.close()
    kept, plain = found["SqliteDb"], found["plain"]
    waits = statistics.median(kept.end) - statistics.median(found["without"].end)
    return [
        figure(
            "the end of a run until it is durable, SQLite, median",
            "ms",
            statistics.median(kept.end) * 1e3,
            bare=statistics.median(plain.end) * 1e3,
            goal=5,
        ),
        figure("the same, 95th percentile", "ms", p95(kept.end) * 1e3, bare=p95(plain.end) * 1e3),
        figure("of it, waiting for the database", "ms", waits * 1e3, bare=statistics.median(plain.end) * 1e3),
        *(
            figure(f"CPU of a run of one answer, {name}", "us", statistics.median(found[name].cpu) * 1e6)
            for name in kinds
        ),
        figure("CPU of its two transactions, plain", "us", statistics.median(plain.cpu) * 1e6),
    ]


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


async def together(directory: Path, amount: Amount) -> list[Figure]:
    model = Speaking(1)
    db, memory = SqliteDb(directory / "together.db"), InMemoryDb()
    await answer(Agent(name="bench", model=model, db=db), model, "first")
    other = await Plain.beside(db.db_file)
    begin, end = transactions_of(db.db_file)
    rates: dict[str, list[float]] = {}
    numbers = itertools.count()
    for number in range(amount.rounds + 1):
        for name, kind in (("without", None), ("in memory", memory), ("SqliteDb", db)):
            agent = Agent(name="bench", model=model, db=kind)
            rates.setdefault(name, []).append(await at_once(agent, model, [f"s{number}"] * amount.together))
        began = time.perf_counter()
        async with anyio.create_task_group() as group:
            for _ in range(amount.together):
                place = next(numbers)
                group.start_soon(other.run, begin(place), end(place))
        rates.setdefault("plain", []).append(amount.together / (time.perf_counter() - began))
    await db.aclose()
    await other.close()
    best = {name: max(found) for name, found in rates.items()}
    return [
        figure(f"{amount.together} runs of one session at once, {name}", "runs/s", rate, bare=best["plain"])
        for name, rate in best.items()
        if name != "plain"
    ]
