"""Following a run from outside: its events from the first that one missed on, and what it has come to."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Self

import anyio

from kern_async.db.base import LIVE, FindEvents, FindRun, FindTree, RunRecord
from kern_async.db.database import BaseDb
from kern_async.run.base import BaseEvent, BaseOutput, Ended, Paused, RunStatus
from kern_async.run.team import event_reader
from kern_async.run.trusted import trusted

from . import registry
from .asking import Talk, ask, drive, drive_in_thread
from .ending import RunOutputs
from .kept import Kept, kept_from_records
from .log import Cursor
from .owner import EVENTS
from .run import Run

POLL = 0.1
"""Seconds between two looks at a run that another process executes."""


_END = {
    RunStatus.completed: "RunCompleted",
    RunStatus.cancelled: "RunCancelled",
    RunStatus.error: "RunError",
    RunStatus.paused: "RunPaused",
}


def live_output(run_id: str) -> RunOutputs | None:
    """What a run of this process has come to, unless it has ended."""
    run = registry.find(run_id)
    if run is None or run.ended:
        return None
    if run.resting and run.output is not None:
        return run.output
    return run.draft(RunStatus.running if run.executing else RunStatus.pending)


def end_event(output: BaseOutput, kind: str, index: int, created_at: int) -> BaseEvent:
    """The terminal or paused event of a run, made anew of what it left."""
    cls = EVENTS[kind][_END[output.status]]
    known = {name: getattr(output, name) for name in cls.model_fields if hasattr(output, name)}
    if issubclass(cls, Paused):
        known["tools"] = [requirement.tool_execution for requirement in output.requirements or ()]
    del known["event"]
    return trusted(cls, {**known, "event_index": index, "created_at": created_at})


class EventReader(AsyncIterator[BaseEvent], Iterator[BaseEvent]):
    """See `run_events`. For one task or thread at a time; a cancelled wait loses no event.

    `run` is one that this process holds, for a reader that knows it: it is read even when it has ended by then, to the
    end of the attempt with this number.
    """

    def __init__(
        self,
        db: BaseDb | None,
        run_id: str,
        after: int,
        run: Run | None = None,
        *,
        attempt: int | None = None,
    ) -> None:
        self._db = db
        self._run_id = run_id
        self._after = after
        self._read: deque[BaseEvent] = deque()
        self._cursor: Cursor | None = None
        self._live: Run | None = None
        self._attempt_began = 0
        self._over = False
        self._held = run, attempt
        if run is not None and (db is None or run.log.base <= after + 1):
            self._follow(run)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> BaseEvent:
        while not self._read:
            if self._over:
                raise StopAsyncIteration
            if self._look():
                continue
            if self._cursor is not None:
                await self._cursor.wait()
            elif not await drive(self._fetch(), self._patience):
                await anyio.sleep(POLL)
        return self._next()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> BaseEvent:
        while not self._read:
            if self._over:
                raise StopIteration
            if self._look():
                continue
            if self._cursor is not None:
                self._cursor.wait_in_thread()
            elif not drive_in_thread(self._fetch(), self._patience):
                time.sleep(POLL)
        return self._next()

    def ready(self) -> list[BaseEvent]:
        """What can be read without waiting."""
        if not self._read and not self._over:
            self._look()
        events = list(self._read)
        self._read.clear()
        if events:
            self._after = events[-1].event_index
        return events

    async def some(self) -> list[BaseEvent]:
        """What can be read at once, at least one event; none at the end. A cancelled wait loses no event."""
        try:
            event = await anext(self)
        except StopAsyncIteration:
            return []
        return [event, *self.ready()]

    @property
    def over(self) -> bool:
        """Whether there is nothing more to come."""
        return self._over and not self._read

    @property
    def behind(self) -> int:
        """How many events of the tree are in memory that were not read yet."""
        return self._live.log.next_index - 1 - self._after if self._live is not None else 0

    @property
    def _patience(self) -> float:
        return self._db.store_timeout if self._db is not None else 0.0

    def _next(self) -> BaseEvent:
        event = self._read.popleft()
        self._after = event.event_index
        return event

    def _look(self) -> bool:
        """Read what is in memory; say whether there was anything."""
        if self._cursor is None:
            run = self._held[0] or _find(self._run_id)
            if run is None:
                return False
            if run.log.base > self._after + 1 and self._db is not None:
                return False  # earlier events are in the database only
            self._follow(run)
        cursor = self._cursor
        if cursor is None:
            return False
        while (event := cursor.take()) is not None:
            if event.event_index > self._after and self._concerns(event):
                self._read.append(event)
                if event.run_id == self._run_id and self._ends_here(event):
                    self._over = True
                    return True
        self._over = cursor.exhausted or (not self._read and self._was_read())
        return bool(self._read) or self._over

    def _follow(self, run: Run) -> None:
        self._live = run
        attempt = self._held[1]
        if attempt is None:
            root = run.root
            attempt = root.attempt.number - (root.resting and not root.ended)
        self._cursor = run.log.cursor_from(self._after + 1, attempt)
        self._attempt_began = run.log.began(attempt)

    def _ends_here(self, event: BaseEvent) -> bool:
        """Whether it is the last of the run's events: one that paused or ended may have gone on since."""
        if not _is_end(event):
            return False
        of_member = self._live is not None and self._live.parent is not None
        return event.event_index >= self._attempt_began or (of_member and not isinstance(event, Paused))

    def _was_read(self) -> bool:
        """Whether it is a member's run that is over before its root's, and whose end was read before."""
        run = self._live
        return (
            run is not None
            and run.parent is not None
            and (run.ended or (run.resting and not run.root.executing))
            and run.settled is not None
            and run.settled.index <= self._after
        )

    def _concerns(self, event: BaseEvent) -> bool:
        run = self._live
        if run is None or run.parent is None or event.run_id == run.id:
            return True
        return any(below.id == event.run_id for below in run.below())

    def _fetch(self) -> Talk[bool]:
        """Read what is stored; say whether there was anything, or it is over."""
        db = self._db
        record: RunRecord | None = None
        if db is not None:
            record = yield from ask(db, FindRun(run_id=self._run_id))
        if db is None or record is None:
            self._over = True
            return True
        root_id = record.key.root_run_id
        kept = _part(kept_from_records((yield from ask(db, FindTree(root_run_id=root_id)))), self._run_id)
        below = [each.output.run_id for each in kept.tree()]
        found: list[tuple[int, str]] = yield from ask(
            db, FindEvents(root_run_id=root_id, after=self._after, run_ids=below)
        )
        if found:
            self._read += [event_reader().validate_python(json.loads(text)) for _, text in found]
            return True
        live = self._held[0] or _find(self._run_id)
        if live is not None:
            self._follow(live)
            return True
        if record.status in LIVE:
            return False
        mark = kept.resume.get("log", 0) + kept.interrupted  # where its end is, or would be
        last: list[tuple[int, str]] = yield from ask(
            db, FindEvents(root_run_id=root_id, after=mark - 1, run_ids=below)
        )
        ends = (event_reader().validate_python(json.loads(text)) for _, text in last)
        if not any(end.run_id == self._run_id and _is_end(end) for end in ends):
            index = max([mark, *(at + 1 for at, _ in last)])  # after its members' events, too
            if index > self._after:
                at = kept.resume.get("ended_at", kept.output.created_at)
                self._read.append(end_event(kept.output, record.key.kind, index, at))
        self._over = True
        return True


def _find(run_id: str) -> Run | None:
    """A run of this process that has not ended, or a member's that has, of a run that has not."""
    run = registry.find(run_id)
    if run is not None:
        return None if run.ended else run
    roots = (live for live in registry.live_runs() if live.parent is None and not live.ended)
    return next((run for root in roots for run in root.below() if run.id == run_id), None)


def _part(roots: Sequence[Kept], run_id: str) -> Kept:
    return next(kept for root in roots for kept in root.tree() if kept.output.run_id == run_id)


def _is_end(event: BaseEvent) -> bool:
    return isinstance(event, Ended)
