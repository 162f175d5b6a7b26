"""A database in this process's memory, for tests and programs that keep nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from kern_async.exceptions import (
    Fenced,
    NotTheirs,
    RunExists,
    SessionBusy,
    SessionExists,
    WriteRejected,
)

from .base import (
    DIED,
    INTERRUPTED,
    LIVE,
    ClaimRun,
    CountSessions,
    DeleteSession,
    Fence,
    FindEvents,
    FindOpenings,
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
    RunKey,
    RunRecord,
    SessionRecord,
    SessionSeed,
    SetSession,
    Store,
    Write,
)
from .database import BaseDb


class InMemoryDb(BaseDb):
    """A database that lives and dies with this object; a close loses nothing."""

    def __init__(self, *, store_timeout: float = 2.0, lease_seconds: float = 30.0) -> None:
        super().__init__(store_timeout=store_timeout, lease_seconds=lease_seconds)
        self._tables = Tables()

    def __repr__(self) -> str:
        return "InMemoryDb()"

    @property
    def name(self) -> str:
        return "InMemoryDb"

    @property
    def key(self) -> Hashable:
        return self._tables

    def make_store(self) -> Store:
        return MemoryStore(self._tables)


@dataclass(slots=True, eq=False)
class _Run:
    key: RunKey
    number: int
    owner: str | None
    attempt: int
    status: str
    output: str | None = None
    resume: str | None = None
    error_type: str | None = None
    error: str | None = None
    messages: dict[int, str] = field(default_factory=dict[int, str])
    tools: dict[int, str] = field(default_factory=dict[int, str])

    def record(self, *, bare: bool = False) -> RunRecord:
        return RunRecord(
            key=self.key,
            number=self.number,
            status=self.status,
            attempt=self.attempt,
            owner=self.owner,
            output=self.output,
            resume=self.resume,
            error_type=self.error_type,
            error=self.error,
            messages=[] if bare else _in_order(self.messages),
            tools=[] if bare else _in_order(self.tools),
        )


@dataclass(slots=True, eq=False)
class _Session:
    seed: SessionSeed
    created_at: float
    updated_at: float
    change: int
    """Rises with every change in any session: of two in the same instant the later one is known."""
    state: dict[str, str] = field(default_factory=dict[str, str])
    name: str | None = None
    metadata: str | None = None


@dataclass(slots=True, eq=False)
class Tables:
    """What is stored."""

    runs: dict[str, _Run] = field(default_factory=dict[str, _Run])
    sessions: dict[str, _Session] = field(default_factory=dict[str, _Session])
    roots: dict[str, int] = field(default_factory=dict[str, int])
    """How many root runs each session has: every run asks for its session."""
    events: dict[str, dict[int, tuple[str, str]]] = field(
        default_factory=dict[str, dict[int, tuple[str, str]]]
    )
    leases: dict[str, float] = field(default_factory=dict[str, float])
    last_number: int = 0
    last_change: int = 0


class MemoryStore:
    """`Store` over `Tables`. `clock` gives seconds since the epoch."""

    def __init__(self, tables: Tables, *, clock: Callable[[], float] = time.time) -> None:
        self._tables = tables
        self._clock = clock

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def apply(self, writes: Sequence[Write]) -> list[Any]:
        results: list[Any] = []
        for write in writes:
            try:
                results.append(self._apply(write))
            except WriteRejected as rejected:
                results.append(rejected)
        return results

    async def read(self, read: Read) -> Any:
        match read:
            case FindRun(run_id=run_id):
                run = self._tables.runs.get(run_id)
                return run.record() if run else None
            case FindTree(root_run_id=root):
                return [run.record() for run in self._ordered() if run.key.root_run_id == root]
            case FindSession(session_id=session_id):
                return self._session(session_id) if session_id in self._tables.sessions else None
            case FindRuns():
                return self._find_runs(read)
            case FindSessions():
                return self._find_sessions(read)
            case CountSessions():
                return len(self._chosen(read))
            case FindOpenings():
                return self._find_openings(set(read.session_ids))
            case FindEvents():
                return self._find_events(read)

    # Writes. Each either raises before it has changed anything, or is done.

    def _apply(self, write: Write) -> Any:
        match write:
            case PutRun():
                self._put_run(write)
            case PutEvents():
                self._put_events(write)
            case ClaimRun():
                self._claim(write)
            case ImportSession():
                self._import(write)
            case SetSession():
                return self._set_session(write)
            case DeleteSession():
                return self._delete(write.session_id)
            case Heartbeat():
                self._tables.leases[write.owner] = self._clock() + write.seconds
            case Retire():
                self._tables.leases.pop(write.owner, None)
            case Reap():
                return self._reap()
        return None

    def _check(self, fence: Fence) -> None:
        root = self._tables.runs.get(fence.root_run_id)
        if root is not None and (root.owner, root.attempt) != (fence.owner, fence.attempt):
            raise Fenced(
                f"run {fence.root_run_id!r} is at attempt {root.attempt} of another owner"
                if root.owner != fence.owner
                else f"run {fence.root_run_id!r} is at attempt {root.attempt}, not {fence.attempt}"
            )

    def _put_run(self, put: PutRun) -> None:
        key, fence, tables = put.key, put.fence, self._tables
        run = tables.runs.get(key.run_id)
        ours = (fence.root_run_id, fence.owner, fence.attempt)
        if put.new and run is not None and (run.key.root_run_id, run.owner, run.attempt) != ours:
            raise RunExists(f"a run {key.run_id!r} is stored already")
        session = tables.sessions.get(put.session.session_id)
        if session is not None:
            theirs, user = session.seed.user_id, put.session.user_id
            if theirs is not None and user is not None and theirs != user:
                raise NotTheirs(f"session {put.session.session_id!r} belongs to another user than {user!r}")
        self._check(fence)

        now = self._clock()
        if session is None:
            session = _Session(put.session, now, now, 0)
            tables.sessions[put.session.session_id] = session
        session.updated_at, session.change = now, self._next_change()
        if run is None:
            run = _Run(key, self._next_number(), fence.owner, fence.attempt, put.status)
            self._add(run)
        run.owner, run.attempt, run.status = fence.owner, fence.attempt, put.status
        run.output = run.output if put.output is None else put.output
        run.resume = run.resume if put.resume is None else put.resume
        run.error_type, run.error = put.error_type, put.error
        if put.messages_cut is not None:
            run.messages = {at: body for at, body in run.messages.items() if at < put.messages_cut}
        run.messages.update(put.messages)
        run.tools.update(put.tools)
        for name, value in put.state.items():
            if value is None:
                session.state.pop(name, None)
            else:
                session.state[name] = value

    def _put_events(self, put: PutEvents) -> None:
        self._check(put.fence)
        events = self._tables.events.setdefault(put.fence.root_run_id, {})
        for index, run_id, text in put.events:
            events.setdefault(index, (run_id, text))

    def _claim(self, claim: ClaimRun) -> None:
        fence = claim.fence
        root = self._tables.runs.get(fence.root_run_id)
        if root is None or root.attempt != fence.attempt - 1 or root.status not in claim.statuses:
            was = "not stored" if root is None else f"{root.status} at attempt {root.attempt}"
            raise Fenced(f"run {fence.root_run_id!r} cannot begin attempt {fence.attempt}: it is {was}")
        root.attempt, root.status = fence.attempt, "RUNNING"
        for run in self._tree(fence.root_run_id):
            run.owner = fence.owner

    def _import(self, write: ImportSession) -> None:
        tables, session = self._tables, write.session
        session_id = session.seed.session_id
        if session_id in tables.sessions:
            raise SessionExists(f"a session {session_id!r} is stored already")
        for record in write.runs:
            if record.key.run_id in tables.runs:
                raise RunExists(f"a run {record.key.run_id!r} is stored already")
        tables.sessions[session_id] = _Session(
            session.seed,
            session.created_at,
            session.updated_at,
            self._next_change(),
            dict(session.state),
            session.name,
            session.metadata,
        )
        for record in write.runs:
            self._add(
                _Run(
                    record.key,
                    self._next_number(),
                    None,
                    record.attempt,
                    record.status,
                    record.output,
                    record.resume,
                    record.error_type,
                    record.error,
                    dict(enumerate(record.messages)),
                    dict(enumerate(record.tools)),
                )
            )
        for root, index, run_id, text in write.events:
            tables.events.setdefault(root, {}).setdefault(index, (run_id, text))

    def _set_session(self, write: SetSession) -> bool:
        session = self._tables.sessions.get(write.session_id)
        if session is None:
            return False
        session.updated_at, session.change = self._clock(), self._next_change()
        session.name = session.name if write.name is None else write.name
        session.metadata = session.metadata if write.metadata is None else write.metadata
        if write.state is not None:
            session.state = dict(write.state)
        return True

    def _delete(self, session_id: str) -> bool:
        tables = self._tables
        runs = [run for run in tables.runs.values() if run.key.session_id == session_id]
        for run in runs:
            if run.status in LIVE:
                raise SessionBusy(f"run {run.key.run_id!r} of session {session_id!r} has not ended")
        for run in runs:
            del tables.runs[run.key.run_id]
            tables.events.pop(run.key.root_run_id, None)
        tables.roots.pop(session_id, None)
        return tables.sessions.pop(session_id, None) is not None

    def _reap(self) -> list[str]:
        now, leases = self._clock(), self._tables.leases
        for owner in [owner for owner, until in leases.items() if until < now]:
            del leases[owner]
        reaped: list[str] = []
        for run in self._ordered():
            if run.status in LIVE and run.owner not in leases:
                run.status, run.error_type, run.error = "ERROR", INTERRUPTED, DIED
                reaped.append(run.key.run_id)
        return reaped

    def _add(self, run: _Run) -> None:
        key, roots = run.key, self._tables.roots
        self._tables.runs[key.run_id] = run
        if key.run_id == key.root_run_id:
            roots[key.session_id] = roots.get(key.session_id, 0) + 1

    def _next_number(self) -> int:
        self._tables.last_number += 1
        return self._tables.last_number

    def _next_change(self) -> int:
        self._tables.last_change += 1
        return self._tables.last_change

    # Reads.

    def _ordered(self) -> Iterable[_Run]:
        return self._tables.runs.values()  # never written anew, so their order is that of their numbers

    def _tree(self, root_run_id: str) -> Iterable[_Run]:
        return (run for run in self._ordered() if run.key.root_run_id == root_run_id)

    def _session(self, session_id: str) -> SessionRecord:
        session = self._tables.sessions[session_id]
        return SessionRecord(
            seed=session.seed,
            state=dict(session.state),
            created_at=session.created_at,
            updated_at=session.updated_at,
            run_count=self._tables.roots.get(session_id, 0),
            name=session.name,
            metadata=session.metadata,
        )

    def _find_runs(self, find: FindRuns) -> list[RunRecord]:
        runs = [
            run
            for run in self._ordered()
            if run.key.session_id == find.session_id
            and find.kind in (None, run.key.kind)
            and find.entity_id in (None, run.key.entity_id)
            and not (find.roots and run.key.run_id != run.key.root_run_id)
            and not (find.ended and run.status in LIVE)
            and (find.before is None or run.number < find.before)
        ]
        if find.last is not None:
            runs = runs[max(0, len(runs) - find.last) :]
        return [run.record(bare=find.bare) for run in runs]

    def _chosen(self, find: CountSessions) -> list[_Session]:
        return [
            session
            for session in self._tables.sessions.values()
            if find.user_id in (None, session.seed.user_id)
            and find.kind in (None, session.seed.kind)
            and find.entity_id in (None, session.seed.entity_id)
            and (
                find.name is None or (session.name is not None and find.name.lower() in session.name.lower())
            )
        ]

    def _find_sessions(self, find: FindSessions) -> list[SessionRecord]:
        sessions = self._chosen(find)
        if find.by == "updated_at":
            sessions.sort(key=lambda session: (session.updated_at, session.change))
        else:
            sessions.sort(key=lambda session: session.created_at)
        if not find.first:
            sessions.reverse()
        end = None if find.limit is None else find.offset + find.limit
        return [self._session(session.seed.session_id) for session in sessions[find.offset : end]]

    def _find_openings(self, session_ids: set[str]) -> dict[str, str | None]:
        found: dict[str, str | None] = {}
        for run in self._ordered():
            key = run.key
            if key.session_id in session_ids and key.run_id == key.root_run_id:
                found.setdefault(key.session_id, run.output)
        return found

    def _find_events(self, find: FindEvents) -> list[tuple[int, str]]:
        events = self._tables.events.get(find.root_run_id, {})
        return [
            (index, text)
            for index, (run_id, text) in sorted(events.items())
            if index > find.after and (find.run_ids is None or run_id in find.run_ids)
        ][: find.limit]


def _in_order(places: dict[int, str]) -> list[str]:
    return [places[place] for place in sorted(places)]
