"""A run tree's way into its database: what it has come to while it lives, and each run's end before it is seen.

Nothing here waits but `settle`. Rows are made in the writer's thread: when a run ends, and about twenty times a
second for whatever has changed since. So the run's own task pays for neither JSON nor statements.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from kern_async.backend import current_loop
from kern_async.db.base import ClaimRun, Fence, PutEvents, PutRun, RunKey, SessionSeed, Write
from kern_async.db.database import BaseDb
from kern_async.db.writer import TICK, Ticket, Writer
from kern_async.exceptions import Fenced
from kern_async.run.base import RunStatus
from kern_async.run.message import now

from .attempt import Attempt
from .ending import CONTINUABLE, output_of, words_of
from .finishing import ending_below, prepare
from .observe import log
from .rows import Rows, changed_keys, dumped, text_of

if TYPE_CHECKING:
    from .kept import Kept
    from .run import Run

_RESTED = tuple(status.value for status in CONTINUABLE)


class Keeper:
    """One root run's, for the whole tree. The attributes with `_saved` in their name are the writer's thread's own."""

    def __init__(
        self, db: BaseDb, root: Run, *, timeout: float | None = None, fence: Fence | None = None
    ) -> None:
        self.db = db
        self.timeout = db.store_timeout if timeout is None else timeout
        """Seconds that an end waits for its row."""
        self.writer: Writer = db.writer
        self.fence = fence or Fence(root_run_id=root.id, owner=self.writer.owner, attempt=0)
        self.number: int | None = None
        """The run's place among those of its session, once it is known: of a run that goes on."""
        self.known_state: Mapping[str, str] = {}
        """The session's state, key by key as JSON, as this run found it."""
        self.remarks: list[str] = []
        """What the end has to say although its row is written."""
        self._root = weakref.ref(root)
        self._begun = fence is not None
        self._claimed = fence is None
        self._cut_by: float | None = None
        self._unwatch: Callable[[], None] | None = None
        self._first: Ticket | None = None
        self._left: list[tuple[Sequence[Run], float]] = []
        """Ends of members that wait for their team's, each after those below it, and how long they may."""
        self._unwait: Callable[[], object] | None = None
        self._saved: dict[str, Rows] = {}
        self._saved_events = 0
        self._saved_end: Attempt | None = None
        """The root's latest attempt whose end has been handed to the database."""
        self._saved_fence = self.fence
        """That of the latest attempt whose claim has been handed to the database: what comes before has its own."""

    # While the run lives.

    def begin(self, run: Run, status: RunStatus = RunStatus.running) -> Ticket:
        """Have the root's row written, and from now on what changes."""
        self._cut_by = None
        new, self._begun = not self._begun, True
        if self._unwatch is None:
            self._unwatch = self.writer.watch(self._collect)
        attempt, fence = run.attempt, self.fence

        def make() -> Sequence[Write]:
            if self._saved_end is attempt:  # cancelled before it began: its end stands
                return ()
            return [self._rows(run).begin(run, fence, status, new=new)]

        self._first = self._post(make)
        return self._first

    @property
    def refusal(self) -> Exception | None:
        """Why the database refuses the run, if it has said so."""
        return self._first.error if self._first is not None else None

    def begun(self) -> tuple[bool, str | None]:
        """Whether the run's first row is stored, and if not, what is known of the reason."""
        stored = self._first is not None and self._first.done and self._first.error is None
        return stored, None if stored else self._silence()

    def _silence(self) -> str:
        return self.writer.trouble or f"{self.db.name} did not answer within {self.timeout:g} s"

    def abandon(self) -> None:
        """The run will not be: nothing more is written of it."""
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None

    async def confirm(self, run: Run) -> None:
        """Before a run begins that has waited for its turn: see that no other process has ended it meanwhile."""
        ticket = self.begin(run)
        await ticket.wait(self.timeout)
        if isinstance(ticket.error, Fenced):
            run.cancel("request", "cancelled by another process")

    def claim(self, statuses: Sequence[str] = _RESTED) -> Ticket:
        """Take the next attempt at a run that rests, as the only one who does: `Fenced` if somebody else has."""
        if self._claimed:
            return self.writer.opened()
        self._claimed = True
        self.remarks.clear()  # they were the attempt's before
        self.fence = replace(self.fence, attempt=self.fence.attempt + 1)
        fence = self.fence

        def make() -> Sequence[Write]:
            self._saved_fence = fence
            return [ClaimRun(fence=fence, statuses=statuses)]

        return self._post(make)

    def unclaim(self, run: Run) -> None:
        """Give the next attempt back: the run rests as it did before."""
        if not self._claimed or (output := run.output) is None:
            return
        self._claimed = False
        fence, status = self.fence, output.status.value
        self._post(
            lambda: [
                PutRun(
                    fence=fence,
                    key=key_of(run),
                    session=_seed_of(run),
                    status=status,
                    error_type=output.error_type,
                    error=output.error,
                )
            ]
        )

    def rewrite(self, run: Run) -> None:
        """Write the conversation of a run anew that goes on in this process; before it begins."""
        self._rows(run).restart()

    def _rows(self, run: Run) -> Rows:
        rows = self._saved.get(run.id)
        if rows is None:
            rows = self._saved[run.id] = Rows(key_of(run), _seed_of(self._root() or run))
        return rows

    def _collect(self) -> Sequence[Write]:
        root = self._root()
        if root is None:
            if self._unwatch is not None:
                self._unwatch()
            return ()
        writes: list[Write] = []
        for run in (root, *root.below()):
            if run.executing and not (run.ended or run.closing or run.resting):
                put = self._rows(run).progress(run, self._saved_fence)
                if put is not None:
                    writes.append(put)
        return [*writes, *self._new_events(root)]

    def _new_events(self, root: Run) -> Iterator[Write]:
        events = root.log.events
        until = len(events)
        if until > self._saved_events:
            kept = {run.id: run for run in (root, *root.below()) if run.store_events}
            found = [
                (event.event_index, event.run_id, text_of(event))
                for event in events[self._saved_events : until]
                if (run := kept.get(event.run_id)) is not None and event.event not in run.events_to_skip
            ]
            self._saved_events = until
            if found:
                yield PutEvents(fence=self._saved_fence, events=found)

    def _post(self, make: Callable[[], Sequence[Write]], *, urgent: bool = True) -> Ticket:
        return self.writer.post(make, urgent=urgent)

    # The end.

    def put_end(self, run: Run, *, urgent: bool = True) -> Ticket | None:
        """Have the run's end written, once an attempt; None: another thread is at it right now.

        See `Writer.post` for `urgent`.
        """
        attempt = run.attempt
        if not attempt.first("posted"):
            return attempt.kept("ticket")
        ending = attempt.kept("ending")
        output = output_of(run, {**ending.fields, "event": run.event_name(ending.event)})
        claims = not self._claimed and run.parent is None
        if claims:
            self._claimed = True
            self.fence = replace(self.fence, attempt=self.fence.attempt + 1)
        fence = self.fence
        new = not self._begun and run.parent is None
        self._begun = True
        if run.parent is None and ending.outcome.status is RunStatus.paused:
            self._claimed = False
        # Now: the writer may come to it later.
        index = run.log.next_index + len(ending_below(run))
        mark = {"attempt": attempt.number, "log": index, "ended_at": now()}

        def make() -> Sequence[Write]:
            state: dict[str, str | None] = {}
            if run.parent is None:
                now_known, wrong = dumped(ending.fields["session_state"])
                self.remarks += [
                    f"session_state[{key!r}] of session {run.session_id!r} is no JSON and was not stored"
                    for key in wrong
                ]
                state = changed_keys(self.known_state, now_known, ignore=wrong)
                self.known_state = now_known
                self._saved_end = attempt
            put = self._rows(run).end(run, output, fence, state=state, new=new, mark=mark)
            root = run.root
            writes: list[Write] = []
            if claims:
                self._saved_fence = fence
                writes.append(ClaimRun(fence=fence))
            return [*writes, put, *self._new_events(root)]

        return attempt.keep("ticket", self._post(make, urgent=urgent))

    async def settle(self, run: Run) -> bool:
        """Make the end that was claimed and wait until it is stored, shielded, no longer than the time-out.

        False: the run is a member's and its team ends at the same cancel. Its end is published with the team's, or as
        soon as its row is stored, and nobody waits here: so the rows of all that is cut make one transaction.

        All rows of a tree that is cut have one deadline. Where the database has not answered anybody for so long,
        nobody waits.
        """
        until = time.monotonic() + self.timeout - self.writer.stalled()
        root = self._root()
        if root is not None and root.cancelling:
            if self._cut_by is None:
                self._cut_by = time.monotonic() + self.timeout
            until = min(until, self._cut_by)
        if prepare(run) is None:
            return True
        ends = [*ending_below(run), run]
        if run.cancelling and run.parent is not None and run.parent.stopping:
            self._leave(ends, until)
            return False
        await self._stored(ends, until, shield=True)
        return True

    async def _stored(self, ends: Sequence[Run], until: float, *, shield: bool = False) -> None:
        """Wait for the rows of ends that are made."""
        tickets = [self.put_end(run) for run in ends]
        for run in ends:
            run.attempt.first("waited")
        with anyio.move_on_after(until - time.monotonic(), shield=shield):
            # The last one first: when it is written, so are most of the others.
            for ticket in reversed(tickets):
                if ticket is not None and not ticket.done:
                    await ticket.wait()
        for run in ends:
            run.attempt.first("waited it out")

    def _leave(self, ends: Sequence[Run], until: float) -> None:
        """Leave the rest of a member's end to its team, or to a task of its own if that takes longer."""
        for run in ends:
            self.put_end(run, urgent=False)
        self._left.append((ends, until))
        if self._unwait is None:
            root, loop = self._root() or ends[-1].root, current_loop()
            cancel = loop.spawn(self._publish_left, name=f"kern-ends {root.id}", on_lost=self._left.clear)
            self._unwait = partial(loop.soon, cancel)

    async def _publish_left(self) -> None:
        await anyio.sleep(TICK)  # sooner only the team's end has their rows written
        for ends, until in self._left:  # which may become more meanwhile
            if not ends[-1].ended:
                await self._stored(ends, until)
                ends[-1].finish()
        self._left.clear()
        self._unwait = None

    def verdict(self, run: Run) -> dict[str, Any]:
        """What event and output say of the row: `stored` and `store_error`.

        Neither, where the end comes in somebody else's thread, in which nobody waits.
        """
        ticket = self.put_end(run)
        if ticket is None or (not ticket.done and not run.attempt.taken("waited")):
            return {}
        error = None
        if not ticket.done:
            patient = run.attempt.taken("waited it out")
            error = self._silence() if patient else "a further cancel came before the database had answered"
        elif ticket.error is not None:
            error = words_of(ticket.error)
        if error is not None:
            log("warning", "run.store_failed", **run.names(), error=error)
            return {"stored": False, "store_error": error}
        return {"stored": True, "store_error": "; ".join(self.remarks) or None}

    def published(self, run: Run) -> None:
        """The run's last event is in the log."""
        if run.parent is None:
            self.abandon()
            self._left.clear()
            unwait, self._unwait = self._unwait, None
            if unwait is not None:
                with suppress(RuntimeError):  # its loop is closed
                    unwait()
        elif self._unwatch is not None:
            return
        # Of a tree that rests nobody looks for events: a member that ends in it has its own written.
        self._post(lambda: list(self._new_events(run.root)))


def fence_of(db: BaseDb, kept: Kept) -> Fence | None:
    """What the store says of a kept run's latest attempt, as if it were this process's; None: it has no such run."""
    if kept.term is None:
        return None
    return Fence(root_run_id=kept.output.run_id, owner=db.writer.owner, attempt=kept.term)


def key_of(run: Run) -> RunKey:
    """Which run it is, for its database."""
    return RunKey(
        run_id=run.id,
        root_run_id=run.root.id,
        parent_run_id=run.parent.id if run.parent is not None else None,
        session_id=run.session_id,
        user_id=run.user_id,
        kind=run.owner.kind,
        entity_id=run.owner.id,
        created_at=run.created_at,
    )


def _seed_of(run: Run) -> SessionSeed:
    return SessionSeed(
        session_id=run.session_id, user_id=run.user_id, kind=run.owner.kind, entity_id=run.owner.id
    )
