"""The state of one run, and the claim that decides its end.

Whatever may end a run (its body, a cancel from anywhere, a deadline, an error) claims the outcome with one
`dict.setdefault`, a single atomic step that a signal handler or a finalizer may interrupt without harm. The first
claim stands; everybody else asks and obeys.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

from kern_async.backend import EventLoop
from kern_async.run.base import (
    BaseEvent,
    BaseOutput,
    CancellationStage,
    CancelledBy,
    RunInput,
    RunMetrics,
    RunStatus,
    Work,
)
from kern_async.run.context import RunContext
from kern_async.run.data import new_dict, new_list
from kern_async.run.limits import RunLimits
from kern_async.run.message import Message, ToolCall, now
from kern_async.run.requirement import RunRequirement
from kern_async.run.tool import ToolExecution
from kern_async.run.trusted import Mould, trusted

from . import registry
from .active import CALL_CUT, ActiveCall
from .attempt import Attempt, Outcome, Urgency
from .ending import CONTINUABLE, UNSET, RunOutputs, output_of
from .finishing import publish
from .inbox import Inbox
from .inflight import names_in_flight
from .link import Link
from .log import EventLog
from .observe import log
from .owner import EVENTS, Owner
from .progress import Progress
from .resting import settle_at_rest, settle_claimed
from .resume import remember
from .stragglers import list_straggler

if TYPE_CHECKING:
    from kern_async.db.writer import Ticket

    from .keeper import Keeper

BLOCKED_AFTER = 0.25
"""Seconds that an event loop may take to hear of a cancel before that is logged."""

current_run: ContextVar[Run | None] = ContextVar("kern_async_run", default=None)
"""The run whose code is executing."""


@dataclass(eq=False, kw_only=True, slots=True, weakref_slot=True)
class Run:
    """One run, from its creation to its terminal event, over as many attempts as it takes.

    `parent` is the team's run that it is a member of.
    """

    owner: Owner
    id: str
    session_id: str
    user_id: str | None
    input: RunInput
    context: RunContext
    cancel_grace: float
    timeout: float | None = None
    limits: RunLimits | None = None
    parent: Run | None = None
    model: str | None = None
    model_provider: str | None = None
    speaks_for: Run | None = None
    """The team's run whose answer this member gives (mode `route`): its deltas are that run's."""
    desk: Any = None
    """What the owner keeps for the run while it works."""
    store_events: bool = False
    events_to_skip: frozenset[str] = frozenset()
    body: Any = None
    """What it is to do, see `execute.Body`."""
    keeper: Keeper | None = None
    """Its tree's way into a database, if it has one."""
    earlier_events: list[BaseEvent] = field(default_factory=new_list, init=False)
    """Its events of attempts that another log had, if it keeps them."""
    place: tuple[int, str] | None = None
    """Which of its team's calls it was begun for, by its index, and which part of that; -1: none."""
    history: list[list[Message]] = field(default_factory=new_list)
    """Its owner's earlier turns, see `history.turns_of`."""
    team_history: list[BaseOutput] = field(default_factory=new_list)
    """What earlier root runs of its team left."""
    background: bool = False
    """Whether nobody waits for it, so that it waits for its turn among those."""
    given_state: frozenset[str] = frozenset()
    """The keys of the session state that were given with the call."""

    log: EventLog = field(init=False)
    identity: dict[str, Any] = field(init=False)
    """The fields that all its events have."""
    content_name: str = field(init=False)
    """The name of the events that say a piece of its answer."""
    children: list[Run] = field(default_factory=new_list, init=False)
    index: int = field(default=0, init=False)
    """Its place among its team's."""
    messages: list[Message] = field(default_factory=new_list, init=False)
    text: list[str] = field(default_factory=new_list, init=False)
    reasoning: list[str] = field(default_factory=new_list, init=False)
    final: Any = field(default=UNSET, init=False)
    """The content of a completed run where it is not the text: a parsed schema, or what a post-hook made."""
    opened: dict[object, Callable[[], None]] = field(default_factory=new_dict, init=False)
    """What closes the requests and calls under way, for a run that will not execute again to close them."""
    tools: list[ToolExecution] = field(default_factory=new_list, init=False)
    due: list[ToolCall] = field(default_factory=new_list, init=False)
    """The calls of the latest turn that have no answer yet."""
    calls: dict[str, ActiveCall] = field(default_factory=new_dict, init=False)
    """The calls under way, by their ids."""
    requirements: dict[str, RunRequirement] = field(default_factory=new_dict, init=False)
    """What the calls that are due have waited for, by their ids."""
    asked: dict[str, None] = field(default_factory=new_dict, init=False)
    """The ids of all requirements that it ever had."""
    inbox: Inbox = field(default_factory=Inbox, init=False)
    spent: dict[str, int] = field(default_factory=new_dict, init=False)
    """What it and all below it have used of what `RunLimits` counts."""
    progress: Progress = field(default_factory=Progress, init=False)
    metrics: RunMetrics = field(default_factory=RunMetrics, init=False)
    interrupted: dict[Work, None] = field(default_factory=new_dict, init=False)
    """What was cut, each once, in its order."""
    abandoned: list[Work] = field(default_factory=new_list, init=False)
    error: BaseException | None = field(default=None, init=False)

    loop: EventLoop | None = field(default=None, init=False)
    scope: anyio.CancelScope | None = field(default=None, init=False)
    serves: ActiveCall | None = field(default=None, init=False)
    """The call of its team's run that it works for."""
    enclosing: Run | None = field(default=None, init=False)
    """The run whose code started this one: the parent, or the run of the tool that called `arun`."""
    outside: CancelledBy = field(default="caller", init=False)
    """Who it is that cancels the run's task or a scope round it."""
    attempt: Attempt = field(default_factory=Attempt, init=False)
    executing: bool = field(default=False, init=False)
    resting: bool = field(default=False, init=False)
    """Whether it is paused: its latest attempt has ended, and nobody has begun the next."""
    ended: bool = field(default=False, init=False)
    closing: bool = field(default=False, init=False)
    """Whether its end is made and on its way into the store: it says nothing more before that is published."""
    settled: Attempt | None = field(default=None, init=False)
    """The attempt that ended last."""
    counted: RunMetrics | None = field(default=None, init=False)
    """What its team's metrics have of its own already."""
    unlist: Callable[[], None] | None = field(default=None, init=False)
    """Where it is listed as a straggler: what takes it off the list."""
    _events: dict[str, type[BaseEvent]] = field(init=False)
    _settle_by: float | None = field(default=None, init=False)
    _delta: tuple[Run, Mould[BaseEvent]] | None = field(default=None, init=False)
    began: float = field(default_factory=time.monotonic, init=False)
    created_at: int = field(default_factory=now, init=False)
    thread: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.parent is not None:
            self.log, self.keeper = self.parent.log, self.parent.keeper
        else:
            self.log = EventLog()
        self.messages = self.input.messages()
        self.context.link = Link(self)
        if self.parent is not None:
            self.index = len(self.parent.children)
            self.parent.children.append(self)
            self.loop = self.parent.loop  # so that a cancel always settles it there, never in another thread
        who = f"{self.owner.kind}_id", f"{self.owner.kind}_name"
        self.identity = {
            "run_id": self.id,
            "parent_run_id": self.parent.id if self.parent is not None else None,
            "session_id": self.session_id,
            who[0]: self.owner.id,
            who[1]: self.owner.name,
        }
        self._events = EVENTS[self.owner.kind]
        self.content_name = self.event_name("RunContent")

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

    def below(self) -> Iterator[Run]:
        """The runs of its members, and of theirs, outermost first."""
        for run in self.children:
            yield run
            yield from run.below()

    # The outcome.

    @property
    def outcome(self) -> Outcome | None:
        return self.attempt.outcome

    @property
    def cancelling(self) -> bool:
        """Whether this run itself was cancelled and has claimed that end."""
        return self.attempt.cancelling

    @property
    def stopping(self) -> bool:
        """Whether this run or one above it is to end cancelled, at once."""
        return self._urged("now")

    @property
    def halted(self) -> bool:
        """Whether this run may not ask its model again, since it or one above it was cancelled."""
        return self.attempt.urgency is not None or (self.parent is not None and self.parent.drained)

    @property
    def drained(self) -> bool:
        """Whether nothing new may begin in this run, calls of the turn included."""
        return self._urged("limit", "after_tools", "now")

    def _urged(self, *urgencies: Urgency) -> bool:
        """Whether this run or one above it is to stop as soon as one of these says."""
        run: Run | None = self
        while run is not None:
            if run.attempt.urgency in urgencies:
                return True
            run = run.parent
        return False

    def claim(
        self,
        status: RunStatus,
        by: CancelledBy | None = None,
        reason: str | None = None,
        *,
        mode: Urgency = "now",
        attempt: Attempt | None = None,
    ) -> Outcome:
        """Ask for this end of the current attempt; what comes back is the end that stands."""
        attempt = attempt or self.attempt
        if (standing := attempt.outcome) is not None:
            return standing
        if status is not RunStatus.cancelled:
            return attempt.claim(Outcome(status))
        stage = (
            CancellationStage.executing
            if self.executing and attempt is self.attempt
            else CancellationStage.paused
            if attempt.number
            else CancellationStage.pending
        )
        return attempt.claim(Outcome(status, by, reason, stage, time.time(), mode))

    # Cancelling.

    def cancel(
        self,
        by: CancelledBy,
        reason: str | None = None,
        mode: Urgency = "now",
        *,
        attempt: Attempt | None = None,
    ) -> bool:
        """Claim the end CANCELLED and have it delivered; see `registry.cancel_run` for the answer's meaning.

        With `attempt` just that one is cancelled, and a run that has paused since is left alone. Always deferred to
        the run's own event loop, also from its own thread: one path, never re-entrant.
        """
        if self.ended:
            return False
        target = attempt or self.attempt
        outcome = self.claim(RunStatus.cancelled, by, reason, mode=mode, attempt=target)
        while outcome.status is RunStatus.paused and attempt is None:
            target = target.following()
            outcome = self.claim(RunStatus.cancelled, by, reason, mode=mode, attempt=target)
        if outcome.status is not RunStatus.cancelled:
            return False
        target.urge(mode)
        # The executor publishes the loop and then reads the claims; this side claims and then reads the loop. So
        # at least one of them sees the other.
        loop = self.loop
        if loop is None:
            settle_claimed(self.root)
            return True
        try:
            loop.soon(self._deliver, time.monotonic())
        except RuntimeError:
            self._settle_without_loop()
        return True

    def _deliver(self, requested: float) -> None:
        lag = time.monotonic() - requested
        if lag > BLOCKED_AFTER and not self.ended:
            log(
                "warning",
                "loop.blocked",
                **self.names(),
                seconds=round(lag, 3),
                tools=names_in_flight(since=requested),
            )
        if self.resting:
            settle_at_rest(self, partial(self._deliver, requested))
        elif self.scope is not None and self.cancelling:
            self._press()

    def _press(self) -> None:
        """Cut what the urgency of the cancel does not let finish; the rest stops at its next boundary."""
        urgency = self.attempt.urgency
        if self.scope is None or urgency == "limit":
            return
        if urgency == "after_tools":
            self._drain()
        elif urgency == "now" or self.progress.phase is None:
            self.scope.cancel()

    def _drain(self) -> bool:
        """Cut what is no running tool, here and below; say whether there is any."""
        busy = any(not call.inner for call in self.calls.values())
        for member in self.children:
            if member.executing:
                member.claim(RunStatus.cancelled, "parent", mode="after_tools")
                member.attempt.urge("after_tools")
                busy = member._drain() or busy
        if not busy and self.scope is not None:
            self.scope.cancel()
        return busy

    def bind(self, scope: anyio.CancelScope, loop: EventLoop) -> None:
        """Make the run reachable for `cancel`, which may have come before."""
        self.scope = scope
        self.loop = loop
        self.began = time.monotonic()
        self._settle_by = None
        self.thread = threading.get_ident()
        if self.parent is None:
            for run in self.below():
                run.loop = loop
        if self.cancelling:
            scope.cancel()

    def settle_unbegun(self) -> None:
        """End a run that never executed, or not since it paused, in whatever thread."""
        if not self.attempt.number:
            self.emit("RunStarted", model=self.model, model_provider=self.model_provider, foreign=True)
        self.finish(foreign=True)

    def lose(self) -> None:
        """End a run whose host task was dropped before its first step, because its event loop shuts down."""
        if self.attempt.first("begin"):
            self.claim(RunStatus.cancelled, "shutdown")
            self.settle_unbegun()

    def _settle_without_loop(self) -> None:
        """End a run whose event loop is gone, in the canceller's thread: its body will never run again."""
        if not self.attempt.first("orphan"):
            return
        for member in self.children:
            if not member.ended and not member.resting:
                member.claim(RunStatus.cancelled, "parent")
                member._settle_without_loop()
        for close in reversed(list(self.opened.values())):
            close()
        self.abandon(Work(kind="run", name=self.owner.name or self.owner.id, run_id=self.id))
        self.finish(foreign=True)

    def feel_cut(self) -> None:
        """Claim the end for whoever cut this run's work, at the first place that feels it: before the settling.

        A `cancel` has claimed already. Otherwise it was the outermost deadline that has passed or call that was cut,
        or, where there is none, somebody outside of the root.
        """
        if self.parent is None and self.attempt.urgency == "now":
            return
        cut, by, reason = self.root, self.root.outside, None
        for run in self.lineage():
            if run.scope is not None and run.scope.cancel_called:
                cut, by, reason = run, "deadline", run.deadline_reason
            if run.serves is not None and run.serves.cut:
                cut, by, reason = run, "parent", CALL_CUT
        cut.claim(RunStatus.cancelled, by, reason)
        cut.attempt.urge("now")
        for run in self.lineage():
            if run is cut:
                break
            run.claim(RunStatus.cancelled, "parent")

    @property
    def deadline_reason(self) -> str | None:
        """What the end by its own deadline gives as its reason."""
        return f"timeout of {self.seconds:g} s" if self.seconds is not None else None

    @property
    def seconds(self) -> float | None:
        """How long the current attempt may take."""
        return self.timeout if self.attempt.timeout is None else self.attempt.timeout

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

    async def wait_ended(self, attempt: Attempt | None = None) -> None:
        """Wait, on any event loop, for the terminal event, or for the end of one attempt.

        A cancel of the wait changes nothing.
        """

        def over() -> bool:
            return self.ended or (attempt is not None and attempt.end is not None)

        while not over():
            await self.log.changed.wait(over)

    # What the run says.

    def emit(self, event: str, *, foreign: bool = False, **fields: Any) -> bool:
        """Log an event, named as agents name it. When the end has begun: nothing happens, and False."""
        if self.ended or self.closing:
            return False
        self.log.append(self.make(event, fields), foreign=foreign)
        return True

    def make(self, event: str, fields: dict[str, Any]) -> BaseEvent:
        """An event of this run as it would be if it were logged now."""
        fields["event_index"] = self.log.next_index
        return trusted(self._events[event], fields, self.identity)

    def event_name(self, event: str) -> str:
        """What the event is called that agents call so."""
        return str(self._events[event].model_fields["event"].default)

    def report(self, content: Any, tool_call_id: str | None) -> None:
        """Log a tool's progress, from any thread."""
        if self.loop is None or self.ended:
            return
        if threading.get_ident() == self.thread:
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
        event_log.append(self._delta_of(voice).make({"event_index": event_log.next_index, "content": text}))
        if event_log.full:
            await event_log.wait_for_room()
            await self.checkpoint()  # what made room may be a reader that cancels

    def _delta_of(self, voice: Run) -> Mould[BaseEvent]:
        """What makes the events of its text, which is a text of `voice`."""
        made = self._delta
        if made is None or made[0] is not voice:
            member = {} if voice is self else {"member_run_id": self.id}
            mould = Mould(voice._events["RunContent"], voice.identity | member, "event_index", "content")
            made = self._delta = voice, mould
        return made[1]

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
            self.unlist = unlist

        def ended() -> None:
            unlist()
            for run in self.lineage():  # those that end later need not name it
                with suppress(ValueError):
                    run.abandoned.remove(work)

        return ended

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
        """Publish the attempt's terminal or paused event, see `finishing.publish`."""
        publish(self, foreign=foreign)

    @property
    def output(self) -> RunOutputs | None:
        """What the run left when it last ended or paused; None until then."""
        return self.output_of(self.settled) if self.settled is not None else None

    def output_of(self, attempt: Attempt) -> RunOutputs | None:
        """What the run left at the end of that attempt. Made when it is first asked for: most of an end's cost."""
        if (end := attempt.end) is None:
            return None
        output = attempt.kept("output")
        if output is None:
            output = output_of(self, end)
            if output.status in CONTINUABLE or self.parent is not None:
                remember(output, self, attempt)
            output = attempt.keep("output", output)
        return output

    @property
    def row(self) -> Ticket | None:
        """What became of the row of its latest end, if that is on its way into a database."""
        return self.settled.kept("ticket") if self.settled is not None else None

    def draft(self, status: RunStatus) -> RunOutputs:
        """The output as far as it has come, under that status."""
        content = "".join(self.text[:]) or None if self.final is UNSET else self.final
        state = self.context.session_state
        return output_of(
            self, {"status": status, "content": content, "metrics": self.metrics, "session_state": state}
        )


def inside(run: Run) -> bool:
    """Whether the calling code is part of `run`, so that waiting for its end would never return."""
    here = current_run.get()
    while here is not None:
        if here is run:
            return True
        here = here.enclosing
    return False
