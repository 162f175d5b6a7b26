"""What a store does for the engine: a few kinds of writes, applied in batches, and a few reads.

A `Store` talks to one database and is used by one thread only, the database's `Writer`, which has an event loop of
its own. The engine hands writes and reads to the writer and never touches a store.

Ids are plain text; what the engine keeps of a run, a message, a tool call or an event is JSON text that no store
looks into. Times are seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

LIVE = ("PENDING", "RUNNING")
"""Statuses of a run that some process owns and works on, or will."""

INTERRUPTED = "Interrupted"
"""The `error_type` of a run whose process died."""

DIED = "the process that worked on this run ended before the run did"
"""Its `error`."""


# What is written.


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """Who may write what belongs to a run tree: the process that owns the latest attempt at it.

    A write whose fence is not what the root's row says (somebody else has continued the run) is rejected as
    `Fenced`. Where there is no such row yet, the write makes it.
    """

    root_run_id: str
    owner: str
    """The process, see `Writer.owner`."""
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSeed:
    """What a session is made with, when the first run of it is written."""

    session_id: str
    user_id: str | None
    kind: Literal["agent", "team"]
    entity_id: str
    """The id of the agent or team; empty for one that was made for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunKey:
    """Which run it is; none of it ever changes."""

    run_id: str
    root_run_id: str
    parent_run_id: str | None
    session_id: str
    user_id: str | None
    kind: Literal["agent", "team"]
    entity_id: str
    """The id of the agent or team."""
    created_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PutRun:
    """Write a run's row: what is given is set, what is None stays, and lists grow or have places set anew.

    `new` says that no run of this id may be stored (by another fence); otherwise the write is rejected as `RunExists`.
    A write into a session of another user (both are known, and differ) is rejected as `NotTheirs`.
    Error and its type are set as they are given, None too; they are columns because the reaper sets them.
    """

    fence: Fence
    key: RunKey
    session: SessionSeed
    status: str
    new: bool = False
    output: str | None = None
    """JSON: what `output` says of the run, without what has a place of its own below."""
    resume: str | None = None
    """JSON: what going on with the run needs besides."""
    error_type: str | None = None
    error: str | None = None
    messages_cut: int | None = None
    """Messages from this place on are removed first."""
    messages: Sequence[tuple[int, str]] = ()
    """Places in the conversation, counted from 0, and their JSON."""
    tools: Sequence[tuple[int, str]] = ()
    state: Mapping[str, str | None] = field(default_factory=dict[str, "str | None"])
    """Keys of the session's state and their new JSON values; None removes a key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PutEvents:
    """Write events of a run tree: (event_index, run_id, JSON). One that is there already stays as it is."""

    fence: Fence
    events: Sequence[tuple[int, str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRun:
    """Begin a further attempt at a root run, as the only one who does.

    If the row's attempt is `fence.attempt - 1` and its status is one of `statuses`, owner and attempt become the
    fence's and the status RUNNING, and all rows of the tree have the new owner. Otherwise rejected as `Fenced`.
    """

    fence: Fence
    statuses: Sequence[str] = ("PAUSED", "CANCELLED", "ERROR")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSession:
    """Write a whole session that is not stored yet, with rows that nobody owns.

    Rejected, and nothing of it written: `SessionExists`, or `RunExists` when one of its runs' ids is in use.
    """

    session: SessionRecord
    runs: Sequence[RunRecord]
    events: Sequence[tuple[str, int, str, str]] = ()
    """(root_run_id, event_index, run_id, JSON)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetSession:
    """Change a stored session: what is given is set, what is None stays. The result says whether there is one."""

    session_id: str
    name: str | None = None
    metadata: str | None = None
    """JSON."""
    state: Mapping[str, str] | None = None
    """All keys that it has from now on, and their JSON values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteSession:
    """Delete a session and all that belongs to it. The result says whether there was one.

    Rejected as `SessionBusy` while one of its runs is live.
    """

    session_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Say that a process lives, for so many seconds from now, by the database's clock."""

    owner: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Retire:
    """Forget a process that ends in good order: what it left live is nobody's from now on."""

    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reap:
    """Make ERROR (`error_type` `Interrupted`) of every live run whose owner's time is over, or that has none.

    The result is the list of their run ids. The owner stays in the row: if it comes back before anybody claims the
    run, its own end is written over this one.
    """


Write = PutRun | PutEvents | ClaimRun | ImportSession | SetSession | DeleteSession | Heartbeat | Retire | Reap


# What is read.


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A run as it is stored. `number` rises in the order in which runs were first written."""

    key: RunKey
    number: int
    status: str
    attempt: int
    owner: str | None
    output: str | None
    resume: str | None
    error_type: str | None
    error: str | None
    messages: Sequence[str]
    tools: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecord:
    """A session as it is stored; `state` has the JSON of each key's value."""

    seed: SessionSeed
    state: Mapping[str, str]
    created_at: float
    updated_at: float
    """When it, or a run of it, was last written."""
    run_count: int = 0
    """How many root runs it has."""
    name: str | None = None
    metadata: str | None = None
    """JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FindRun:
    """-> `RunRecord | None`."""

    run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FindTree:
    """-> `list[RunRecord]`: all runs of a root run's tree, in the order of their numbers."""

    root_run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FindSession:
    """-> `SessionRecord | None`."""

    session_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FindRuns:
    """-> `list[RunRecord]`: runs of a session, in the order of their numbers; of agent or team `entity_id` only, if given.

    `last` is how many at most, counted from the newest; `before`: those whose number is less; `roots`: no members'.
    """

    session_id: str
    kind: Literal["agent", "team"] | None = None
    entity_id: str | None = None
    roots: bool = False
    bare: bool = False
    """Leave out their messages and tool calls."""
    ended: bool = False
    """Leave out those that are live."""
    before: int | None = None
    last: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CountSessions:
    """-> `int`: how many sessions there are; of one user, agent or team only, if given."""

    user_id: str | None = None
    kind: Literal["agent", "team"] | None = None
    entity_id: str | None = None
    name: str | None = None
    """Only those whose names have this in them, whatever the case of its letters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FindSessions(CountSessions):
    """-> `list[SessionRecord]`: these sessions, the last ones first."""

    by: Literal["updated_at", "created_at"] = "updated_at"
    first: bool = False
    """The first ones first."""
    limit: int | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FindOpenings:
    """-> `dict[str, str | None]`: `output` of the first root run of each of these sessions that has one."""

    session_ids: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class FindEvents:
    """-> `list[tuple[int, str]]`: (event_index, JSON) of a tree with a greater index than `after`, in order.

    `run_ids`: of these runs only, if given. `limit` is how many at most.
    """

    root_run_id: str
    after: int = -1
    run_ids: Sequence[str] | None = None
    limit: int = 1_000


Read = FindRun | FindTree | FindSession | FindRuns | FindSessions | CountSessions | FindOpenings | FindEvents


class Store(Protocol):
    """One database, used from one event loop."""

    async def open(self) -> None:
        """Connect, check what is there, and bring its schema up to date. Called once more after a failure.

        Raises:
            DatabaseUnusable: it will never work so: no database, a newer schema, a missing directory, a wrong URL.
            Exception: any other failure may pass; the writer tries again.
        """
        ...

    async def apply(self, writes: Sequence[Write]) -> list[Any]:
        """Apply the writes, in their order, in one transaction that is durable when this returns.

        Returns a result for each: None or what its class says, or a `WriteRejected` for one that was not applied.

        Raises:
            Exception: nothing was applied.
        """
        ...

    async def read(self, read: Read) -> Any:
        """Answer one question, see its class."""
        ...

    async def close(self) -> None:
        """Let go of the database. Safe to call twice, and after a failure."""
        ...
