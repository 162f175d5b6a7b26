from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from kern_async.agent import Agent
from kern_async.engine import registry
from kern_async.engine.host import wait_in_thread
from kern_async.engine.run import Run
from kern_async.models.openai import OpenAIResponses
from kern_async.run.base import CancelledBy, RunStatus
from kern_async.team import Team
from kern_async.testing import Forever
from kern_async.testing.provider import ProviderServer

TERMINAL = ("RunCompleted", "RunError", "RunCancelled")

Way = Callable[["Stage"], Coroutine[Any, Any, None]]
"""A coroutine that runs a stage's team, as `stage.RUN`, until it is cancelled from outside."""


class Stage:
    """A provider that talks for ever, agents and teams on it, and what must hold of a run that was ended."""

    RUN = "the-run"

    def __init__(self, provider: ProviderServer) -> None:
        self.provider = provider
        provider.default = Forever()
        self._kept: Run | None = None

    @property
    def model(self) -> OpenAIResponses:
        return OpenAIResponses(id="model", api_key="key", base_url=self.provider.base_url, max_retries=0)

    def agent(self, name: str = "Agent", **options: Any) -> Agent:
        return Agent(name=name, model=self.model, **options)

    def team(self, **options: Any) -> Team:
        """Two members that talk at the same time."""
        members = [self.agent("First"), self.agent("Second")]
        return Team(name="Team", model=self.model, members=members, mode="broadcast", **options)

    @property
    def run(self) -> Run:
        """The run, kept while it was live."""
        if self._kept is None:
            self.keep()
        assert self._kept is not None
        return self._kept

    def keep(self, run_id: str = RUN) -> Run:
        run = registry.find(run_id)
        assert run is not None, f"{run_id} is not live"
        self._kept = run
        return run

    async def streaming(self, answers: int = 2) -> None:
        """Wait until so many answers have begun, and keep the run."""
        await self.provider.await_until(
            lambda: sum(bool(r.streamed) for r in self.provider.requests) >= answers
        )
        self.keep()

    async def when_streaming(self, act: Callable[[], object]) -> None:
        await self.streaming()
        act()

    async def ended(self, by: CancelledBy, run: Run | None = None) -> None:
        """The run comes to its one end, CANCELLED, leaves first, and the provider is left at once."""
        run = run or self.run
        with anyio.fail_after(5):
            await run.wait_ended()
            await self.left()
        self.check(by, run)

    def settled(self, by: CancelledBy, run: Run | None = None) -> None:
        """`ended` for a test without an event loop."""
        run = run or self.run
        wait_in_thread(run, run.attempt, 5)
        self.provider.wait_until(lambda: self.provider.open_requests == 0)
        self.check(by, run)

    def check(self, by: CancelledBy, run: Run | None = None) -> None:
        """The end as the log and the output tell it."""
        run = run or self.run
        assert run.ended
        events = run.log.events
        terminals = [event for event in events if event.event.removeprefix("Team") in TERMINAL]
        assert Counter(e.run_id for e in terminals) == Counter({e.run_id for e in events})
        assert [e.event_index for e in events] == list(range(len(events)))
        for end in terminals:
            assert [e for e in events if e.run_id == end.run_id][-1] is end
        if run.parent is None:
            assert events[-1].run_id == run.id
            assert run.log.closed
        output = run.output
        assert output is not None
        assert (output.status, output.cancelled_by) == (RunStatus.cancelled, by)
        end = next(e for e in terminals if e.run_id == run.id)
        assert (end.event, end.content) == (output.event, output.content)
        assert getattr(end, "cancelled_by", None) == by
        for member in run.children:
            assert member.output is not None
            assert (member.output.status, member.output.cancelled_by) == (RunStatus.cancelled, "parent")
        assert run.id not in registry.get_active_runs()
        assert registry.cancel_run(run.id) is False

    async def left(self) -> None:
        """Every answer that the provider had not finished has lost its client."""
        await self.provider.await_until(lambda: self.provider.open_requests == 0)


@pytest.fixture
def stage(provider: ProviderServer) -> Stage:
    return Stage(provider)


async def awaited(stage: Stage) -> None:
    await stage.team().arun("go", run_id=stage.RUN)


async def read(stage: Stage) -> None:
    async for _ in stage.team().arun("go", stream=True, run_id=stage.RUN):
        pass


async def read_in_block(stage: Stage) -> None:
    async with stage.team().arun("go", stream=True, run_id=stage.RUN) as events:
        async for _ in events:
            pass


async def busy_in_block(stage: Stage) -> None:
    async with stage.team().arun("go", stream=True, run_id=stage.RUN) as events:
        async for event in events:
            if event.event == "RunContent":
                await anyio.sleep_forever()


WAYS = (awaited, read, read_in_block, busy_in_block)


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def way(request: pytest.FixtureRequest) -> Way:
    """Every way to be the task whose run is cancelled from outside."""
    return request.param


@pytest.fixture
def same_cancels() -> Callable[[], None]:
    """Checks that no native cancel of the calling task is pending (there are none on trio)."""

    def check() -> None:
        if isinstance(anyio.lowlevel.current_token().native_token, asyncio.AbstractEventLoop):
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0

    return check
