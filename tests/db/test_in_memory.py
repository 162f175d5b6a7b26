"""What the database in memory makes of each write, with a clock that the test moves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kern_async.db.base import (
    ClaimRun,
    DeleteSession,
    Fence,
    FindEvents,
    FindRun,
    FindRuns,
    FindSession,
    FindSessions,
    FindTree,
    Heartbeat,
    ImportSession,
    PutEvents,
    PutRun,
    Read,
    Reap,
    Retire,
    Write,
)
from kern_async.db.in_memory import MemoryStore, Tables
from kern_async.exceptions import Fenced, NotTheirs, RunExists, SessionBusy, SessionExists

from .stores import KEY, SEED

MINE = Fence(root_run_id="r", owner="me", attempt=0)


class Memory:
    def __init__(self) -> None:
        self.now = 1_000.0
        self.store = MemoryStore(Tables(), clock=lambda: self.now)

    async def do(self, write: Write) -> Any:
        (result,) = await self.store.apply([write])
        return result

    async def find(self, read: Read) -> Any:
        return await self.store.read(read)


@pytest.fixture
def memory() -> Memory:
    return Memory()


def put(run_id: str = "r", *, root: str | None = None, session: str = "s", **changes: Any) -> PutRun:
    root_id = root or run_id
    key = replace(
        KEY,
        run_id=run_id,
        root_run_id=root_id,
        parent_run_id=None if root is None else root,
        session_id=session,
    )
    write = PutRun(
        fence=replace(MINE, root_run_id=root_id),
        key=key,
        session=replace(SEED, session_id=session),
        status="RUNNING",
    )
    return replace(write, **changes)


async def test_a_row_keeps_what_is_not_given_and_its_lists_grow(memory: Memory) -> None:
    await memory.do(put(new=True, output="1", messages=[(0, "a"), (1, "b")], tools=[(0, "t")]))
    await memory.do(put(status="ERROR", error_type="E", error="e", messages=[(1, "B"), (2, "c")]))
    run = await memory.find(FindRun(run_id="r"))
    assert (run.status, run.output, run.error_type, run.error) == ("ERROR", "1", "E", "e")
    assert (run.messages, run.tools) == (["a", "B", "c"], ["t"])
    await memory.do(put(resume="2"))
    run = await memory.find(FindRun(run_id="r"))
    assert (run.status, run.output, run.resume, run.error_type, run.error) == (
        "RUNNING",
        "1",
        "2",
        None,
        None,
    )
    assert await memory.find(FindRun(run_id="unknown")) is None


async def test_a_new_run_takes_no_ones_id_and_may_be_written_twice(memory: Memory) -> None:
    assert await memory.do(put(new=True)) is None
    assert await memory.do(put(new=True)) is None
    other = replace(MINE, owner="other")
    assert isinstance(await memory.do(put(new=True, fence=other, output="theirs")), RunExists)
    assert (await memory.find(FindRun(run_id="r"))).output is None


async def test_a_session_of_somebody_else_is_not_written(memory: Memory) -> None:
    theirs = replace(SEED, user_id="bob", session_id="of-bob")
    assert await memory.do(_into("b", theirs)) is None
    refused = await memory.do(_into("c", replace(theirs, user_id="eve")))
    assert isinstance(refused, NotTheirs)
    assert await memory.find(FindRun(run_id="c")) is None
    assert await memory.do(_into("d", replace(theirs, user_id=None))) is None


def _into(run_id: str, seed: Any) -> PutRun:
    write = put(run_id, session=seed.session_id, new=True)
    return replace(write, session=seed, key=replace(write.key, user_id=seed.user_id))


async def test_who_claims_a_run_fences_all_others_off(memory: Memory) -> None:
    await memory.do(put(new=True, status="PAUSED"))
    await memory.do(put("m", root="r", new=True, status="CANCELLED"))
    theirs = Fence(root_run_id="r", owner="other", attempt=1)
    assert await memory.do(ClaimRun(fence=theirs)) is None
    assert isinstance(await memory.do(ClaimRun(fence=replace(theirs, owner="third"))), Fenced)
    for write in (
        put(status="COMPLETED"),
        put("m", root="r"),
        PutEvents(fence=MINE, events=[(0, "r", "x")]),
    ):
        assert isinstance(await memory.do(write), Fenced)
    tree = await memory.find(FindTree(root_run_id="r"))
    assert [(run.key.run_id, run.owner, run.status) for run in tree] == [
        ("r", "other", "RUNNING"),
        ("m", "other", "CANCELLED"),
    ]
    assert tree[0].attempt == 1
    assert await memory.find(FindEvents(root_run_id="r")) == []
    assert isinstance(await memory.do(ClaimRun(fence=replace(theirs, attempt=2))), Fenced), "it is live"
    unknown = replace(theirs, root_run_id="unknown")
    assert isinstance(await memory.do(ClaimRun(fence=unknown)), Fenced)


async def test_events_stay_as_they_were_first_written(memory: Memory) -> None:
    await memory.do(PutEvents(fence=MINE, events=[(1, "m", "b"), (0, "r", "a")]))
    await memory.do(PutEvents(fence=MINE, events=[(1, "m", "B"), (2, "r", "c")]))
    assert await memory.find(FindEvents(root_run_id="r")) == [(0, "a"), (1, "b"), (2, "c")]
    assert await memory.find(FindEvents(root_run_id="r", after=0, limit=1)) == [(1, "b")]
    assert await memory.find(FindEvents(root_run_id="r", run_ids=["m"])) == [(1, "b")]


async def test_what_changed_of_the_state_is_merged(memory: Memory) -> None:
    await memory.do(put(new=True, state={"a": "1", "b": "2"}))
    await memory.do(put("r1", new=True, state={"b": "3", "a": None, "c": "4"}))
    session = await memory.find(FindSession(session_id="s"))
    assert session.state == {"b": "3", "c": "4"}
    assert (session.seed, session.run_count) == (SEED, 2)
    assert await memory.find(FindSession(session_id="unknown")) is None


async def test_the_live_runs_of_who_is_gone_are_reaped_and_of_who_lives_are_not(memory: Memory) -> None:
    await memory.do(Heartbeat(owner="me", seconds=30))
    await memory.do(put(new=True))
    await memory.do(put("m", root="r", new=True, status="COMPLETED"))
    await memory.do(put("x", new=True, fence=Fence(root_run_id="x", owner="nobody", attempt=0)))
    assert await memory.do(Reap()) == ["x"]
    memory.now += 29
    assert await memory.do(Reap()) == []
    memory.now += 2
    assert await memory.do(Reap()) == ["r"]
    assert await memory.do(Reap()) == []
    run = await memory.find(FindRun(run_id="r"))
    assert (run.status, run.error_type, run.owner) == ("ERROR", "Interrupted", "me")
    assert await memory.do(put(status="COMPLETED")) is None, "it came back"


async def test_who_retires_leaves_its_live_runs_to_the_reaper(memory: Memory) -> None:
    await memory.do(Heartbeat(owner="me", seconds=30))
    await memory.do(put(new=True))
    await memory.do(Retire(owner="me"))
    assert await memory.do(Reap()) == ["r"]


async def test_a_session_is_deleted_whole_unless_it_is_busy(memory: Memory) -> None:
    await memory.do(put(new=True))
    await memory.do(PutEvents(fence=MINE, events=[(0, "r", "a")]))
    await memory.do(put("other", session="t", new=True))
    assert isinstance(await memory.do(DeleteSession(session_id="s")), SessionBusy)
    await memory.do(put(status="COMPLETED"))
    assert await memory.do(DeleteSession(session_id="s")) is True
    assert await memory.do(DeleteSession(session_id="s")) is False
    assert await memory.find(FindRun(run_id="r")) is None
    assert await memory.find(FindEvents(root_run_id="r")) == []
    assert await memory.find(FindRun(run_id="other")) is not None


async def test_an_imported_session_is_nobodys_and_complete_or_not_there(memory: Memory) -> None:
    await memory.do(put(new=True, status="PAUSED", messages=[(0, "a")], state={"k": "1"}))
    session = await memory.find(FindSession(session_id="s"))
    (run,) = await memory.find(FindTree(root_run_id="r"))
    assert isinstance(await memory.do(ImportSession(session=session, runs=[])), SessionExists)
    moved = replace(session, seed=replace(SEED, session_id="t"))
    assert isinstance(await memory.do(ImportSession(session=moved, runs=[run])), RunExists)
    assert await memory.find(FindSession(session_id="t")) is None
    copy = replace(run, key=replace(run.key, run_id="q", root_run_id="q", session_id="t"))
    write = ImportSession(session=moved, runs=[copy], events=[("q", 0, "q", "e")])
    assert await memory.do(write) is None
    found = await memory.find(FindRun(run_id="q"))
    assert found == replace(copy, owner=None, number=run.number + 1)
    assert await memory.find(FindEvents(root_run_id="q")) == [(0, "e")]
    assert (await memory.find(FindSession(session_id="t"))).state == {"k": "1"}
    claim = ClaimRun(fence=Fence(root_run_id="q", owner="me", attempt=1))
    assert await memory.do(claim) is None


async def test_runs_of_a_session_are_found_by_what_they_are(memory: Memory) -> None:
    for name in ("r0", "r1", "r2"):
        await memory.do(put(name, new=True, status="COMPLETED"))
        await memory.do(put(f"{name}-m", root=name, new=True))
    await memory.do(put("elsewhere", session="t", new=True))

    async def found(**options: Any) -> list[str]:
        return [run.key.run_id for run in await memory.find(FindRuns(session_id="s", **options))]

    assert await found() == ["r0", "r0-m", "r1", "r1-m", "r2", "r2-m"]
    assert await found(roots=True) == ["r0", "r1", "r2"]
    assert await found(ended=True, last=2) == ["r1", "r2"]
    assert await found(last=0) == []
    assert await found(kind="team") == []
    assert await found(kind="agent", entity_id="a", roots=True, last=9) == ["r0", "r1", "r2"]
    second = await memory.find(FindRun(run_id="r1"))
    assert await found(before=second.number) == ["r0", "r0-m"]


async def test_sessions_are_found_last_changed_first(memory: Memory) -> None:
    for name in ("a", "b", "c"):
        await memory.do(put(f"run-{name}", session=name, new=True))
    memory.now += 1
    await memory.do(put("run-a", session="a"))

    async def found(**options: Any) -> list[str]:
        return [session.seed.session_id for session in await memory.find(FindSessions(**options))]

    assert await found() == ["a", "c", "b"]
    assert await found(limit=1, offset=1) == ["c"]
    assert await found(user_id="bob") == []
    assert await found(kind="agent", entity_id="a", offset=2) == ["b"]


async def test_a_rejected_write_leaves_the_others_of_its_batch_alone(memory: Memory) -> None:
    other = put(new=True, fence=replace(MINE, owner="other"))
    results = await memory.store.apply([put(new=True), other, put(output="1")])
    assert [type(result) for result in results] == [type(None), RunExists, type(None)]
    assert (await memory.find(FindRun(run_id="r"))).output == "1"
