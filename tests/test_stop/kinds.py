"""The kinds of tools, each as one that says `half way` and then goes on until the test lets it finish."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.lowlevel

from kern_async import Agent, RunContext, Team, tool
from kern_async.exceptions import RunCancelled
from kern_async.models.openai import OpenAIResponses
from kern_async.testing import Call, Gate, ProviderServer, Request, Text, ToolCall
from kern_async.tools.mcp import MCPTools

from .process_tools import HALF, endless, endless_with_timeout, nothing, patient

CALL = "call-of-work"
PATIENCE = 20
"""Seconds after which code that a failing test does not release ends by itself."""
Subject = Agent | Team


@dataclass(eq=False)
class Scene:
    """Where a tool is set to work, and what lets it finish."""

    provider: ProviderServer
    folder: Path
    grace: float
    timeout: float | None = None
    """The tool's own."""
    can_finish: bool = False
    """Whether the tool is to be one that can."""
    let_go: threading.Event = field(default_factory=threading.Event)
    gate: Gate = field(default_factory=Gate)
    ended: list[str] = field(default_factory=list[str])
    """How the code of the tool came to its end."""

    def __post_init__(self) -> None:
        self.provider.default = Text("Fine.")
        os.mkfifo(self.fifo)
        self._end = os.open(self.fifo, os.O_RDWR)  # so that no reader has to be there first

    def close(self) -> None:
        os.close(self._end)

    @property
    def fifo(self) -> Path:
        """Where code in other processes waits for a line."""
        return self.folder / "release"

    @property
    def record(self) -> Path:
        """What the MCP server says of itself."""
        return self.folder / "record"

    def facts(self, key: str) -> list[Any]:
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        return [fact[key] for line in lines if key in (fact := json.loads(line))]

    def release(self) -> None:
        """Let the tool finish, if anything of it is left."""
        self.let_go.set()
        self.gate.open()
        os.write(self._end, b"go\n")

    async def released(self) -> None:
        while not self.let_go.is_set():  # noqa: ASYNC110 - any thread may be the one that sets it
            await anyio.sleep(0.002)

    def agent(self, work: Any, **options: Any) -> Agent:
        """An agent that calls `look`, which finishes, and beside it `work`."""
        self._script(ToolCall("work", id=CALL))
        return Agent(
            name="subject",
            model=self.model("subject"),
            tools=[look, work],
            cancel_grace=self.grace,
            **options,
        )

    def team(self) -> Team:
        """The same with a member that works, which says `half way` before its model hangs."""
        self._script(ToolCall("delegate_task_to_member", {"member_id": "mute", "task": "Work."}, id=CALL))
        self.provider.reply(
            [Text([HALF]), self.gate, Text([" done"])], when=lambda request: request.model == "mute"
        )
        mute = Agent(name="mute", model=self.model("mute"))
        return Team(
            [mute], name="subject", model=self.model("subject"), tools=[look], cancel_grace=self.grace
        )

    def _script(self, call: ToolCall) -> None:
        first = [Text("Let me see. "), Call(self._asked), ToolCall("look", id="call-of-look"), call]
        self.provider.reply(first, when=lambda request: request.model == "subject")

    def _asked(self, request: Request) -> None:
        assert {"look"} <= set(request.tool_names)

    def model(self, name: str) -> OpenAIResponses:
        return OpenAIResponses(id=name, api_key="key", base_url=self.provider.base_url, max_retries=0)


async def look() -> str:
    """Look."""
    await anyio.lowlevel.checkpoint()
    return "nothing there"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A row of the table."""

    name: str
    open: Callable[[Scene], AbstractAsyncContextManager[Subject]]
    finishes: bool = True
    """Whether `after_tools` lets it: else the run ends at once."""
    result: str = "done"
    straggler: Literal["tool", "thread"] | None = None
    """What it leaves behind, until it is released."""
    leaves_soon: bool = False
    """Whether it may be on its way out for a moment after the run has ended."""
    refuses: bool = False
    paused: bool = False
    has_timeout: bool = True
    timed_out: str = "work timed out after {} s"
    cut_alone: str = "cancelled"
    """What the model is told when just this call is cancelled."""
    cut: frozenset[tuple[str, str]] = frozenset({("tool", "work")})
    """What a cancel of the run interrupts."""
    slow_start: bool = False
    """Whether it takes a moment until it works."""
    warm_up: Callable[[Scene], Any] | None = None
    """Does what is slow only once."""
    processes: bool = False
    then: Callable[[Scene], Any] | None = None
    """What holds of a cut call after everything else."""


def _agent(make: Callable[[Scene], Any], **options: Any) -> Any:
    @asynccontextmanager
    async def opened(scene: Scene) -> AsyncGenerator[Subject]:
        yield scene.agent(tool(name="work", timeout=scene.timeout, **options)(make(scene)))

    return opened


def _async(scene: Scene) -> Any:
    async def work(context: RunContext) -> str:
        context.report(HALF)
        try:
            await scene.released()
        except anyio.get_cancelled_exc_class():
            scene.ended.append("cut")
            raise
        return "done"

    return work


async def _was_cut(scene: Scene) -> None:
    assert scene.ended == ["cut"]


def _async_that_refuses(scene: Scene) -> Any:
    async def work(context: RunContext) -> str:
        context.report(HALF)
        while not scene.let_go.is_set():
            try:
                with anyio.move_on_after(PATIENCE):
                    await scene.released()
            except anyio.get_cancelled_exc_class():
                continue
        context.report("late report")
        return "done"

    return work


def _thread(scene: Scene) -> Any:
    def work(context: RunContext) -> str:
        context.report(HALF)
        assert scene.let_go.wait(PATIENCE)
        context.report("late report" if context.cancelled else "in time")
        return "done"

    return work


def _thread_that_cooperates(scene: Scene) -> Any:
    def work(context: RunContext) -> str:
        context.report(HALF)
        try:
            while not scene.let_go.wait(0.002):
                context.raise_if_cancelled()
        except RunCancelled:
            scene.ended.append("cut")
            raise
        return "done"

    return work


def _generator(scene: Scene) -> Any:
    def work() -> Generator[str]:
        try:
            yield HALF
            while not scene.let_go.wait(0.002):
                yield ""
            yield " done"
        except GeneratorExit:
            scene.ended.append("cut")
            raise

    return work


def _async_generator(scene: Scene) -> Any:
    async def work() -> AsyncGenerator[str, None]:
        yield HALF
        try:
            await scene.released()
        except anyio.get_cancelled_exc_class():
            scene.ended.append("cut")
            raise
        yield " done"

    return work


@asynccontextmanager
async def _process(scene: Scene) -> AsyncGenerator[Subject]:
    function = endless if scene.timeout is None else endless_with_timeout
    if function.timeout != scene.timeout:
        raise ValueError(f"the timeout of a process tool is {endless_with_timeout.timeout} s")
    yield scene.agent(patient if scene.can_finish else function, dependencies={"release": str(scene.fifo)})


async def _warm_worker(scene: Scene) -> None:
    scene.provider.reply(ToolCall("work"))
    agent = Agent(model=scene.model("warmer"), tools=[nothing])
    assert [each.result for each in (await agent.arun("Go.")).tools] == [""]


def _run_process(scene: Scene) -> Any:
    async def work(context: RunContext) -> str:
        children = "sleep 60 & a=$!; sleep 61 & b=$!"
        command = f"{children}; echo {HALF} $$ $a $b; read line < {scene.fifo}; kill $a $b; echo done"
        return (await context.run_process(command)).stdout.split()[-1]

    return work


@asynccontextmanager
async def _mcp(scene: Scene) -> AsyncGenerator[Subject]:
    command = [sys.executable, "-S", "-E", str(Path(__file__).with_name("mcp_server.py"))]
    env = {"RECORD": str(scene.record), "RELEASE": str(scene.fifo)}
    async with MCPTools(command, env=env, timeout_seconds=scene.timeout or 10) as tools:
        yield scene.agent(tools)


async def _server_was_told(scene: Scene) -> None:
    with anyio.fail_after(5):
        while not scene.facts("cancelled"):  # noqa: ASYNC110 - another process has no events for us
            await anyio.sleep(0.002)
    assert len(scene.facts("cancelled")) == len(scene.facts("pid")) == 1


@asynccontextmanager
async def _member(scene: Scene) -> AsyncGenerator[Subject]:
    yield scene.team()


async def _left_its_model(scene: Scene) -> None:
    await scene.provider.await_until(lambda: scene.provider.open_requests == 0, timeout=2)
    (request,) = [request for request in scene.provider.requests if request.model == "mute"]
    assert request.outcome == "disconnected"


@asynccontextmanager
async def _hook(scene: Scene) -> AsyncGenerator[Subject]:
    def outer(function_call: Any, arguments: dict[str, Any]) -> Any:
        try:
            return function_call(**arguments)
        except BaseException as error:
            scene.ended.append(f"outer: {type(error).__name__}")
            raise

    async def inner(function_call: Any, arguments: dict[str, Any]) -> Any:
        try:
            return await function_call(**arguments)
        except anyio.get_cancelled_exc_class():
            scene.ended.append("inner: cut")
            raise
        except BaseException as error:
            scene.ended.append(f"inner: {type(error).__name__}")
            raise

    yield scene.agent(tool(name="work", timeout=scene.timeout, tool_hooks=[outer, inner])(_async(scene)))


async def _hooks_were_let_go(scene: Scene) -> None:
    cut, inner, outer = sorted(scene.ended)
    assert cut == "cut"
    if (
        scene.timeout is None
    ):  # whichever comes to the async hook first: its own cut, or that of what it waits for
        assert inner in ("inner: cut", "inner: RunCancelled")
        assert outer == "outer: RunCancelled"
    else:  # the timeout is the tool's: they may still make something of it
        assert (inner, outer) == ("inner: ToolError", "outer: ToolError")


KINDS = [
    Kind(name="async", open=_agent(_async), then=_was_cut),
    Kind(name="async that refuses", open=_agent(_async_that_refuses), refuses=True, straggler="tool"),
    Kind(name="thread", open=_agent(_thread), straggler="thread"),
    Kind(
        name="thread that cooperates", open=_agent(_thread_that_cooperates), leaves_soon=True, then=_was_cut
    ),
    Kind(name="generator", open=_agent(_generator), result=f"{HALF} done", leaves_soon=True, then=_was_cut),
    Kind(name="async generator", open=_agent(_async_generator), result=f"{HALF} done", then=_was_cut),
    Kind(name="process", open=_process, processes=True, slow_start=True, warm_up=_warm_worker),
    Kind(name="run_process", open=_agent(_run_process), processes=True),
    Kind(
        name="MCP",
        open=_mcp,
        timed_out="MCP server 'python': work did not answer within {} seconds (timeout_seconds)",
        then=_server_was_told,
    ),
    Kind(
        name="member",
        open=_member,
        finishes=False,
        has_timeout=False,
        cut_alone=f"Member mute was cancelled (its tool call was cancelled). Its answer so far: {HALF}",
        cut=frozenset({("tool", "delegate_task_to_member"), ("member", "mute")}),
        then=_left_its_model,
    ),
    Kind(
        name="waiting for a person",
        open=_agent(_async, requires_confirmation=True),
        paused=True,
        finishes=False,
        has_timeout=False,
        cut=frozenset(),
    ),
    Kind(
        name="hook",
        open=_hook,
        cut=frozenset({("tool", "work"), ("hook", "outer"), ("hook", "inner")}),
        then=_hooks_were_let_go,
    ),
]
