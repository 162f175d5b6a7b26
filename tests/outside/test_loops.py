"""Event loops that end, and several of them in one process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, cast

import anyio
import pytest
import trio
import uvloop

from kern_async import Agent, abandoned, cancel_run
from kern_async.run.base import RunStatus
from kern_async.testing import Text, ToolCall
from kern_async.testing.scripted import ScriptedModel, call

if TYPE_CHECKING:
    from outside.conftest import Stage

Main = Callable[[], Coroutine[Any, Any, Any]]
RUNNERS: dict[str, Callable[[Main], Any]] = {
    "asyncio": lambda main: asyncio.run(main()),
    "uvloop": lambda main: uvloop.run(main()),
    "trio": trio.run,
}


@pytest.fixture(params=RUNNERS)
def run_loop(request: pytest.FixtureRequest) -> Callable[[Main], Any]:
    return RUNNERS[request.param]


def test_a_streamed_run_ends_with_its_loop(stage: Stage, run_loop: Callable[[Main], Any]) -> None:
    held: list[Any] = []

    async def main() -> None:
        held.append(stage.team().arun("go", stream=True, run_id=stage.RUN))
        await anext(held[0])
        await stage.streaming()

    run_loop(main)
    assert stage.run.ended
    stage.settled("shutdown")
    assert held[0].output is stage.run.output


@pytest.mark.parametrize("runner", ["asyncio", "uvloop"])
def test_an_awaited_run_in_a_task_that_nobody_awaits_ends_with_its_loop(stage: Stage, runner: str) -> None:
    tasks: list[asyncio.Task[Any]] = []

    async def main() -> None:
        tasks.append(asyncio.create_task(stage.team().arun("go", run_id=stage.RUN)))
        await stage.streaming()

    RUNNERS[runner](main)
    assert tasks[0].cancelled()
    stage.settled("caller")


def test_a_loop_may_end_before_its_streamed_runs_first_step(
    stage: Stage, run_loop: Callable[[Main], Any]
) -> None:
    held: list[Any] = []

    async def main() -> None:
        held.append(stage.agent().arun("go", stream=True, run_id=stage.RUN))
        stage.keep()
        await held[0].__aenter__()

    run_loop(main)
    stage.settled("shutdown")
    assert stage.provider.requests == []


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.leaves("socket")
def test_a_run_whose_loop_was_closed_under_it_can_still_be_cancelled() -> None:
    # Not over HTTP: what httpcore leaves on a closed loop complains when it is collected.
    async def tool() -> None:
        begun.set()
        await asyncio.get_running_loop().create_future()

    begun = asyncio.Event()
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _loop, _context: None)  # it complains of the tasks that were left
    model = ScriptedModel("m", [["I look. ", call("tool")]])
    agent = Agent(name="Agent", model=model, tools=[tool], store_events=True)
    held = [agent.arun("go", stream=True, run_id="orphan")]

    async def main() -> None:
        await anext(held[0])
        await begun.wait()

    loop.run_until_complete(main())
    tasks = asyncio.all_tasks(loop)
    loop.close()
    assert cancel_run("orphan") is True
    assert cancel_run("orphan") is False
    output = held[0].output
    assert output is not None
    assert output.status is RunStatus.cancelled
    assert output.cancelled_by == "request"
    assert [(work.kind, work.run_id) for work in output.abandoned] == [("run", "orphan")]
    # What was under way is closed: in the log, and in the conversation.
    assert [event.event for event in output.events or ()][-2:] == ["ToolCallError", "RunCancelled"]
    assert [(m.role, m.content) for m in output.messages][-2:] == [
        ("assistant", "I look. "),
        ("tool", "cancelled"),
    ]
    held.clear()
    close_as_the_collector_would(tasks)
    assert abandoned() == []


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.leaves("socket")
@pytest.mark.parametrize("where", ["model", "tool"])
def test_a_run_whose_loop_was_closed_under_it_ends_when_it_is_collected(where: str) -> None:
    async def hang(*_: Any) -> None:
        begun.set()
        await asyncio.get_running_loop().create_future()

    async def tool() -> None:
        await hang()

    begun = asyncio.Event()
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _loop, _context: None)
    turn = ["I look. ", call("tool") if where == "tool" else hang]
    held = [Agent(model=ScriptedModel("m", [turn]), tools=[tool]).arun("go", stream=True)]

    async def main() -> None:
        await anext(held[0])
        await begun.wait()

    loop.run_until_complete(main())
    tasks = asyncio.all_tasks(loop)
    loop.close()
    close_as_the_collector_would(tasks)
    output = held[0].output
    assert output is not None
    assert output.status is RunStatus.cancelled
    assert output.content == "I look. "


def close_as_the_collector_would(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        with contextlib.suppress(RuntimeError):  # of scopes and events that want their loop
            cast(Coroutine[Any, Any, Any], task.get_coro()).close()
    gc.collect()


def test_an_agent_serves_the_loops_of_two_threads_at_once(stage: Stage) -> None:
    agent = stage.agent()
    both = threading.Barrier(2)
    ends: list[Any] = []

    def work(number: int) -> None:
        async def main() -> None:
            async with agent.arun("go", stream=True, run_id=f"run-{number}") as events:
                await anext(events)
                await stage.provider.await_for_request(2)
                both.wait(10)
            ends.append(events.output)

        asyncio.run(main())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert {(end.run_id, end.cancelled_by) for end in ends} == {("run-0", "consumer"), ("run-1", "consumer")}
    stage.provider.wait_until(lambda: stage.provider.open_connections == 0)


def test_an_agent_serves_one_loop_after_another(stage: Stage) -> None:
    stage.provider.default = Text("answer")
    agent = stage.agent()

    async def main() -> None:
        assert (await agent.arun("go")).content == "answer"

    for runner in [*RUNNERS.values(), *RUNNERS.values()]:
        runner(main)
    stage.provider.wait_until(lambda: stage.provider.open_connections == 0)


async def test_run_works_inside_a_running_loop(stage: Stage) -> None:
    stage.provider.default = Text("answer")
    assert stage.agent().run("go").content == "answer"  # as in a notebook: it blocks the loop
    events = [event.event for event in stage.agent().run("go", stream=True)]
    assert events == ["RunStarted", "RunContent", "RunCompleted"]


def test_run_on_its_own_loop_is_a_tool_error_and_hangs_nothing(stage: Stage) -> None:
    other = stage.agent("Other")

    async def ask() -> str:
        """Ask the other one the wrong way."""
        return str(other.run("inner").content)

    async def ask_streamed() -> str:
        """Ask the other one the wrong way, streamed."""
        return "".join(event.content for event in other.run("inner", stream=True, run_id="inner"))

    stage.provider.reply([ToolCall("ask"), ToolCall("ask_streamed")])
    stage.provider.reply(Text("so be it"))
    output = stage.agent(tools=[ask, ask_streamed]).run("go")
    assert (output.status, output.content) == (RunStatus.completed, "so be it")
    assert [tool.tool_call_error for tool in output.tools] == [True, True]
    for tool in output.tools:
        assert "background loop" in str(tool.result)
    assert len(stage.provider.requests) == 2


async def test_a_sync_tool_may_run_another_agent(stage: Stage) -> None:
    other = stage.agent("Other")

    def ask() -> str:
        """Ask the other one."""
        return str(other.run("inner question").content)

    stage.provider.reply(ToolCall("ask"), when=lambda request: "outer" in request.text)
    stage.provider.reply(Text("inner answer"), when=lambda request: "inner question" in request.last_text)
    stage.provider.default = Text("outer answer")
    output = await stage.agent(tools=[ask]).arun("outer")
    assert output.content == "outer answer"
    assert [tool.result for tool in output.tools] == ["inner answer"]


async def test_a_cancel_does_not_wait_for_the_agent_that_a_sync_tool_runs(stage: Stage) -> None:
    other = stage.agent("Other")
    ends: list[Any] = []
    looked = threading.Event()

    def ask() -> None:
        """Ask the other one."""
        ends.append(other.run("inner", run_id="inner"))
        # Else it may be gone before the outer run ends, and is rightly not named then.
        looked.wait(10)

    stage.provider.reply(ToolCall("ask"))
    async with stage.agent(tools=[ask]).arun("go", stream=True, run_id=stage.RUN) as events:
        await stage.streaming(1)
        assert events.cancel() is True
        with anyio.fail_after(5):
            async for _ in events:
                pass
    assert [work.kind for work in stage.run.output.abandoned] == ["thread"]  # pyright: ignore[reportOptionalMemberAccess]
    looked.set()
    cancel_run("inner")
    await stage.provider.await_until(lambda: not abandoned())
    assert [end.status for end in ends] == [RunStatus.cancelled]
    await stage.ended("request")
