"""Every situation, streamed and awaited, cancelled from everywhere: the run stops, and all of it tells one end."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest

from kern_async import Agent, RunStatus, abandoned, acancel_run
from kern_async.models.openai import OpenAIChat, OpenAIResponses
from kern_async.run.cancel import get_active_runs
from kern_async.testing import ProviderServer

from .checks import check_end, check_provider
from .situations import SITUATIONS, Situation
from .stage import REASON, Runner, Stage

Record = Callable[[str, object], None]


@dataclass(eq=False)
class Ending:
    """What the consumer of the run got."""

    came: anyio.Event
    output: Any = None
    streamed: list[Any] | None = None


async def consume(runner: Runner, stage: Stage, ending: Ending, *, streamed: bool) -> None:
    if streamed:
        ending.streamed = []
        async with runner.arun("Go.", stream=True, stream_events=True, run_id=stage.run_id) as events:
            async for event in events:
                ending.streamed.append(event)
        ending.output = events.output
    else:
        ending.output = await runner.arun("Go.", run_id=stage.run_id)
    ending.came.set()


async def from_a_task(stage: Stage, ending: Ending) -> None:
    stage.cancel()


async def from_a_task_that_waits(stage: Stage, ending: Ending) -> None:
    stage.note_cancel()
    stage.answers.append(await acancel_run(stage.run_id, reason=REASON, wait=True))
    assert stage.run_id not in get_active_runs()


async def from_a_thread(stage: Stage, ending: Ending) -> None:
    await anyio.to_thread.run_sync(stage.cancel)


async def from_a_signal_handler(stage: Stage, ending: Ending) -> None:
    before = signal.signal(signal.SIGALRM, lambda *_: stage.cancel())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        await ending.came.wait()  # idle, as an event loop is when a signal comes
    finally:
        signal.signal(signal.SIGALRM, before)


async def from_a_tool_of_another_member(stage: Stage, ending: Ending) -> None:
    assert stage.go is not None
    stage.go.set()


async def from_its_own_code(stage: Stage, ending: Ending) -> None:
    # A thread may get its answer after the run has ended.
    await stage.provider.await_until(stage.inside.is_set)


Canceller = Callable[[Stage, Ending], Awaitable[None]]
CANCELLERS: list[Canceller] = [
    from_a_task,
    from_a_task_that_waits,
    from_a_thread,
    from_a_signal_handler,
    from_a_tool_of_another_member,
    from_its_own_code,
]
MATRIX = [
    pytest.param(situation, canceller, id=f"{situation.name}-{canceller.__name__}")
    for situation in SITUATIONS
    for canceller in CANCELLERS
    if situation.own_code or canceller is not from_its_own_code
]


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "awaited"])
@pytest.mark.parametrize(("situation", "canceller"), MATRIX)
async def test_cancel_ends_the_run_wherever_it_is(
    situation: Situation,
    canceller: Canceller,
    streamed: bool,
    provider: ProviderServer,
    record_property: Record,
) -> None:
    await stop(situation, canceller, provider, record_property, streamed=streamed)


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.name)
async def test_cancel_ends_a_run_on_the_chat_protocol_wherever_it_is(
    situation: Situation, provider: ProviderServer, record_property: Record
) -> None:
    await stop(situation, from_a_thread, provider, record_property, streamed=True, protocol=OpenAIChat)


async def stop(
    situation: Situation,
    canceller: Canceller,
    provider: ProviderServer,
    record: Record,
    *,
    streamed: bool,
    protocol: type[OpenAIResponses | OpenAIChat] = OpenAIResponses,
) -> None:
    stage = Stage(provider=provider, protocol=protocol, cancels_itself=canceller is from_its_own_code)
    stage.go = anyio.Event()
    runner = subject = situation.build(stage)
    if canceller is from_a_tool_of_another_member:
        runner = stage.with_accomplice(subject)
    ending = Ending(anyio.Event())
    with anyio.fail_after(15):
        async with anyio.create_task_group() as group:
            group.start_soon(partial(consume, runner, stage, ending, streamed=streamed))
            if canceller is from_its_own_code:
                await ending.came.wait()
            else:
                await stage.wait_until_in_it(situation.reached)
            await canceller(stage, ending)
    check_end(stage, situation, ending.output, ending.streamed)

    before = ending.output.model_dump()
    stage.release.set()
    await provider.await_until(lambda: not abandoned())
    later = await Agent(name="later", model=subject.model).arun("And now?")
    assert later.status is RunStatus.completed
    await provider.await_until(lambda: provider.open_requests == 0, timeout=1)
    assert ending.output.model_dump() == before, "what came late went nowhere"
    for seconds in check_provider(stage, situation):
        record("cancel to disconnect", seconds)
    record("cancel to settled", ending.output.settled_at - ending.output.requested_at)
