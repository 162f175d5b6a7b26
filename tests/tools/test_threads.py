from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskGroup

from kern_async.exceptions import ConfigurationError, ToolError
from kern_async.tools.threads import ThreadUsage, limit_threads, run_in_thread, thread_usage

from ..as_a_user import environment

NOTHING = ThreadUsage(running=0, waiting=0, abandoned=0)


@pytest.fixture(autouse=True)
def usual_limits() -> Generator[None]:
    yield
    limit_threads(max_threads=40, max_abandoned_threads=100)


class Sleepers:
    """Sync calls that run until `wake`, and what became of them."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.abandoned: list[str] = []
        self.ended: list[str] = []
        self.threads: list[threading.Thread] = []
        self._go = threading.Event()

    async def sleep(self, name: str) -> None:
        def call() -> None:
            self.threads.append(threading.current_thread())
            self.begun.append(name)
            if not self._go.wait(10):
                raise TimeoutError

        def abandoned() -> Callable[[], None]:
            self.abandoned.append(name)
            return lambda: self.ended.append(name)

        await run_in_thread(call, name=name, on_abandoned=abandoned)

    def wake(self) -> None:
        self._go.set()
        for thread in self.threads:
            thread.join(10)

    @property
    def alive(self) -> int:
        return sum(thread.is_alive() for thread in self.threads)


@contextmanager
def sleepers() -> Generator[Sleepers]:
    them = Sleepers()
    try:
        yield them
    finally:
        them.wake()


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - a thread's end has no event
            await anyio.sleep(0.001)


async def start(group: TaskGroup, them: Sleepers, *names: str) -> None:
    for name in names:
        group.start_soon(them.sleep, name)
    await until(lambda: set(names) <= set(them.begun))


async def test_a_call_runs_in_a_daemon_thread_and_returns_its_result() -> None:
    thread = await run_in_thread(threading.current_thread, name="tool")
    assert thread is not threading.current_thread()
    assert thread.daemon
    assert thread_usage() == NOTHING


async def test_a_call_sees_the_callers_context_and_changes_a_copy() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("caller")

    def call() -> str:
        seen = variable.get()
        variable.set("thread")
        return seen

    assert await run_in_thread(call, name="tool") == "caller"
    assert variable.get() == "caller"


async def test_a_call_may_run_an_event_loop_of_its_own() -> None:
    async def inner() -> str:
        await anyio.lowlevel.checkpoint()
        return "inner"

    for backend in ("asyncio", "trio"):
        assert (
            await run_in_thread(lambda backend=backend: anyio.run(inner, backend=backend), name="tool")
            == "inner"
        )


@pytest.mark.parametrize("error", [ValueError("x"), StopAsyncIteration("x"), BaseException("x")])
async def test_an_error_reaches_the_caller_as_it_is(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        await run_in_thread(raising(error), name="tool")
    assert caught.value is error
    assert thread_usage() == NOTHING


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), StopIteration("x"), GeneratorExit()])
async def test_an_error_that_means_something_else_to_the_caller_is_a_tool_error(error: BaseException) -> None:
    with pytest.raises(ToolError, match=f"^tool .*{type(error).__name__}") as caught:
        await run_in_thread(raising(error), name="tool")
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_cancellation_out_of_the_thread_is_not_taken_for_the_callers() -> None:
    with pytest.raises(ToolError, match="CancelledError"):
        await run_in_thread(raising(asyncio.CancelledError()), name="tool")


def raising(error: BaseException) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


async def test_a_cancel_leaves_a_running_thread_at_once_and_says_when_it_ended() -> None:
    with sleepers() as them:
        async with anyio.create_task_group() as group:
            await start(group, them, "slow")
            group.cancel_scope.cancel()
        assert (them.abandoned, them.ended) == (["slow"], [])
        assert them.alive == 1
        assert thread_usage() == ThreadUsage(running=0, waiting=0, abandoned=1)
        them.wake()
        assert them.ended == ["slow"]
        assert thread_usage() == NOTHING


@pytest.mark.parametrize("anyio_backend", ["asyncio", "uvloop"], indirect=True)
async def test_a_native_cancel_leaves_a_running_thread_as_well() -> None:
    with sleepers() as them:
        task = asyncio.create_task(them.sleep("slow"))
        await until(lambda: them.begun == ["slow"])
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert them.abandoned == ["slow"]


async def test_the_late_error_of_a_straggler_goes_nowhere() -> None:
    go = threading.Event()
    ended = threading.Event()

    def call() -> None:
        go.wait(10)
        raise SystemExit(1)

    with anyio.CancelScope() as scope:

        def abandoned() -> Callable[[], None]:
            return ended.set

        async with anyio.create_task_group() as group:
            group.start_soon(lambda: run_in_thread(call, name="late", on_abandoned=abandoned))
            await until(lambda: thread_usage().running == 1)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
    go.set()
    assert ended.wait(10)
    assert thread_usage() == NOTHING


async def test_tokens_are_the_threads_that_live_and_are_waited_for() -> None:
    with sleepers() as first, sleepers() as second:
        async with anyio.create_task_group() as group:
            for index in range(100):
                group.start_soon(first.sleep, f"first {index}")
            await until(lambda: len(first.begun) == 40)
            await anyio.wait_all_tasks_blocked()
            assert thread_usage() == ThreadUsage(running=40, waiting=60, abandoned=0)
            assert first.alive == 40
            group.cancel_scope.cancel()
        assert thread_usage() == ThreadUsage(running=0, waiting=0, abandoned=40)
        assert len(first.begun) == first.alive == len(first.abandoned) == 40

        async with anyio.create_task_group() as group:  # the abandoned do not keep others from running
            await start(group, second, *(f"second {index}" for index in range(40)))
            assert thread_usage() == ThreadUsage(running=40, waiting=0, abandoned=40)
            assert second.alive == 40
            group.cancel_scope.cancel()
        assert thread_usage() == ThreadUsage(running=0, waiting=0, abandoned=80)

        first.wake()
        assert Counter(first.ended) == Counter(first.abandoned)
        assert thread_usage() == ThreadUsage(running=0, waiting=0, abandoned=40)
        second.wake()
        assert thread_usage() == NOTHING
        assert len(first.begun) == 40


async def test_a_hundred_running_threads_are_left_at_once() -> None:
    limit_threads(max_threads=100)
    with sleepers() as them:
        async with anyio.create_task_group() as group:
            await start(group, them, *map(str, range(100)))
            assert thread_usage() == ThreadUsage(running=100, waiting=0, abandoned=0)
            group.cancel_scope.cancel()
        assert thread_usage() == ThreadUsage(running=0, waiting=0, abandoned=100)
        them.wake()
        assert len(them.ended) == 100
        assert thread_usage() == NOTHING


async def test_a_call_that_was_cancelled_in_the_queue_never_starts() -> None:
    limit_threads(max_threads=1)
    with sleepers() as them:
        async with anyio.create_task_group() as group:
            await start(group, them, "running")
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as queued:
                    queued.start_soon(them.sleep, "queued")
                    await anyio.wait_all_tasks_blocked()
                    assert thread_usage().waiting == 1
                    scope.cancel()
            them.wake()
        assert await run_in_thread(lambda: "next", name="next") == "next"
    assert them.begun == ["running"]
    assert them.abandoned == []


async def test_a_call_that_was_cancelled_when_its_turn_came_never_starts() -> None:
    limit_threads(max_threads=1)
    begun: list[str] = []
    with sleepers() as them:
        async with anyio.create_task_group() as group:
            await start(group, them, "running")
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as queued:
                    queued.start_soon(lambda: run_in_thread(lambda: begun.append("queued"), name="queued"))
                    await anyio.wait_all_tasks_blocked()
                    limit_threads(max_threads=2)
                    assert thread_usage().waiting == 0  # its token is its own, and in this tick it is cut
                    scope.cancel()
            them.wake()
    assert begun == []
    assert thread_usage() == NOTHING


async def test_a_call_that_was_cancelled_before_its_thread_began_never_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = threading.Event()
    made: list[threading.Thread] = []

    class GatedThread(threading.Thread):
        def run(self) -> None:
            made.append(self)
            gate.wait(10)
            super().run()

    monkeypatch.setattr(threading, "Thread", GatedThread)
    begun: list[str] = []

    async with anyio.create_task_group() as group:
        group.start_soon(lambda: run_in_thread(lambda: begun.append("tool"), name="tool", on_abandoned=never))
        await until(lambda: len(made) == 1)
        group.cancel_scope.cancel()
    assert thread_usage() == ThreadUsage(
        running=1, waiting=0, abandoned=0
    )  # it is there, until it has looked
    gate.set()
    made[0].join(10)
    await until(lambda: thread_usage() == NOTHING)
    assert begun == []


def never() -> Callable[[], None]:
    raise AssertionError("no straggler")


async def test_a_thread_that_cannot_be_started_takes_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        await run_in_thread(lambda: None, name="tool")
    assert thread_usage() == NOTHING


async def test_a_cancel_that_meets_the_end_of_a_thread_leaves_the_books_balanced() -> None:
    abandoned: list[int] = []
    ended: list[int] = []

    def straggler() -> Callable[[], None]:
        abandoned.append(1)
        return lambda: ended.append(1)

    for _ in range(200):
        begun, go = threading.Event(), threading.Event()

        def call(begun: threading.Event = begun, go: threading.Event = go) -> None:
            begun.set()
            go.wait(10)

        async with anyio.create_task_group() as group:
            group.start_soon(lambda call=call: run_in_thread(call, name="tool", on_abandoned=straggler))
            await until(begun.is_set)
            go.set()
            group.cancel_scope.cancel()
    await until(lambda: len(ended) == len(abandoned) and thread_usage() == NOTHING)


async def test_a_straggler_without_room_keeps_its_token_and_who_must_wait_is_told_once() -> None:
    limit_threads(max_threads=2, max_abandoned_threads=1)
    told: list[Sequence[str]] = []
    done: list[str] = []

    async def call(name: str) -> None:
        await run_in_thread(lambda: done.append(name), name=name, on_blocked=told.append)

    with sleepers() as them, sleepers() as more:
        async with anyio.create_task_group() as group:
            await start(group, them, "a", "b")
            group.cancel_scope.cancel()
        assert thread_usage() == ThreadUsage(running=0, waiting=0, abandoned=2)
        assert sorted(them.abandoned) == ["a", "b"]

        async with anyio.create_task_group() as group:
            await call("there is a token left")
            assert told == []
            await start(group, more, "c")
            group.start_soon(call, "first in the queue")
            group.start_soon(call, "second in the queue")
            await anyio.wait_all_tasks_blocked()
            assert thread_usage() == ThreadUsage(running=1, waiting=2, abandoned=2)
            assert [sorted(names) for names in told] == [["a", "b"]]
            them.wake()
            assert sorted(them.ended) == ["a", "b"]
            await until(lambda: len(done) == 3)
            more.wake()
    assert thread_usage() == NOTHING
    assert len(told) == 1


async def test_who_waits_already_is_told_when_a_straggler_finds_no_room() -> None:
    limit_threads(max_threads=1, max_abandoned_threads=0)
    told: list[Sequence[str]] = []
    with sleepers() as them:
        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as cut:
                    await start(cut, them, "slow")
                    group.start_soon(lambda: run_in_thread(lambda: None, name="next", on_blocked=told.append))
                    await anyio.wait_all_tasks_blocked()
                    assert told == []
                    scope.cancel()
            assert told == [("slow",)]
            them.wake()
    assert thread_usage() == NOTHING


@pytest.mark.parametrize("max_abandoned", [0, 100])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_straggler_may_outlive_its_event_loop(backend: str, max_abandoned: int) -> None:
    limit_threads(max_abandoned_threads=max_abandoned)

    async def main(them: Sleepers) -> None:
        async with anyio.create_task_group() as group:
            await start(group, them, "slow")
            group.cancel_scope.cancel()

    with sleepers() as them:
        anyio.run(main, them, backend=backend)
        assert (them.alive, them.ended) == (1, [])
        them.wake()
        assert them.ended == ["slow"]
    assert anyio.run(usage, backend=backend) == NOTHING


async def usage() -> ThreadUsage:
    return thread_usage()


@pytest.mark.parametrize("arguments", [{"max_threads": 0}, {"max_abandoned_threads": -1}])
def test_a_limit_that_makes_no_sense_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(arguments))):
        limit_threads(**arguments)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_interpreter_exits_although_a_thread_sleeps(backend: str) -> None:
    script = f"""
import threading, anyio
from kern_async.tools.threads import run_in_thread

begun = threading.Event()

def sleep():
    begun.set()
    threading.Event().wait()

async def main():
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: run_in_thread(sleep, name="sleep"))
        while not begun.is_set():
            await anyio.sleep(0.001)
        group.cancel_scope.cancel()

anyio.run(main, backend={backend!r})
print("left")
"""
    ended = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", script],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "left\n", "")
