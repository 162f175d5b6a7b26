"""The state of one run, and the claim that decides its end.

Whatever may end a run (its body, a cancel from anywhere, a deadline, an error) claims the outcome with one
`dict.setdefault`, a single atomic step that a signal handler or a finalizer may interrupt without harm. The first
claim stands; everybody else asks and obeys.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import anyio
import anyio.lowlevel

from kern_async.backend import EventLoop
from kern_async.run import agent, team
from kern_async.run.base import (
    BaseEvent,
    CancellationStage,
    CancelledBy,
    CustomEvent,
    RunInput,
    RunMetrics,
    RunStatus,
    Work,
)
from kern_async.run.context import RunContext
from kern_async.run.message import Message, now
from kern_async.run.tool import ToolExecution
from kern_async.run.trusted import trusted

from . import registry
from .ending import UNSET, RunOutputs, end_of, kept_events, output_of
from .inflight import names_in_flight
from .log import EventLog
from .observe import log, wanted
from .stragglers import list_straggler

BLOCKED_AFTER = 0.25
"""Seconds that an event loop may take to hear of a cancel before that is logged."""

current_run: ContextVar[Run | None] = ContextVar("kern_async_run", default=None)
"""The run whose code is executing."""


def _by_name(*events: type[BaseEvent]) -> dict[str, type[BaseEvent]]:
    return {str(event.model_fields["event"].default).removeprefix("Team"): event for event in events}


_EVENTS = {
    "agent": _by_name(*get_args(agent.AgentEvent)),
    "team": _by_name(*get_args(team.TeamOwnEvent), CustomEvent),
}
"""Each kind's events, under the names of the agent's."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The agent or team whose run it is."""

    kind: Literal["agent", "team"]
    id: str
    name: str | None


class Outcome(NamedTuple):
    """How a run ends, decided once; times are seconds since the epoch."""

    status: RunStatus
    cancelled_by: CancelledBy | None = None
    reason: str | None = None
    stage: CancellationStage | None = None
    requested_at: float | None = None


@dataclass(eq=False, kw_only=True)
class Run:
    """One run, from its creation to its terminal event. `parent` is the team's run that it is a member of."""

    owner: Owner
    id: str
    session_id: str
    user_id: str | None
    input: RunInput
    context: RunContext
    cancel_grace: float
    timeout: float | None = None
    parent: Run | None = None
    model: str | None = None
    model_provider: str | None = None
    speaks_for: Run | None = None
    """The team's run whose answer this member gives (mode `route`): its deltas are that run's."""
    desk: Any = None
    """What the owner keeps for the run while it works."""
    store_events: bool = False
    events_to_skip: frozenset[str] = frozenset()

    log: EventLog = field(init=False)
    children: list[Run] = field(default_factory=list["Run"], init=False)
    messages: list[Message] = field(default_factory=list[Message], init=False)
    text: list[str] = field(default_factory=list[str], init=False)
    reasoning: list[str] = field(default_factory=list[str], init=False)
    final: Any = field(default=UNSET, init=False)
    """The content of a completed run where it is not the text: a parsed schema, or what a post-hook made."""
    opened: dict[object, Callable[[], None]] = field(
        default_factory=dict[object, Callable[[], None]], init=False
    )
    """What closes the requests and calls under way, for a run that will not execute again to close them."""
    tools: list[ToolExecution] = field(default_factory=list[ToolExecution], init=False)
    metrics: RunMetrics = field(default_factory=RunMetrics, init=False)
    interrupted: list[Work] = field(default_factory=list[Work], init=False)
    abandoned: list[Work] = field(default_factory=list[Work], init=False)
    error: BaseException | None = field(default=None, init=False)

    loop: EventLoop | None = field(default=None, init=False)
    scope: anyio.CancelScope | None = field(default=None, init=False)
    enclosing: Run | None = field(default=None, init=False)
    """The run whose code started this one: the parent, or the run of the tool that called `arun`."""
    outside: CancelledBy = field(default="caller", init=False)
    """Who it is that cancels the run's task or a scope round it."""
    executing: bool = field(default=False, init=False)
    ended: bool = field(default=False, init=False)
    _end: dict[str, Any] | None = field(default=None, init=False)
    _slot: dict[str, Any] = field(default_factory=dict[str, Any], init=False)
    _settle_by: float | None = field(default=None, init=False)
    began: float = field(default_factory=time.monotonic, init=False)
    created_at: int = field(default_factory=now, init=False)
    _thread: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.log = self.parent.log if self.parent is not None else EventLog()
        self.messages = self.input.messages()
        self.context.link = _Link(self)
        if self.parent is not None:
            self.parent.children.append(self)
            self.loop = self.parent.loop  # so that a cancel always settles it there, never in another thread
        who = f"{self.owner.kind}_id", f"{self.owner.kind}_name"
        self.identity: dict[str, Any] = {
            "run_id": self.id,
            "parent_run_id": self.parent.id if self.parent is not None else None,
            "session_id": self.session_id,
            who[0]: self.owner.id,
            who[1]: self.owner.name,
        }
        self._events = _EVENTS[self.owner.kind]
        self.content_event = self._events["RunContent"]

    # The tree.

    @property
    def root(self) -> Run:
        run = self
        while run.parent is not None:
            run = run.parent
        return run

    def lineage(self) -> Iterator[Run]:
        """This run, its team's, and so on up to the root."""
        run: Run | None = self
        while run is not None:
            yield run
            run = run.parent

    # The outcome.

    @property
    def outcome(self) -> Outcome | None:
        return self._slot.get("outcome")

    @property
    def cancelling(self) -> bool:
        """Whether this run itself was cancelled and has claimed that end."""
        outcome = self.outcome
        return outcome is not None and outcome.status is RunStatus.cancelled

    @property
    def stopping(self) -> bool:
        """Whether this run or one above it is to end cancelled."""
        return any(run.cancelling for run in self.lineage())

    def claim(self, status: RunStatus, by: CancelledBy | None = None, reason: str | None = None) -> Outcome:
        """Ask for this end; what comes back is the end that stands."""
        if (standing := self._slot.get("outcome")) is not None:
            return standing
        stage = requested_at = None
        if status is RunStatus.cancelled:
            stage = CancellationStage.executing if self.executing else CancellationStage.pending
            requested_at = time.time()
        return self._slot.setdefault("outcome", Outcome(status, by, reason, stage, requested_at))

    def _first(self, what: str) -> bool:
        me = object()
        return self._slot.setdefault(what, me) is me

    # Cancelling.

    def cancel(self, by: CancelledBy, reason: str | None = None) -> bool:
        """Claim the end CANCELLED and have it delivered; see `registry.cancel_run` for the answer's meaning.

        Always deferred to the run's own event loop, also from its own thread: one path, never re-entrant.
        """
        if self.ended or self.claim(RunStatus.cancelled, by, reason).status is not RunStatus.cancelled:
            return False
        # The executor publishes the loop and then reads the slot; this side claims and then reads the loop. So
        # at least one of them sees the other.
        loop = self.loop
        if loop is None:
            if self.begin():
                self.settle_unstarted()
            return True
        try:
            loop.soon(self._interrupt, time.monotonic())
        except RuntimeError:
            self._settle_without_loop()
        return True

    def _interrupt(self, requested: float) -> None:
        lag = time.monotonic() - requested
        if lag > BLOCKED_AFTER and not self.ended:
            log(
                "warning",
                "loop.blocked",
                **self.names(),
                seconds=round(lag, 3),
                tools=names_in_flight(since=requested),
            )
        if self.scope is not None:
            self.scope.cancel()

    def begin(self) -> bool:
        """Whether the caller is the one that starts the run, or settles it instead."""
        return self._first("begin")

    def bind(self, scope: anyio.CancelScope, loop: EventLoop) -> None:
        """Make the run reachable for `cancel`, which may have come before."""
        self.scope = scope
        self.loop = loop
        self.began = time.monotonic()
        self._thread = threading.get_ident()
        if self.cancelling:
            scope.cancel()

    def settle_unstarted(self) -> None:
        """End a run that never executed, in whatever thread: its log is the two events."""
        self.emit("RunStarted", model=self.model, model_provider=self.model_provider, foreign=True)
        self.finish(foreign=True)

    def lose(self) -> None:
        """End a run whose host task was dropped before its first step, because its event loop shuts down."""
        if self.begin():
            self.claim(RunStatus.cancelled, "shutdown")
            self.settle_unstarted()

    def _settle_without_loop(self) -> None:
        """End a run whose event loop is gone, in the canceller's thread: its body will never run again."""
        if not self._first("orphan"):
            return
        for member in self.children:
            if not member.ended:
                member.claim(RunStatus.cancelled, "parent")
                member._settle_without_loop()
        for close in reversed(list(self.opened.values())):
            close()
        self.abandon(Work(kind="run", name=self.owner.name or self.owner.id, run_id=self.id))
        self.finish(foreign=True)

    def feel_cut(self) -> None:
        """Claim the end for whoever cut this run's work, at the first place that feels it: before the settling.

        A `cancel` has claimed already. Otherwise it was the outermost deadline that has passed, or, where none
        has, somebody outside of the root.
        """
        cut = None
        for run in self.lineage():
            if run.scope is not None and run.scope.cancel_called:
                cut = run
        if cut is None:
            cut = self.root
            cut.claim(RunStatus.cancelled, cut.outside)
        else:
            cut.claim(RunStatus.cancelled, "deadline", cut.deadline_reason)
        for run in self.lineage():
            if run is cut:
                break
            run.claim(RunStatus.cancelled, "parent")

    @property
    def deadline_reason(self) -> str | None:
        """What the end by its own deadline gives as its reason."""
        return f"timeout of {self.timeout:g} s" if self.timeout is not None else None

    def settle_deadline(self) -> float:
        """Until when, on the event loop's clock, cut work of this run may take to end.

        The root's `cancel_grace` from the moment the cut was first felt, once for all that the same cut ends.
        """
        by = anyio.current_time() + self.root.cancel_grace
        for run in self.lineage():
            if run.scope is not None and run.scope.cancel_called:
                if run._settle_by is None:
                    run._settle_by = by
                by = min(by, run._settle_by)
        return by

    async def checkpoint(self) -> None:
        """A checkpoint before work that costs: does not return once the run is to stop.

        A claimed cancel may not have reached the scope yet; it is on its way, so wait for it here.
        """
        await anyio.lowlevel.checkpoint()
        if self.stopping:
            await anyio.Event().wait()

    async def wait_ended(self) -> None:
        """Wait, on any event loop, for the terminal event. A cancel of the wait changes nothing."""
        while not self.ended:
            await self.log.changed.wait(lambda: self.ended)

    # What the run says.

    def emit(self, event: str, *, foreign: bool = False, **fields: Any) -> bool:
        """Log an event, named as agents name it. After the terminal event: nothing happens, and False."""
        if self.ended:
            return False
        self.log.append(self._make(event, fields), foreign=foreign)
        return True

    def _make(self, event: str, fields: dict[str, Any]) -> BaseEvent:
        return trusted(self._events[event], self.identity | {"event_index": len(self.log.events)} | fields)

    def report(self, content: Any, tool_call_id: str | None) -> None:
        """Log a tool's progress, from any thread."""
        if self.loop is None or self.ended:
            return
        if threading.get_ident() == self._thread:
            self.emit("CustomEvent", content=content, tool_call_id=tool_call_id)
            return
        with suppress(RuntimeError):  # the loop is gone, and with it every reader
            self.loop.soon(lambda: self.emit("CustomEvent", content=content, tool_call_id=tool_call_id))

    async def say(self, text: str) -> None:
        """Log a piece of the answer, then wait while the run's reader is too far behind."""
        self.text.append(text)
        voice = self
        while voice.speaks_for is not None:
            voice = voice.speaks_for
            voice.text.append(text)
        event_log = self.log
        fields = {"event_index": len(event_log.events), "content": text}
        if voice is not self:
            fields["member_run_id"] = self.id
        event_log.append(trusted(voice.content_event, voice.identity | fields))
        if event_log.full:
            await event_log.wait_for_room()
            await self.checkpoint()  # what made room may be a reader that cancels

    def abandon(self, work: Work) -> Callable[[], None]:
        """Name `work` as a straggler of this run and of those above it; call what this returns when it ends."""
        for run in self.lineage():
            run.abandoned.append(work)
        log("warning", "run.straggler", **self.names(), kind=work.kind, name=work.name)
        for inner in registry.live_runs():
            if inner.enclosing is self and inner.parent is None:
                inner.cancel("parent")  # started by the straggler's code, which nobody waits for any more
        unlist = list_straggler(work)
        if work.kind == "run":
            self._slot["unlist"] = unlist
        return unlist

    def names(self) -> dict[str, Any]:
        """The ids that every log record carries."""
        return {
            "run_id": self.id,
            "parent_run_id": self.parent.id if self.parent is not None else None,
            "session_id": self.session_id,
            f"{self.owner.kind}_id": self.owner.id,
        }

    # The end.

    def finish(self, *, foreign: bool = False) -> None:
        """Publish the terminal event, once: the last thing that happens to a run, and without an await."""
        outcome = self.outcome
        if outcome is None or not self._first("finish"):
            if unlist := self._slot.pop("unlist", None):
                unlist()
            return
        self.metrics.duration = time.monotonic() - self.began
        name, end = end_of(self, outcome)
        event = self._make(name, end)
        self._end = {**end, "event": event.event, "events": kept_events(self, event)}
        self.ended = True
        registry.unregister(self)
        if self.parent is not None:
            self.parent.metrics.add(self.metrics)
        self.log.append(event, foreign=foreign)
        if self.parent is None:
            self.log.close(foreign=foreign)
        if wanted("info"):
            asked = outcome.requested_at
            log(
                "info",
                "run.ended",
                **self.names(),
                status=outcome.status.value,
                cancelled_by=outcome.cancelled_by,
                cancel_latency=end["settled_at"] - asked if asked is not None else None,
                error_type=end["error_type"],
                input_tokens=self.metrics.input_tokens,
                output_tokens=self.metrics.output_tokens,
            )

    @property
    def output(self) -> RunOutputs | None:
        """What the run left; None until it has ended. Made when it is first asked for: most of an end's cost."""
        if self._end is None:
            return None
        return self._slot.get("output") or self._slot.setdefault("output", output_of(self, self._end))


class _Link:
    """A context's way to its run: weak, so that a created run nobody reads is freed, with its id, when dropped."""

    def __init__(self, run: Run) -> None:
        self._run = weakref.ref(run)

    @property
    def stopping(self) -> bool:
        run = self._run()
        return run is None or run.ended or run.stopping

    def report(self, content: Any, tool_call_id: str | None) -> None:
        run = self._run()
        if run is not None:
            run.report(content, tool_call_id)


def inside(run: Run) -> bool:
    """Whether the calling code is part of `run`, so that waiting for its end would never return."""
    here = current_run.get()
    while here is not None:
        if here is run:
            return True
        here = here.enclosing
    return False
