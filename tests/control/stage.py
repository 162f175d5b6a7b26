"""Where a run goes on while something is done to it, and what must hold of it whatever that was."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio
import anyio.lowlevel

from kern_async import Agent, RunContext, RunStatus, Team, cancel_run
from kern_async.run.cancel import get_active_runs
from kern_async.tools import Function

from ..agent.crew import Crew
from ..engine.invariants import check_log, check_messages

RUN = "the-run"
PATIENCE = 10
"""Seconds after which what a test waits for is taken to never come."""
Kind = Literal["async", "sync", "async generator", "generator"]
KINDS: tuple[Kind, ...] = ("async", "sync", "async generator", "generator")


@dataclass(eq=False)
class Held:
    """A tool that begins, and ends when the test lets it."""

    name: str = "held"
    kind: Kind = "async"
    result: str = "done"
    begun: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    contexts: list[RunContext] = field(default_factory=list[RunContext])
    ended: list[str] = field(default_factory=list[str])
    """How its calls ended: by themselves, or cut."""

    @property
    def context(self) -> RunContext:
        """That of its latest call."""
        return self.contexts[-1]

    @property
    def tool(self) -> Function:
        """The tool itself."""
        makers: dict[Kind, Callable[..., Any]] = {
            "async": self._async,
            "sync": self._sync,
            "async generator": self._async_generator,
            "generator": self._generator,
        }
        return Function(entrypoint=makers[self.kind], name=self.name)

    async def _async(self, context: RunContext) -> str:
        self._begin(context)
        try:
            while not self.released.is_set():  # noqa: ASYNC110 - any thread may be the one that sets it
                await anyio.sleep(0.001)
        except anyio.get_cancelled_exc_class():
            self.ended.append("cut")
            raise
        self.ended.append("done")
        return self.result

    def _sync(self, context: RunContext) -> str:
        self._begin(context)
        assert self.released.wait(PATIENCE)
        self.ended.append("done")
        return self.result

    async def _async_generator(self, context: RunContext) -> AsyncGenerator[str, None]:
        yield ""
        yield await self._async(context)

    def _generator(self, context: RunContext) -> Generator[str]:
        yield ""
        yield self._sync(context)

    def _begin(self, context: RunContext) -> None:
        self.contexts.append(context)
        self.begun.set()


@dataclass(eq=False)
class Stage:
    crew: Crew
    streamed: bool = True
    events: list[Any] = field(default_factory=list[Any])
    """What a streamed run has said so far."""

    async def run(
        self, runner: Agent | Team, act: Callable[[], Coroutine[Any, Any, object]], **options: Any
    ) -> Any:
        """The output of a run, beside which `act` was done; both came to their ends."""
        self.events.clear()
        options = {"run_id": RUN, **options}
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(act)
                if self.streamed:
                    stream = runner.arun("Go.", stream=True, stream_events=True, **options)
                    async with stream as events:
                        async for event in events:
                            self.events.append(event)
                    output: Any = stream.output
                else:
                    output = await runner.arun("Go.", **options)
        if self.streamed:
            check_log(self.events)
            assert self.events[-1].status is output.status
        await self.check(output)
        return output

    async def check(self, output: Any) -> None:
        """What holds after every run."""
        for each in tree(output):
            check_messages(each.messages)
            assert not cancel_run(each.run_id), "it has ended"
        assert not get_active_runs()
        await self.until(lambda: self.crew.provider.open_requests == 0)

    async def until(self, condition: Callable[[], bool]) -> None:
        await self.crew.provider.await_until(condition, PATIENCE)

    async def heard(self, text: str) -> None:
        """Wait until a streamed run, or a member of it, has said `text`."""
        await self.until(
            lambda: any(
                e.event.removeprefix("Team") == "RunContent" and text in e.content for e in self.events
            )
        )

    async def answering(self, *models: str) -> None:
        """Wait until these models are giving an answer that has not come to its end."""
        for model in models:
            await self.until(lambda model=model: any(map(_answering, self.crew.requests(model))))
        await turns()

    def run_of(self, name: str) -> str:
        """The id of a member's run, which has begun."""
        return next(
            e.run_id
            for e in self.events
            if name in (getattr(e, "agent_name", ""), getattr(e, "team_name", ""))
        )

    def kinds(self, name: str, run_id: str | None = None) -> list[Any]:
        """The events of this name, as agents name it, of one run or of all."""
        return [e for e in self.events if e.event.removeprefix("Team") == name and run_id in (None, e.run_id)]


def _answering(request: Any) -> bool:
    return request.outcome is None and bool(request.streamed)


async def still_live(run_id: str = RUN) -> None:
    """What was on its way to the run's tasks has arrived, and the run has not ended."""
    await turns()
    assert run_id in get_active_runs()


async def turns(count: int = 100) -> None:
    """Let the event loop go round so often: more than a cancel needs from its call to the run's end."""
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


def tree(output: Any) -> Iterator[Any]:
    """The output and those of all members."""
    yield output
    for member in getattr(output, "member_responses", ()):
        yield from tree(member)


def by_name(output: Any) -> dict[str, Any]:
    """The outputs of the tree by the names of their agents and teams."""
    return {getattr(each, "agent_name", None) or each.team_name: each for each in tree(output)}


def answers(output: Any) -> list[str]:
    """What the tool calls were answered with, as the conversation has it."""
    return [message.content for message in output.messages if message.role == "tool"]


def is_cancelled(output: Any, by: str = "request", reason: str | None = None) -> bool:
    return (output.status, output.cancelled_by, output.reason) == (RunStatus.cancelled, by, reason)
