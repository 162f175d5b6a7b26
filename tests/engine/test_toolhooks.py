"""Hooks round a tool call: what they get, what they may change, and that none of it outlives a cancel."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from kern_async import Agent, RunContext, abandoned, cancel_run, tool
from kern_async.engine.pausing import Pausing
from kern_async.exceptions import InputCheckError, RunCancelled
from kern_async.run.agent import RunOutput
from kern_async.run.base import RunStatus
from kern_async.testing.scripted import ScriptedModel, call
from kern_async.tools import FunctionCall, threads

RUN = "the-run"
GRACE = 0.2


def told(output: RunOutput) -> list[str]:
    return [message.content or "" for message in output.messages if message.role == "tool"]


def agent_with(tools: list[Any], *hooks: Any, **arguments: Any) -> Agent:
    """Its model calls the first tool with these arguments, and is done."""
    name = getattr(tools[0], "name", None) or tools[0].__name__
    model = ScriptedModel("model", [call(name, **arguments), "Done."])
    return Agent(name="Solo", model=model, tools=tools, tool_hooks=list(hooks), cancel_grace=GRACE)


async def outcome(tools: list[Any], *hooks: Any, **arguments: Any) -> RunOutput:
    return await agent_with(tools, *hooks, **arguments).arun("go", run_id=RUN)


def add(a: int, b: int = 0) -> str:
    return f"{a + b}"


async def aadd(a: int, b: int = 0) -> str:
    await anyio.lowlevel.checkpoint()
    return f"{a + b}"


def sync_hook(mark: str) -> Callable[..., Any]:
    def around(function_call: Callable[..., str], arguments: dict[str, Any]) -> str:
        return f"{mark}({function_call(**arguments)})"

    return around


def async_hook(mark: str) -> Callable[..., Any]:
    async def around(function_call: Callable[..., Any], arguments: dict[str, Any]) -> str:
        return f"{mark}({await function_call(**arguments)})"

    return around


def wrapped_hook(mark: str) -> Callable[..., Any]:
    inner = async_hook(mark)

    def around(function_call: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        return inner(function_call, arguments)  # a function, and yet what it gives is awaited

    return around


KINDS = {"sync": sync_hook, "async": async_hook, "wrapped": wrapped_hook}


@pytest.mark.parametrize("function", [add, aadd])
@pytest.mark.parametrize("inner", KINDS)
@pytest.mark.parametrize("outer", KINDS)
async def test_hooks_of_any_kind_wrap_tools_of_any_kind_the_first_outermost(
    outer: str, inner: str, function: Callable[..., Any]
) -> None:
    hooked = tool(tool_hooks=[KINDS[inner]("tool's")])(function)
    output = await outcome([hooked], KINDS[outer]("first"), KINDS[inner]("second"), a=1, b=2)
    assert told(output) == ["first(second(tool's(3)))"]
    assert output.status is RunStatus.completed


async def test_a_hook_gets_what_it_names() -> None:
    seen: dict[str, Any] = {}

    def first(
        function_name: str, func: Any, args: dict[str, Any], run_context: RunContext, agent: Agent
    ) -> Any:
        seen["first"] = (function_name, args, run_context.run_id, run_context.tool_call_id, agent.name)
        return func(**args)

    async def second(name: str, function: Any, **rest: Any) -> Any:
        seen["second"] = (name, sorted(rest))
        return await function(**rest["arguments"])

    solo = agent_with([add], first, second, a=1)
    output = await solo.arun("go", run_id=RUN)
    assert told(output) == ["1"]
    assert seen["first"] == ("add", {"a": 1}, RUN, output.tools[0].tool_call_id, "Solo")
    assert seen["second"][0] == "add"
    assert {"run_context", "agent", "arguments"} <= set(seen["second"][1])


@pytest.mark.parametrize("kind", KINDS)
async def test_a_hook_may_change_the_arguments_and_the_result_and_call_again(kind: str) -> None:
    def sync(function_call: Any) -> str:
        return "+".join(function_call(a=a) for a in (1, 2))

    async def asynchronous(function_call: Any) -> str:
        return "+".join([await function_call(a=a) for a in (1, 2)])

    output = await outcome([add], {"sync": sync}.get(kind, asynchronous), KINDS[kind]("inner"), a=7)
    assert told(output) == ["inner(1)+inner(2)"]


async def test_a_hook_may_ask_for_several_at_the_same_time() -> None:
    together = anyio.Event()
    waiting: list[int] = []

    async def meet(a: int) -> int:
        waiting.append(a)
        if len(waiting) == 2:
            together.set()
        await together.wait()
        return a

    async def both(function_call: Any) -> str:
        got: list[int] = []

        async def one(a: int) -> None:
            got.append(await function_call(a=a))

        async with anyio.create_task_group() as group:
            group.start_soon(one, 1)
            group.start_soon(one, 2)
        return f"{sorted(got)}"

    with anyio.fail_after(5):
        assert told(await outcome([meet], both, a=0)) == ["[1, 2]"]


@pytest.mark.parametrize("way", ["return", "raise"])
async def test_a_hook_may_refuse_and_the_model_is_told(way: str) -> None:
    called: list[int] = []

    def count(a: int) -> None:
        called.append(a)

    def refuse(name: str) -> str:
        if way == "raise":
            raise PermissionError(f"{name} is not allowed")
        return f"{name} is not allowed"

    output = await outcome([count], sync_hook("seen"), refuse, a=1)
    assert told(output) == ["seen(count is not allowed)" if way == "return" else "count is not allowed"]
    assert output.tools[0].tool_call_error is (way == "raise")
    assert output.status is RunStatus.completed
    assert not called


async def test_arguments_that_a_hook_made_wrong_are_an_error_for_the_model() -> None:
    def spoil(function_call: Any) -> Any:
        return function_call(a="no number")

    (text,) = told(await outcome([add], spoil, a=1))
    assert "a: " in text


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_tools_failure_passes_through_its_hooks_which_may_handle_it(kind: str) -> None:
    def fail(a: int) -> None:
        raise OSError("no such thing")

    def sync(function_call: Any) -> Any:
        try:
            return function_call(a=1)
        except OSError as exc:
            return f"handled {exc}"

    async def asynchronous(function_call: Any) -> Any:
        try:
            return await function_call(a=1)
        except OSError as exc:
            return f"handled {exc}"

    handles = sync if kind == "sync" else asynchronous
    assert told(await outcome([fail], KINDS[kind]("seen"), a=1)) == ["no such thing"]
    assert told(await outcome([fail], handles, KINDS[kind]("seen"), a=1)) == ["handled no such thing"]


@pytest.mark.parametrize("place", ["tool_hook", "pre_hook", "post_hook"])
async def test_a_check_that_fails_in_a_hook_ends_the_run(place: str) -> None:
    def check() -> None:
        raise InputCheckError("not that")

    if place == "tool_hook":
        output = await outcome([add], async_hook("seen"), check, a=1)
    else:
        checked = tool(pre_hook=check)(add) if place == "pre_hook" else tool(post_hook=check)(add)
        output = await outcome([checked], async_hook("seen"), a=1)
    assert (output.status, output.error_type, output.error) == (
        RunStatus.error,
        "InputCheckError",
        "not that",
    )


async def test_pre_and_post_hooks_may_change_the_call_and_its_result() -> None:
    seen: list[Any] = []

    def before(fc: FunctionCall, run_context: RunContext, agent: Agent) -> None:
        seen.append((fc.function.name, fc.arguments, fc.call_id, fc.result, run_context.run_id, agent.name))
        fc.arguments = {"a": 5}

    async def after(function_call: FunctionCall) -> None:
        seen.append((function_call.arguments, function_call.result))
        function_call.result += " made"

    output = await outcome([tool(pre_hook=before, post_hook=after)(add)], async_hook("round"), a=1)
    assert seen == [
        ("add", {"a": 1}, output.tools[0].tool_call_id, None, RUN, "Solo"),
        ({"a": 5}, "round(5)"),
    ]
    assert told(output) == ["round(5) made"]


async def test_a_pre_hook_that_raises_prevents_the_call() -> None:
    called: list[str] = []

    @tool(pre_hook=lambda: int("x"), post_hook=lambda: called.append("post"))
    def work() -> None:
        called.append("tool")

    (text,) = told(await outcome([work]))
    assert "invalid literal" in text
    assert not called


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_what_unwinds_the_run_passes_through_hooks_that_swallow_it(kind: str) -> None:
    seen: list[str] = []

    def sync(function_call: Any) -> str:
        for _ in range(2):
            try:
                function_call(a=1)
            except Exception:
                seen.append("Exception")
            except BaseException as exc:
                seen.append(type(exc).__name__)
        return "swallowed"

    async def asynchronous(function_call: Any) -> str:
        for _ in range(2):
            try:
                await function_call(a=1)
            except Exception:
                seen.append("Exception")
            except BaseException as exc:
                seen.append(type(exc).__name__)
        return "swallowed"

    performed: list[int] = []

    def unwind(a: int) -> None:
        performed.append(a)
        raise Pausing

    swallows = sync if kind == "sync" else asynchronous
    output = await outcome([unwind], KINDS[kind]("outer"), swallows, a=1)
    assert output.status is RunStatus.paused
    assert seen == ["Pausing", "Pausing"]
    assert performed == [1]
    assert cancel_run(RUN)


class Hang:
    """An async tool that waits for ever, and says when it is there and when it is gone."""

    def __init__(self) -> None:
        self.begun = anyio.Event()
        self.gone = False

    async def hang(self) -> None:
        self.begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.gone = True


async def cancelled(agent: Agent, begun: anyio.Event) -> RunOutput:
    async def cancel() -> None:
        await begun.wait()
        assert cancel_run(RUN) is True

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(cancel)
            output = await agent.arun("go", run_id=RUN)
    return output


async def test_a_sync_hook_that_waits_for_the_call_is_gone_with_the_cancel() -> None:
    hang = Hang()
    seen: list[str] = []
    threads: list[threading.Thread] = []

    def waits(function_call: Any) -> str:
        threads.append(threading.current_thread())
        for _ in range(2):
            try:
                function_call()
            except Exception as exc:
                seen.append(type(exc).__name__)
        return "late"

    output = await cancelled(agent_with([hang.hang], waits, waits), hang.begun)
    assert output.status is RunStatus.cancelled
    assert hang.gone
    assert seen == [RunCancelled.__name__] * 4
    for thread in threads:
        thread.join(1)
    assert [thread.is_alive() for thread in threads] == [False, False]
    assert output.abandoned == []
    assert [(w.kind, w.name) for w in output.interrupted if w.kind == "hook"] == [("hook", "waits")]
    assert ("tool", "hang") in [(work.kind, work.name) for work in output.interrupted]
    assert output.settled_at is not None
    assert output.requested_at is not None
    assert output.settled_at - output.requested_at < GRACE + 0.5
    assert told(output) == ["cancelled"]


async def test_a_cancel_from_outside_releases_a_sync_hook_too() -> None:
    hang = Hang()
    ended = threading.Event()

    def waits(function_call: Any) -> None:
        try:
            function_call()
        finally:
            ended.set()

    agent = agent_with([hang.hang], async_hook("outer"), waits)

    async with anyio.create_task_group() as group:

        async def run() -> None:
            await agent.arun("go", run_id=RUN)

        group.start_soon(run)
        await hang.begun.wait()
        group.cancel_scope.cancel()
    assert ended.wait(1)
    assert hang.gone
    assert not abandoned()


async def test_an_async_hook_is_cut_with_the_call() -> None:
    hang = Hang()
    left: list[str] = []

    async def waits(function_call: Any) -> None:
        try:
            await function_call()
        finally:
            left.append("hook")

    output = await cancelled(agent_with([hang.hang], sync_hook("outer"), waits), hang.begun)
    assert output.status is RunStatus.cancelled
    assert hang.gone
    assert left == ["hook"]
    assert output.abandoned == []


async def test_a_hook_busy_in_its_own_code_is_a_straggler_like_any_thread() -> None:
    release = threading.Event()
    begun = anyio.Event()
    loop = anyio.lowlevel.current_token()

    def busy(function_call: Any) -> Any:
        anyio.from_thread.run_sync(begun.set, token=loop)
        release.wait(8)
        return function_call(a=1)

    output = await cancelled(agent_with([add], busy, a=1), begun)
    assert [(work.kind, work.name) for work in output.abandoned] == [("thread", "busy")]
    release.set()
    with anyio.fail_after(5):
        while abandoned():  # noqa: ASYNC110 - nobody is told when a straggler is struck off
            await anyio.sleep(0.001)


async def test_a_stubborn_hook_is_left_after_the_grace() -> None:
    begun, release, over = anyio.Event(), anyio.Event(), anyio.Event()

    async def stubborn() -> None:
        begun.set()
        patience = time.monotonic() + 8
        try:
            while not release.is_set() and time.monotonic() < patience:
                try:
                    with anyio.move_on_after(8):
                        await release.wait()
                except anyio.get_cancelled_exc_class():
                    continue
        finally:
            over.set()

    output = await cancelled(agent_with([add], sync_hook("outer"), stubborn, a=1), begun)
    assert not over.is_set()
    assert [(work.kind, work.name) for work in output.abandoned] == [("hook", "stubborn")]
    assert output.settled_at is not None
    assert output.requested_at is not None
    assert GRACE <= output.settled_at - output.requested_at < GRACE + 0.5
    release.set()
    with anyio.fail_after(5):
        while abandoned():  # noqa: ASYNC110 - nobody is told when a straggler is struck off
            await anyio.sleep(0.001)


async def test_a_hooks_own_deadline_cuts_the_call_and_not_the_run() -> None:
    hang = Hang()

    async def impatient(function_call: Any) -> str:
        with anyio.move_on_after(0.01):
            await function_call()
        assert hang.gone, "it is cut before the hook goes on"
        return "took too long"

    with anyio.fail_after(5):
        output = await outcome([tool(timeout=8)(hang.hang)], impatient)
    assert told(output) == ["took too long"]
    assert (output.status, output.content) == (RunStatus.completed, "Done.")
    assert output.interrupted == []


async def test_a_call_that_a_hook_left_behind_is_cut_when_the_hook_returns() -> None:
    hang = Hang()

    def leaves(function_call: Any, run_context: RunContext) -> str:
        def ask() -> None:
            try:
                function_call()
            except Exception as exc:
                seen.append(str(exc))

        thread = threading.Thread(target=ask)
        thread.start()
        threads.append(thread)
        assert begun.wait(5)
        return "left"

    async def started() -> None:
        begun.set()
        await hang.hang()

    begun = threading.Event()
    seen: list[str] = []
    threads: list[threading.Thread] = []
    with anyio.fail_after(5):
        output = await outcome([started], leaves)
    threads[0].join(1)
    assert told(output) == ["left"]
    assert hang.gone
    assert seen == ["leaves gave the call up"]


async def test_a_function_call_that_is_kept_is_of_no_use_later() -> None:
    kept: list[Any] = []

    async def keep(function_call: Any) -> str:
        kept.append(function_call)
        return "kept"

    await outcome([add], keep, a=1)
    with pytest.raises(Exception, match="keep has ended"):
        await kept[0](a=1)


async def test_hooks_that_wait_leave_the_threads_to_the_tools() -> None:
    """Each hook's thread waits for its tool's: counted together, they would wait for each other for ever."""
    usual = threads._limits.max_threads
    threads.limit_threads(max_threads=2)
    try:
        agents = [agent_with([add], sync_hook("outer"), sync_hook("inner"), a=1, b=n) for n in range(6)]
        outputs: list[RunOutput] = []

        async def go(agent: Agent) -> None:
            outputs.append(await agent.arun("go"))

        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                for agent in agents:
                    group.start_soon(go, agent)
    finally:
        threads.limit_threads(max_threads=usual)
    assert sorted(told(output)[0] for output in outputs) == [f"outer(inner({1 + n}))" for n in range(6)]
    assert threads.thread_usage().running == 0
