"""The state of one run, and the claim that decides its end.

Whatever may end a run (its body, a cancel from anywhere, a deadline, an error) claims the outcome with one
`dict.setdefault`, a single atomic step that a signal handler or a finalizer may interrupt without harm. The first
claim stands; everybody else asks and obeys.
"""

from __future__ import annotations

import copy
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import anyio
import anyio.lowlevel

from kern_async.backend import EventLoop
from kern_async.run import agent, team
from kern_async.run.base import (
    BaseEvent,
    CancellationStage,
    CancelledBy,
    RunInput,
    RunMetrics,
    RunStatus,
    Work,
)
from kern_async.run.context import RunContext
from kern_async.run.message import Message, now
from kern_async.run.tool import ToolExecution

from . import registry
from .log import EventLog
from .observe import log, wanted
from .stragglers import list_straggler

BLOCKED_AFTER = 0.25
"""Seconds that an event loop may take to hear of a cancel before that is logged."""

current_run: ContextVar[Run | None] = ContextVar("kern_async_run", default=None)
"""The run whose code is executing."""

_EVENTS: dict[str, dict[str, type[BaseEvent]]] = {
    "agent": {cls.model_fields["event"].default: cls for cls in get_args(agent.AgentEvent)},
    "team": {cls.model_fields["event"].default: cls for cls in get_args(team.TeamOwnEvent)},
}

RunOutputs = agent.RunOutput | team.TeamRunOutput


@dataclass(frozen=True, slots=True)
class Owner:
    """The agent or team whose run it is."""

    kind: Literal["agent", "team"]
    id: str
    name: str | None


@dataclass(frozen=True, slots=True)
class Outcome:
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
    final: Any = field(default=None, init=False)
    """The content of a completed run where it is not the text: a parsed schema, or what a post-hook made."""
    tools: list[ToolExecution] = field(default_factory=list[ToolExecution], init=False)
    metrics: RunMetrics = field(default_factory=RunMetrics, init=False)
    interrupted: list[Work] = field(default_factory=list[Work], init=False)
    abandoned: list[Work] = field(default_factory=list[Work], init=False)
    error: BaseException | None = field(default=None, init=False)

    loop: EventLoop | None = field(default=None, init=False)
    scope: anyio.CancelScope | None = field(default=None, init=False)
    enclosing: Run | None = field(default=None, init=False)
    """The run whose code started this one: the parent, or the run of the tool that called `arun`."""
    executing: bool = field(default=False, init=False)
    ended: bool = field(default=False, init=False)
    _end: dict[str, Any] | None = field(default=None, init=False)
    _slot: dict[str, Any] = field(default_factory=dict[str, Any], init=False)
    _settle_by: float | None = field(default=None, init=False)
    _created: float = field(default_factory=time.monotonic, init=False)
    _created_at: int = field(default_factory=now, init=False)

    def __post_init__(self) -> None:
        self.log = self.parent.log if self.parent is not None else EventLog()
        self.messages = self.input.messages()
        self.context.link = _Link(self)
        if self.parent is not None:
            self.parent.children.append(self)
        who = f"{self.owner.kind}_id", f"{self.owner.kind}_name"
        self._identity: dict[str, Any] = {
            "run_id": self.id,
            "parent_run_id": self.parent.id if self.parent is not None else None,
            "session_id": self.session_id,
            who[0]: self.owner.id,
            who[1]: self.owner.name,
        }
        self._events = _EVENTS[self.owner.kind]
        self._prefix = "Team" if self.owner.kind == "team" else ""
        self._content_event = self._events[self._prefix + "RunContent"]

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
            # A member is about to execute and will see the claim; its log belongs to its event loop already.
            if self.parent is None and self.begin():
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
            log("warning", "loop.blocked", **self.names(), seconds=round(lag, 3), tools=in_flight())
        if self.scope is not None:
            self.scope.cancel()

    def begin(self) -> bool:
        """Whether the caller is the one that starts the run, or settles it instead."""
        return self._first("begin")

    def bind(self, scope: anyio.CancelScope, loop: EventLoop) -> None:
        """Make the run reachable for `cancel`, which may have come before."""
        self.scope = scope
        self.loop = loop
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
        self.abandon(Work(kind="run", name=self.owner.name or self.owner.id, run_id=self.id))
        self.finish(foreign=True)

    def settle_deadline(self) -> float:
        """Until when, on the event loop's clock, cut work of this run may take to end.

        The root's `cancel_grace` from the moment the cut was first felt, once for all that the same cut ends.
        """
        cut = self.root
        for run in self.lineage():
            if run.scope is not None and run.scope.cancel_called:
                cut = run
        if cut._settle_by is None:
            cut._settle_by = anyio.current_time() + self.root.cancel_grace
        return min(run._settle_by for run in self.lineage() if run._settle_by is not None)

    async def checkpoint(self) -> None:
        """A checkpoint before work that costs: does not return once the run is to stop.

        A claimed cancel may not have reached the scope yet; it is on its way, so wait for it here.
        """
        if self.stopping:
            await anyio.sleep_forever()
        await anyio.lowlevel.checkpoint()

    async def wait_ended(self) -> None:
        """Wait, on any event loop, for the terminal event. A cancel of the wait changes nothing."""
        while not self.ended:
            await self.log.changed.wait(lambda: self.ended)

    # What the run says.

    def emit(self, event: str, *, foreign: bool = False, **fields: Any) -> bool:
        """Log an event, named as agents name it. After the terminal event: nothing happens, and False."""
        if self.ended:
            return False
        cls = self._events.get(self._prefix + event) or self._events[event]
        self._append(cls(**self._identity, event_index=len(self.log.events), **fields), foreign=foreign)
        return True

    def report(self, content: Any, tool_call_id: str | None) -> None:
        """Log a tool's progress, from any thread."""
        if self.loop is None or self.ended:
            return
        try:
            self.loop.soon(lambda: self.emit("CustomEvent", content=content, tool_call_id=tool_call_id))
        except RuntimeError:
            return  # the loop is gone, and with it every reader

    async def say(self, text: str) -> None:
        """Log a piece of the answer, then wait while the run's reader is too far behind."""
        self.text.append(text)
        voice = self
        while voice.speaks_for is not None:
            voice = voice.speaks_for
            voice.text.append(text)
        event_log = self.log
        if voice is self:
            event = self._content_event(**self._identity, event_index=len(event_log.events), content=text)
        else:
            event = team.RunContentEvent(
                **voice._identity, event_index=len(event_log.events), content=text, member_run_id=self.id
            )
        voice._append(event)
        if event_log.full:
            await event_log.wait_for_room()

    def _append(self, event: BaseEvent, *, foreign: bool = False) -> None:
        self.log.append(event, foreign=foreign)

    def abandon(self, work: Work) -> Callable[[], None]:
        """Name `work` as a straggler of this run and of those above it; call what this returns when it ends."""
        for run in self.lineage():
            run.abandoned.append(work)
        log("warning", "run.straggler", **self.names(), kind=work.kind, name=work.name)
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
        registry.unregister(self)
        settled_at = time.time()
        self.metrics.duration = time.monotonic() - self._created
        whole = "".join(self.text) or None
        content = self.final if outcome.status is RunStatus.completed and self.final is not None else whole
        state = _snapshot(self.context.session_state)
        error = str(self.error) if self.error is not None else None
        error_type = type(self.error).__name__ if self.error is not None else None
        shared: dict[str, Any] = {"status": outcome.status, "metrics": self.metrics, "content": content}
        end: dict[str, Any] = {"error": error, "error_type": error_type}
        fields: dict[str, Any]
        if outcome.status is RunStatus.completed:
            name, fields = "RunCompleted", {"session_state": state}
        elif outcome.status is RunStatus.error:
            extra = getattr(self.error, "additional_data", None)
            name, fields = "RunError", {**end, "additional_data": extra or None}
        else:
            end |= {
                "reason": outcome.reason,
                "cancelled_by": outcome.cancelled_by,
                "cancellation_stage": outcome.stage,
                "requested_at": outcome.requested_at,
                "settled_at": settled_at,
                "interrupted": self.interrupted,
                "abandoned": self.abandoned,
            }
            name, fields = "RunCancelled", end
        event = self._events[self._prefix + name](
            **self._identity, event_index=len(self.log.events), **shared, **fields
        )
        self._end = {"event": event.event, "session_state": state, **shared, **end}
        if self.store_events:
            own = [logged for logged in self.log.events if logged.run_id == self.id]
            self._end["events"] = [
                logged for logged in [*own, event] if logged.event not in self.events_to_skip
            ]
        self.ended = True
        if self.parent is not None:
            self.parent.metrics.add(self.metrics)
        self._append(event, foreign=foreign)
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
                cancel_latency=settled_at - asked if asked is not None else None,
                error_type=error_type,
                input_tokens=self.metrics.input_tokens,
                output_tokens=self.metrics.output_tokens,
            )

    @property
    def output(self) -> RunOutputs | None:
        """What the run left; None until it has ended. Made when it is first asked for: most of an end's cost."""
        if self._end is None:
            return None
        return self._slot.get("output") or self._slot.setdefault("output", self._output(**self._end))

    def draft(self) -> RunOutputs:
        """The output as it would be if the run completed now."""
        state = self.context.session_state
        content = self.final if self.final is not None else "".join(self.text) or None
        return self._output(
            status=RunStatus.running, content=content, metrics=self.metrics, session_state=state
        )

    def _output(self, *, content: Any, **fields: Any) -> RunOutputs:
        values: dict[str, Any] = (
            fields
            | self._identity
            | {
                "user_id": self.user_id,
                "input": self.input,
                "content": content,
                "content_type": "str"
                if content is None or isinstance(content, str)
                else type(content).__name__,
                "reasoning_content": "".join(self.reasoning) or None,
                "messages": list(self.messages),
                "tools": list(self.tools),
                "model": self.model,
                "model_provider": self.model_provider,
                "metadata": dict(self.context.metadata) or None,
                "created_at": self._created_at,
            }
        )
        if self.owner.kind == "agent":
            return agent.RunOutput(**values)
        members = [member.output for member in self.children if member.output is not None]
        return team.TeamRunOutput(member_responses=members, **values)


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


def _snapshot(state: dict[str, Any]) -> dict[str, Any]:
    """A copy that a tool which outlives the run cannot change any more, as deep as the values allow."""
    if not state:
        return {}
    try:
        return copy.deepcopy(state)
    except Exception:  # noqa: BLE001 - a value of the user's own that cannot be copied must not cost the run's end
        return dict(state)


_in_flight: dict[object, tuple[int, str]] = {}


def note_in_flight(name: str) -> object:
    """Remember that the user's coroutine `name` runs on this thread's event loop; forget it by the key."""
    key = object()
    _in_flight[key] = threading.get_ident(), name
    return key


def forget_in_flight(key: object) -> None:
    """Forget what `note_in_flight` gave the key for."""
    _in_flight.pop(key, None)


def in_flight() -> list[str]:
    """Names of the user's coroutines on this thread's event loop: one of them is what blocks it."""
    return [name for thread, name in list(_in_flight.copy().values()) if thread == threading.get_ident()]
