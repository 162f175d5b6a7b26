"""The ways to stop a tool: what each does, and what must come of it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import anyio
import anyio.to_thread

from kern_async import cancel_run, cancel_tool_call
from kern_async.engine import registry
from kern_async.engine.run import Run
from kern_async.run.base import CancelledBy

from .kinds import CALL, HALF, PATIENCE, Kind, Scene, Subject

RUN = "the-run"
REASON = "enough"


@dataclass(eq=False)
class Performance:
    """One run on a scene, and what is seen of it from outside."""

    scene: Scene
    kind: Kind
    subject: Subject
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    """What the task that awaits the run is in."""
    events: list[Any] = field(default_factory=list[Any])
    """All of the run's log so far."""
    stopped_at: float = 0.0
    """When somebody stopped it."""
    closed_at: float = 0.0
    """When the tool call was seen to be closed."""
    output: Any = None

    async def read(self, **options: Any) -> None:
        """The run, streamed to its end."""
        stream = self.subject.arun("Go.", stream=True, stream_events=True, run_id=RUN, **options)
        async with stream as events:
            async for event in events:
                self.events.append(event)
                if _closes_the_call(event):
                    self.closed_at = time.monotonic()
        self.output = stream.output

    async def be_cancelled(self) -> None:
        """The run, awaited in the task itself, which is cancelled from outside."""
        with self.scope:
            self.output = await self.subject.arun("Go.", run_id=RUN)

    async def under_way(self) -> None:
        """Wait until `look` has finished and the tool works, and has said so."""
        with anyio.fail_after(PATIENCE):
            while not self.is_under_way():  # noqa: ASYNC110 - the log of an awaited run has no reader
                await anyio.sleep(0.002)

    def is_under_way(self) -> bool:
        if self.kind.paused:
            return self.output is not None
        return self.looked() and self.said_half()

    def looked(self) -> bool:
        return any(
            e.event.removeprefix("Team") == "ToolCallCompleted" and e.tool.tool_name == "look"
            for e in self.events
        )

    def said_half(self) -> bool:
        return any(
            e.event in ("CustomEvent", "RunContent") and str(e.content).startswith(HALF) for e in self.events
        )

    @property
    def pids(self) -> list[int]:
        """The processes that the tool has named."""
        said = [str(e.content) for e in self.events if e.event == "CustomEvent"]
        return [int(word) for text in said for word in text.split() if word.isdigit()]

    def live(self) -> Run | None:
        return registry.find(RUN)

    def cancel(self, **options: Any) -> None:
        assert cancel_run(RUN, reason=REASON, **options)


def _closes_the_call(event: Any) -> bool:
    return (
        event.event.removeprefix("Team") in ("ToolCallCompleted", "ToolCallError")
        and event.tool.tool_call_id == CALL
    )


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to stop a tool. `act` does it, while the tool works; without, a clock does."""

    name: str
    act: Callable[[Performance], Awaitable[None]] | None = None
    awaited: bool = False
    """Whether the run is awaited in the task that is cancelled, and not read."""
    run_timeout: float | None = None
    tool_timeout: float | None = None
    lets_finish: bool = False
    cancelled_by: CancelledBy | None = None
    """None: the run goes on."""
    stops: Literal["run", "call"] = "run"
    ends_a_pause: bool = True

    async def perform(self, scene: Scene, kind: Kind, subject: Subject) -> Performance:
        """Run the subject until it has ended, or is left paused."""
        shown = Performance(scene, kind, subject)
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                if self.awaited:
                    group.start_soon(shown.be_cancelled)
                    while (run := shown.live()) is None:  # noqa: ASYNC110 - nobody is told of a start
                        await anyio.sleep(0.001)
                    shown.events = run.log.events
                else:
                    group.start_soon(partial(shown.read, timeout=self.run_timeout))
                await shown.under_way()
                run = shown.live()
                if self.act is not None:
                    await self.act(shown)
            if run is not None and kind.paused and self.ends_a_pause:
                await run.wait_ended()
            if run is not None and (self.awaited or kind.paused):
                shown.events, shown.output = run.log.events, run.output
        return shown


async def _cancel_run(shown: Performance) -> None:
    shown.cancel()


async def _cancel_run_from_a_thread(shown: Performance) -> None:
    await anyio.to_thread.run_sync(shown.cancel)


async def _cancel_the_task(shown: Performance) -> None:
    shown.scope.cancel()


async def _cancel_tool_call(shown: Performance) -> None:
    shown.stopped_at = time.monotonic()
    assert cancel_tool_call(RUN, CALL)


async def _cancel_after_tools(shown: Performance) -> None:
    shown.cancel(mode="after_tools")
    if shown.kind.finishes:
        for _ in range(3):
            await anyio.wait_all_tasks_blocked()
        assert shown.live() is not None, "it waits for the tool"
        shown.scene.release()


WAYS = [
    Way(name="cancel_run", act=_cancel_run, cancelled_by="request"),
    Way(name="cancel_run from a thread", act=_cancel_run_from_a_thread, cancelled_by="request"),
    Way(
        name="task cancelled",
        act=_cancel_the_task,
        awaited=True,
        cancelled_by="caller",
        ends_a_pause=False,
    ),
    Way(name="deadline", run_timeout=0.7, cancelled_by="deadline", ends_a_pause=False),
    Way(name="cancel_tool_call", act=_cancel_tool_call, stops="call"),
    Way(name="tool timeout", tool_timeout=0.4, stops="call"),
    Way(name="after_tools", act=_cancel_after_tools, lets_finish=True, cancelled_by="request"),
]
