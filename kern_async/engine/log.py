"""The event log of a run tree, and the cursors that read it.

One append-only list serves every reader. Appending is synchronous and cannot fail, so a terminal event always
fits and always arrives last; a reader is an index into the list. A wake-up object exists only while somebody
waits. Waiting is free of locks: a waiter registers first and looks again, an appender appends first and wakes
then, so one of them sees the other, from any thread.
"""

from __future__ import annotations

from kern_async.backend import Bell
from kern_async.run.base import BaseEvent

GATE_LIMIT = 256
"""How many events a run may be ahead of the stream that reads it."""

BRIEF = frozenset(
    prefix + name
    for prefix in ("", "Team")
    for name in (
        "RunStarted",
        "RunContent",
        "RunCompleted",
        "RunError",
        "RunCancelled",
        "RunPaused",
        "RunContinued",
    )
)
"""Events of a stream with `stream_events=False`."""


class EventLog:
    """All events of a root run and its members, in order."""

    __slots__ = ("_changed", "_gate", "_room", "base", "closed", "ends", "events", "hidden", "starts")

    def __init__(self, *, base: int = 0, attempt: int = 0) -> None:
        """`base` events came before, in attempts before this one's first, number `attempt`, which another log had."""
        self.base = base
        self.events: list[BaseEvent] = []
        self.closed = False
        """Whether nobody executes the run: it has not been begun again since it last ended or paused."""
        self.ends: list[int] = [0] * attempt
        """How many events of this log there were at the end of each attempt of the root's run."""
        self.starts: dict[int, int] = {0: 0}
        """How many there were when each attempt began. Between two of them members may have been cancelled."""
        self.hidden: dict[str, None] = {}
        """Run ids whose events are logged but not streamed (`stream_member_events=False`)."""
        self._changed = Bell()
        self._room = Bell()
        self._gate: Cursor | None = None

    @property
    def next_index(self) -> int:
        """The `event_index` of the next event."""
        return self.base + len(self.events)

    def follow(self, earlier: EventLog) -> None:
        """Take over the events of the attempts before this log's first, whose log `earlier` was; before any other."""
        if not self.events and len(self.ends) == len(earlier.ends):
            self.base, self.events = earlier.base, earlier.events.copy()
            self.ends, self.starts = earlier.ends.copy(), earlier.starts.copy()

    def append(self, event: BaseEvent, *, foreign: bool = False) -> None:
        """Add `event` as the last one and wake who waits for it."""
        self.events.append(event)
        if self._changed:
            self._changed.ring(foreign=foreign)

    def close(self, *, foreign: bool = False) -> None:
        """Say that no event will follow in this attempt."""
        self.ends.append(len(self.events))
        self.closed = True
        self._gate = None
        self._changed.ring(foreign=foreign)
        self._room.ring(foreign=foreign)

    def began(self, attempt: int) -> int:
        """The index of the first event of an attempt that follows one which has ended, or is the first."""
        position = self.starts.get(attempt)
        return self.base + (self.ends[attempt - 1] if position is None else position)

    def reopen(self) -> None:
        """Say that a paused run goes on: the next event is the first of its next attempt."""
        self.starts[len(self.ends)] = len(self.events)
        self.closed = False

    def cursor(self, *, gate: bool, brief: bool, attempt: int = 0) -> Cursor:
        """A reader of one attempt of the root's run, from its first event on.

        `gate` makes it the one that holds the run back when it falls behind; `brief` leaves out what
        `stream_events=False` leaves out.
        """
        cursor = Cursor(self, brief=brief, attempt=attempt)
        if gate:
            self._gate = cursor
        return cursor

    def cursor_from(self, index: int, attempt: int) -> Cursor:
        """A reader from the event with this index on, to the end of that attempt; nothing waits for it.

        It reads what is stored, hidden events included.
        """
        cursor = Cursor(self, brief=False, attempt=attempt, hidden=True)
        cursor.position = max(0, index - self.base)
        return cursor

    def open_gate(self) -> None:
        """Let the run go on without its reader. Safe in a finalizer."""
        self._gate = None
        self._room.ring(foreign=True)

    @property
    def full(self) -> bool:
        """Whether the gating reader is so far behind that the run has to wait."""
        gate = self._gate
        return gate is not None and len(self.events) - gate.position >= GATE_LIMIT

    async def wait_for_room(self) -> None:
        """Wait until the gating reader has caught up. A cancel gets through."""
        while self.full and not self.closed:
            await self._room.wait(lambda: not self.full or self.closed)

    def made_room(self) -> None:
        """Let who waits for room go on, once there is so much that they do not take turns event by event."""
        if self._room and (self._gate is None or len(self.events) - self._gate.position <= GATE_LIMIT // 2):
            self._room.ring()

    @property
    def changed(self) -> Bell:
        """Rings at every event and at the end."""
        return self._changed


class Cursor:
    """A reader's place in a log. `take` and the waits are atomic under a cancel: no event is lost."""

    __slots__ = ("_attempt", "_brief", "_hidden", "_log", "_position")

    def __init__(self, log: EventLog, *, brief: bool, attempt: int, hidden: bool = False) -> None:
        self._log = log
        self._brief = brief
        self._hidden = hidden
        self._attempt = attempt
        self._position: int | None = None

    @property
    def position(self) -> int:
        """The index of the event to be read next; as long as the attempt has not begun, what is to come."""
        return len(self._log.events) if self._position is None else self._position

    @position.setter
    def position(self, position: int) -> None:
        self._position = position

    def _begins(self) -> int | None:
        """Where the attempt begins: at its first event, or where the paused one was cancelled. None: not yet."""
        if self._attempt in self._log.starts:
            return self._log.starts[self._attempt]
        return self._log.ends[self._attempt - 1] if self._end is not None else None

    @property
    def _end(self) -> int | None:
        """Where the attempt that is read ended; None while it goes on."""
        ends = self._log.ends
        return ends[self._attempt] if len(ends) > self._attempt else None

    def take(self) -> BaseEvent | None:
        """The next event that this reader wants, or None when there is none yet."""
        log = self._log
        events = log.events
        end = self._end
        if self._position is None:
            self._position = self._begins()
        while self._position is not None and self._position < (len(events) if end is None else end):
            event = events[self._position]
            self._position += 1
            log.made_room()
            if (self._brief and event.event not in BRIEF) or (
                not self._hidden and event.run_id in log.hidden
            ):
                continue
            return event
        return None

    @property
    def exhausted(self) -> bool:
        """Whether the log is closed and read to its end."""
        end = self._end
        return end is not None and self._position is not None and self._position >= end

    def _stale(self) -> bool:
        if self._end is not None:
            return True
        position = self._begins() if self._position is None else self._position
        return position is not None and position < len(self._log.events)

    async def wait(self) -> None:
        """Wait for an event or the end."""
        await self._log.changed.wait(self._stale)

    def wait_in_thread(self) -> None:
        """The same for a thread without a loop."""
        self._log.changed.wait_in_thread(self._stale)
