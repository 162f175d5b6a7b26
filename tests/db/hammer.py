"""One of the processes that write to one database at once: `python hammer.py sqlite|postgres WHERE OWNER TURNS`.

It says what it was told of each of its claims and new runs, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys

from kern_async.db.base import (
    ClaimRun,
    Fence,
    FindRun,
    Heartbeat,
    PutEvents,
    PutRun,
    Reap,
    RunKey,
    SessionSeed,
    Store,
    Write,
)
from kern_async.db.postgres import PostgresDb
from kern_async.db.sqlite import SqliteDb


def put(run_id: str, root: str, owner: str, attempt: int, status: str, *, new: bool = False) -> PutRun:
    key = RunKey(
        run_id=run_id,
        root_run_id=root,
        parent_run_id=None if run_id == root else root,
        session_id="s",
        user_id=None,
        kind="agent",
        entity_id="a",
        created_at=0,
    )
    return PutRun(
        fence=Fence(root_run_id=root, owner=owner, attempt=attempt),
        key=key,
        session=SessionSeed(session_id="s", user_id=None, kind="agent", entity_id="a"),
        status=status,
        new=new,
        messages=[(attempt, json.dumps(owner))],
        state={f"{owner}-{run_id}": str(attempt)},
    )


async def hammer(store: Store, owner: str, turns: int) -> dict[str, list[str]]:
    """Both processes claim every attempt of "shared", begin every "new-N", and have runs of their own."""
    chance = random.Random(owner)
    won: list[str] = []
    begun: list[str] = []
    written: list[str] = []
    await store.open()
    await store.apply([put("shared", "shared", "nobody", 0, "PAUSED", new=True)])
    for turn in range(turns):
        mine = Fence(root_run_id="shared", owner=owner, attempt=turn + 1)
        own = f"{owner}-{turn}"
        writes: list[Write] = [
            Heartbeat(owner=owner, seconds=60),
            ClaimRun(fence=mine),
            put(f"new-{turn}", f"new-{turn}", owner, 0, "RUNNING", new=True),
            put(own, own, owner, 0, "RUNNING", new=True),
            put(f"{own}-member", own, owner, 0, "COMPLETED", new=True),
            PutEvents(
                fence=Fence(root_run_id=own, owner=owner, attempt=0), events=[(turn, own, json.dumps(owner))]
            ),
            Reap(),
        ]
        order = chance.sample(range(len(writes)), len(writes))
        results = await store.apply([writes[place] for place in order])
        told = {place: result for place, result in zip(order, results, strict=True)}  # noqa: C416 - a dict of pairs
        if told[2] is None:
            begun.append(f"new-{turn}")
        if all(told[place] is None for place in (0, 3, 4, 5)):
            written.append(own)
        if told[1] is None:
            won.append(str(turn + 1))
        # Whoever has it ends its attempt; the other one waits for that, and is fenced all the while.
        end = [
            put("shared", "shared", owner, turn + 1, "PAUSED"),
            PutEvents(fence=mine, events=[(turn, "shared", json.dumps(owner))]),
        ]
        ended = await store.apply(end)
        if (told[1] is None) != (ended == [None, None]):
            raise RuntimeError(f"turn {turn}: claim {told[1]!r}, end {ended!r}")
        while not await is_over(store, turn + 1):  # noqa: ASYNC110 - it is another process that ends it
            await asyncio.sleep(0.001)
    await store.close()
    return {"won": won, "begun": begun, "written": written}


async def is_over(store: Store, attempt: int) -> bool:
    run = await store.read(FindRun(run_id="shared"))
    return run.attempt > attempt or (run.attempt == attempt and run.status == "PAUSED")


if __name__ == "__main__":
    kind, where, owner, turns = sys.argv[1:]
    database = SqliteDb(where) if kind == "sqlite" else PostgresDb(where)
    print(json.dumps(asyncio.run(hammer(database.make_store(), owner, int(turns)))))
