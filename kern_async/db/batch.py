"""A batch of writes to an SQL database: look once at all rows that it is about, walk, write once for each table.

What a write does is decided in memory, in the order of the writes, against the rows as they were found and locked.
So a thousand writes cost as many statements as one, and a rejected one hinders no other.

Rows are locked, and new ones inserted, in one order by every process: sessions, runs, new sessions, new runs, owners,
each sorted by id. That is why two of them never wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    DeleteSession,
    Fence,
    Heartbeat,
    ImportSession,
    PutEvents,
    PutRun,
    Reap,
    Retire,
    RunKey,
    SessionSeed,
    SetSession,
    Write,
)
from .texts import json_body, key_body, plain, storable

EventRow = tuple[str, int, str, str]
"""root_run_id, event_index, run_id, JSON."""


@dataclass(slots=True, eq=False)
class RunRow:
    """A run as it is after the writes so far; what is None of `output` and `resume` stays as it is stored."""

    run_id: str
    root_run_id: str
    session_id: str
    owner: str | None
    attempt: int
    status: str
    error_type: str | None = None
    error: str | None = None
    number: int | None = None
    """None: it is not stored yet."""
    key: RunKey | None = None
    """Of one that is not stored yet."""
    output: str | None = None
    resume: str | None = None
    changed: bool = False
    cut: int | None = None
    """The place from which on its stored messages go, before any is written."""
    messages: dict[int, str] = field(default_factory=dict[int, str])
    tools: dict[int, str] = field(default_factory=dict[int, str])

    def put(self, put: PutRun) -> None:
        """Have the row say what is written."""
        after = (put.fence.owner, put.fence.attempt, put.status, plain(put.error_type), plain(put.error))
        if after != (self.owner, self.attempt, self.status, self.error_type, self.error):
            self.owner, self.attempt, self.status, self.error_type, self.error = after
            self.changed = True
        if put.output is not None:
            self.output, self.changed = json_body(put.output), True
        if put.resume is not None:
            self.resume, self.changed = json_body(put.resume), True
        if (cut := put.messages_cut) is not None:
            self.cut = cut if self.cut is None else min(self.cut, cut)
            self.messages = {place: body for place, body in self.messages.items() if place < cut}
        self.messages.update((place, json_body(body)) for place, body in put.messages)
        self.tools.update((place, json_body(body)) for place, body in put.tools)


@dataclass(slots=True, eq=False)
class SessionRow:
    """A session as it is after the writes so far; `state` has only what changes."""

    session_id: str
    user_id: str | None
    seed: SessionSeed | None = None
    """Of one that is not stored yet."""
    created_at: float = 0.0
    updated_at: float | None = None
    """None: it stays as it is stored."""
    state: dict[str, str | None] = field(default_factory=dict[str, "str | None"])
    cleared: bool = False
    """All of the stored state goes, before what is here is written."""
    name: str | None = None
    metadata: str | None = None
    """None of these two: as it is stored."""


@dataclass(slots=True, eq=False)
class Batch:
    """What the rows are, and what the writes make of them."""

    runs: dict[str, RunRow]
    sessions: dict[str, SessionRow]
    living: set[str]
    """Owners whose time is not over; only known when a write asks for it."""
    stamps: Iterator[float]
    """Rising times."""

    events: dict[str, dict[int, EventRow]] = field(default_factory=dict[str, dict[int, EventRow]])
    """By root and index."""
    claims: dict[str, str] = field(default_factory=dict[str, str])
    """The new owner of all rows of a tree, those too that were not looked at."""
    deleted: list[str] = field(default_factory=list[str])
    """Stored sessions that go, before anything is written."""
    leases: dict[str, float | None] = field(default_factory=dict[str, "float | None"])
    """Seconds from now; None: none any more."""
    reaped: bool = False
    _fine: set[str] = field(default_factory=set[str])

    def walk(self, writes: Iterable[Write]) -> list[Any]:
        results: list[Any] = []
        for write in writes:
            try:
                results.append(self._do(write))
            except WriteRejected as rejected:
                results.append(rejected)
        return results

    # Each either raises before it has changed anything, or is done.

    def _do(self, write: Write) -> Any:
        match write:
            case PutEvents():
                self._put_events(write)
            case PutRun():
                self._put_run(write)
            case ClaimRun():
                self._claim(write)
            case ImportSession():
                self._import(write)
            case SetSession():
                return self._set_session(write)
            case DeleteSession():
                return self._delete(write.session_id)
            case Heartbeat():
                self._check_texts(write.owner)
                self.leases[write.owner] = write.seconds
                self.living.add(write.owner)
            case Retire():
                self._check_texts(write.owner)
                self.leases[write.owner] = None
                self.living.discard(write.owner)
            case Reap():
                return self._reap()
        return None

    def _check_texts(self, *texts: str | None) -> None:
        for text in texts:
            if text is None or text in self._fine:
                continue
            if not storable(text):
                raise WriteRejected(
                    f"{text!r} cannot be stored: an id may have no NUL character and no half of a surrogate pair"
                )
            self._fine.add(text)

    def _check_fence(self, fence: Fence) -> None:
        if not (fence.root_run_id in self._fine and fence.owner in self._fine):
            self._check_texts(fence.root_run_id, fence.owner)
        root = self.runs.get(fence.root_run_id)
        if root is None or (root.owner == fence.owner and root.attempt == fence.attempt):
            return
        raise Fenced(
            f"run {fence.root_run_id!r} is at attempt {root.attempt} of another owner"
            if root.owner != fence.owner
            else f"run {fence.root_run_id!r} is at attempt {root.attempt}, not {fence.attempt}"
        )

    def _check_key(self, key: RunKey) -> None:
        self._check_texts(
            key.run_id,
            key.root_run_id,
            key.parent_run_id,
            key.session_id,
            key.user_id,
            key.kind,
            key.entity_id,
        )

    def _check_seed(self, seed: SessionSeed) -> None:
        self._check_texts(seed.session_id, seed.user_id, seed.kind, seed.entity_id)

    def _put_run(self, put: PutRun) -> None:
        key, fence, seed = put.key, put.fence, put.session
        self._check_key(key)
        self._check_seed(seed)
        self._check_texts(put.status)
        run, session = self.runs.get(key.run_id), self.sessions.get(seed.session_id)
        if put.new and run is not None:
            theirs = (run.root_run_id, run.owner, run.attempt)
            if theirs != (fence.root_run_id, fence.owner, fence.attempt):
                raise RunExists(f"a run {key.run_id!r} is stored already")
        if (
            session is not None
            and None not in (session.user_id, seed.user_id)
            and session.user_id != seed.user_id
        ):
            raise NotTheirs(f"session {seed.session_id!r} belongs to another user than {seed.user_id!r}")
        self._check_fence(fence)

        now = next(self.stamps)
        if session is None:
            session = SessionRow(seed.session_id, seed.user_id, seed, created_at=now)
            self.sessions[seed.session_id] = session
        session.updated_at = now
        for name, value in put.state.items():
            session.state[key_body(name)] = None if value is None else json_body(value)

        if run is None:
            run = RunRow(key.run_id, key.root_run_id, key.session_id, fence.owner, fence.attempt, put.status)
            run.key = key
            self._add(run)
        run.put(put)

    def _add(self, run: RunRow) -> None:
        self.runs.pop(run.run_id, None)  # the order of new ones is that of their numbers
        self.runs[run.run_id] = run

    def _put_events(self, put: PutEvents) -> None:
        self._check_fence(put.fence)
        for event in put.events:
            if event[1] not in self._fine:
                self._check_texts(event[1])
        self._add_events(put.fence.root_run_id, put.events)

    def _add_events(self, root_run_id: str, events: Iterable[tuple[int, str, str]]) -> None:
        of_tree = self.events.get(root_run_id)
        if of_tree is None:
            of_tree = self.events[root_run_id] = {}
        for index, run_id, body in events:
            if index not in of_tree:
                of_tree[index] = (root_run_id, index, run_id, json_body(body))

    def _claim(self, claim: ClaimRun) -> None:
        fence = claim.fence
        self._check_texts(fence.root_run_id, fence.owner)
        root = self.runs.get(fence.root_run_id)
        if root is None or root.attempt != fence.attempt - 1 or root.status not in claim.statuses:
            was = "not stored" if root is None else f"{root.status} at attempt {root.attempt}"
            raise Fenced(f"run {fence.root_run_id!r} cannot begin attempt {fence.attempt}: it is {was}")
        root.attempt, root.status, root.changed = fence.attempt, "RUNNING", True
        self.claims[fence.root_run_id] = fence.owner
        for run in self.runs.values():
            if run.root_run_id == fence.root_run_id:
                run.owner = fence.owner

    def _import(self, write: ImportSession) -> None:
        session, seed = write.session, write.session.seed
        self._check_seed(seed)
        for record in write.runs:
            self._check_key(record.key)
            self._check_texts(record.status)
        for root_run_id, _, run_id, _ in write.events:
            self._check_texts(root_run_id, run_id)
        if seed.session_id in self.sessions:
            raise SessionExists(f"a session {seed.session_id!r} is stored already")
        for record in write.runs:
            if record.key.run_id in self.runs:
                raise RunExists(f"a run {record.key.run_id!r} is stored already")
        self.sessions[seed.session_id] = SessionRow(
            seed.session_id,
            seed.user_id,
            seed,
            session.created_at,
            session.updated_at,
            {key_body(name): json_body(value) for name, value in session.state.items()},
            name=plain(session.name),
            metadata=None if session.metadata is None else json_body(session.metadata),
        )
        for record in write.runs:
            key = record.key
            run = RunRow(key.run_id, key.root_run_id, key.session_id, None, record.attempt, record.status)
            run.key = key
            run.output = None if record.output is None else json_body(record.output)
            run.resume = None if record.resume is None else json_body(record.resume)
            run.error_type, run.error = plain(record.error_type), plain(record.error)
            run.messages.update(enumerate(map(json_body, record.messages)))
            run.tools.update(enumerate(map(json_body, record.tools)))
            self._add(run)
        for root_run_id, index, run_id, body in write.events:
            self._add_events(root_run_id, [(index, run_id, body)])

    def _set_session(self, write: SetSession) -> bool:
        session = self.sessions.get(write.session_id)
        if session is None:
            return False
        session.updated_at = next(self.stamps)
        if write.name is not None:
            session.name = plain(write.name)
        if write.metadata is not None:
            session.metadata = json_body(write.metadata)
        if write.state is not None:
            session.cleared = True
            session.state = {key_body(name): json_body(value) for name, value in write.state.items()}
        return True

    def _delete(self, session_id: str) -> bool:
        of_session = [run for run in self.runs.values() if run.session_id == session_id]
        for run in of_session:
            if run.status in LIVE:
                raise SessionBusy(f"run {run.run_id!r} of session {session_id!r} has not ended")
        session = self.sessions.pop(session_id, None)
        for run in of_session:
            del self.runs[run.run_id]
            self.claims.pop(run.root_run_id, None)
            self.events.pop(run.root_run_id, None)
        if session is not None and session.seed is None:
            self.deleted.append(session_id)
        return session is not None

    def _reap(self) -> list[str]:
        self.reaped = True
        dead = [run for run in self.runs.values() if run.status in LIVE and run.owner not in self.living]
        for run in dead:
            run.status, run.changed = "ERROR", True
            run.error_type, run.error = INTERRUPTED, DIED
        dead.sort(key=lambda run: (run.number is None, run.number or 0))
        return [run.run_id for run in dead]


@dataclass(slots=True)
class Subjects:
    """What writes are about."""

    sessions: set[str] = field(default_factory=set[str])
    runs: set[str] = field(default_factory=set[str])
    """Those that are named, and the roots whose fences the writes have."""
    trees: set[str] = field(default_factory=set[str])
    """Roots, of whose rows all are changed."""
    deleted: set[str] = field(default_factory=set[str])
    """Sessions, of whose runs all are."""
    retired: set[str] = field(default_factory=set[str])
    reaps: bool = False


def subjects_of(writes: Iterable[Write]) -> Subjects:  # noqa: C901 - a line for each kind of write
    """What the writes are about, as far as it can be stored."""
    found = Subjects()
    for write in writes:
        match write:
            case PutEvents():
                found.runs.add(write.fence.root_run_id)
            case PutRun():
                found.sessions.add(write.session.session_id)
                found.runs |= {write.fence.root_run_id, write.key.run_id}
            case ClaimRun():
                found.runs.add(write.fence.root_run_id)
                found.trees.add(write.fence.root_run_id)
            case ImportSession():
                found.sessions.add(write.session.seed.session_id)
                found.runs.update(record.key.run_id for record in write.runs)
            case SetSession():
                found.sessions.add(write.session_id)
            case DeleteSession():
                found.sessions.add(write.session_id)
                found.deleted.add(write.session_id)
            case Retire():
                found.retired.add(write.owner)
            case Reap():
                found.reaps = True
            case Heartbeat():
                pass
    for texts in (found.sessions, found.runs, found.trees, found.deleted, found.retired):
        texts -= {text for text in texts if not storable(text)}
    return found
