"""Parallel tool calls cut at any instant, in any mode: what had finished stays, the rest is answered (P4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel
from hypothesis import given, settings
from hypothesis import strategies as st

from kern_async import (
    Agent,
    RunContext,
    RunStatus,
    Team,
    abandoned,
    cancel_run,
    cancel_tool_call,
    send_message,
)
from kern_async.run.cancel import get_active_runs
from kern_async.testing.scripted import ScriptedModel, call

from ..engine.invariants import ENDS, check_log, check_messages
from .stage import tree

MODES = st.sampled_from(["now", "after_tools", "after_turn"])
RESULTS = {"early": "early done", "slow": "slow done", "sync": "sync done", "fails": "it failed"}


async def early() -> str:
    return "early done"


async def slow(context: RunContext) -> str:
    for step in range(12):
        await anyio.lowlevel.checkpoint()
        context.report(step)
    return "slow done"


def sync() -> str:
    return "sync done"


async def fails() -> str:
    for _ in range(6):
        await anyio.lowlevel.checkpoint()
    raise ValueError("it failed")


TOOLS = [early, slow, sync, fails]


def parallel(*say: Any) -> list[Any]:
    return [*say, *(call(tool.__name__) for tool in TOOLS)]


@dataclass(eq=False)
class Trial:
    """A run, what is done to it after some steps, and what it had asked its models until then."""

    models: list[ScriptedModel] = field(default_factory=list[ScriptedModel])
    events: list[Any] = field(default_factory=list[Any])
    asked: Counter[str] = field(default_factory=Counter[str])

    def model(self, name: str, *turns: Any) -> ScriptedModel:
        model = ScriptedModel(name, list(turns))
        self.models.append(model)
        return model

    def agent(self, name: str) -> Agent:
        turns = parallel("Let me ", "see. "), parallel("And ", "again. "), ["That ", "is ", "it."]
        return Agent(name=name, model=self.model(name, *turns), tools=TOOLS)

    def team(self) -> Team:
        asked = [call("delegate_task_to_member", member_id=name, task="do") for name in ("one", "two")]
        members = [self.agent("one"), self.agent("two")]
        return Team(
            name="boss",
            model=self.model("boss", ["I ask. ", *asked, call("early")], ["All ", "told."]),
            members=members,
            tools=[early],
        )

    def requests(self) -> Counter[str]:
        return Counter({model.id: len(model.requests) for model in self.models})

    async def run(self, runner: Agent | Team, steps: int, act: Callable[[], object]) -> Any:
        async def later() -> None:
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            self.asked = self.requests()
            act()

        stream = runner.arun("go", stream=True, stream_events=True, run_id="trial")
        async with anyio.create_task_group() as group:
            group.start_soon(later)
            async for event in stream:
                self.events.append(event)
        output = stream.output
        assert output is not None
        await self.check(output)
        return output

    async def check(self, output: Any) -> None:
        check_log(self.events)
        results: dict[str, tuple[str, bool]] = {}
        for event in self.events:
            if event.event.endswith(("ToolCallCompleted", "ToolCallError")):
                failed = event.event.endswith("ToolCallError")
                results[event.tool.tool_call_id] = (event.error if failed else event.content, failed)
        for each in tree(output):
            check_messages(each.messages)
            answers = {m.tool_call_id: m for m in each.messages if m.role == "tool"}
            asked = [made.id for message in each.messages for made in message.tool_calls]
            assert sorted(asked) == sorted(answers), "every call has one answer"
            for execution in each.tools:
                answer = answers[execution.tool_call_id]
                assert answer.content == execution.result, "conversation and record say the same"
                assert answer.tool_call_error == execution.tool_call_error
                told = results.get(execution.tool_call_id, ("cancelled", True))
                assert (execution.result, execution.tool_call_error) == told, "and so does the log"
                if execution.tool_name in RESULTS and execution.result != "cancelled":
                    assert execution.result == RESULTS[execution.tool_name]
        assert not get_active_runs()
        with anyio.fail_after(5):
            while abandoned():  # noqa: ASYNC110 - nobody is told when a straggler is struck off
                await anyio.sleep(0.001)


@settings(max_examples=80)
@given(steps=st.integers(0, 110), mode=MODES, upgrade=st.none() | st.tuples(st.integers(0, 30), MODES))
async def test_tools_of_an_agent_in_any_mode(steps: int, mode: Any, upgrade: Any) -> None:
    trial, answered = Trial(), list[bool]()

    def act() -> None:
        answered.append(cancel_run("trial", mode=mode, reason="enough"))

    agent = trial.agent("solo")
    if upgrade is not None:
        further, sooner = upgrade

        async def again() -> None:
            while not answered:
                await anyio.lowlevel.checkpoint()
            for _ in range(further):
                await anyio.lowlevel.checkpoint()
            was = cancel_run("trial", mode=sooner, reason="not this one")
            assert answered[0] or not was, "True may become False when it has ended, never the reverse"

        async with anyio.create_task_group() as group:
            group.start_soon(again)
            output = await trial.run(agent, steps, act)
            group.cancel_scope.cancel()
    else:
        output = await trial.run(agent, steps, act)
    assert answered == [output.status is RunStatus.cancelled]
    if not answered[0]:
        assert output.status is RunStatus.completed
        return
    assert (output.cancelled_by, output.reason) == ("request", "enough")
    assert trial.requests() == trial.asked, "no request after the cancel"
    if upgrade is None and mode != "now":
        # What a graceful mode lets finish is not cut: each call that began has its own result.
        began = {e.tool.tool_call_id for e in trial.events if e.event == "ToolCallStarted"}
        own = {t.tool_call_id for t in output.tools if t.result != "cancelled"}
        assert began == own
        if mode == "after_turn":
            assert not output.interrupted
            assert all(tool.result != "cancelled" for tool in output.tools)


@settings(max_examples=80)
@given(steps=st.integers(0, 160), mode=MODES, target=st.integers(0, 2))
async def test_tools_of_a_teams_members_in_any_mode(steps: int, mode: Any, target: int) -> None:
    trial, answered = Trial(), list[tuple[str, bool]]()

    def act() -> None:
        live = [e.run_id for e in trial.events if e.event in ("RunStarted", "TeamRunStarted")] or ["trial"]
        chosen = live[target % len(live)]
        answered.append((chosen, cancel_run(chosen, mode=mode)))

    output = await trial.run(trial.team(), steps, act)
    statuses = {e.run_id: e.status for e in trial.events if e.event in ENDS}
    ((chosen, answer),) = answered
    assert answer == (statuses[chosen] is RunStatus.cancelled)
    if not answer:
        return
    if chosen != "trial":
        assert output.status is RunStatus.completed
        member = next(each for each in output.member_responses if each.run_id == chosen)
        assert trial.requests()[member.agent_name] == trial.asked[member.agent_name]
        return
    assert trial.requests()["boss"] == trial.asked["boss"]
    if mode == "after_turn":
        assert all(member.status is RunStatus.completed for member in output.member_responses)
    else:
        assert trial.requests() == trial.asked, "nowhere in the tree"
    if mode == "after_tools":
        for member in output.member_responses:
            began = {
                e.tool.tool_call_id
                for e in trial.events
                if e.event == "ToolCallStarted" and e.run_id == member.run_id
            }
            assert began == {t.tool_call_id for t in member.tools if t.result != "cancelled"}


@settings(max_examples=80)
@given(steps=st.integers(0, 110), which=st.integers(0, 7), beside=st.none() | MODES)
async def test_one_call_at_any_step(steps: int, which: int, beside: Any) -> None:
    trial, answered = Trial(), list[tuple[str, bool]]()
    ended: list[bool] = []

    def act() -> None:
        started = [e.tool.tool_call_id for e in trial.events if e.event == "ToolCallStarted"]
        chosen = started[which % len(started)] if started else "unknown"
        answered.append((chosen, cancel_tool_call("trial", chosen)))
        if beside is not None:
            ended.append(cancel_run("trial", mode=beside))

    output = await trial.run(trial.agent("solo"), steps, act)
    ((chosen, answer),) = answered
    assert (output.status is RunStatus.cancelled) == (ended == [True])
    results = {tool.tool_call_id: tool.result for tool in output.tools}
    if answer:
        assert results[chosen] == "cancelled"
    if beside in (None, "after_turn"):
        cut = [call_id for call_id, result in results.items() if result == "cancelled"]
        assert cut == ([chosen] if answer else []), "that one, and no other"
    if beside is None:
        assert output.content == "Let me see. And again. That is it."


@settings(max_examples=80)
@given(steps=st.lists(st.integers(0, 110), min_size=1, max_size=4), cancel=st.none() | MODES)
async def test_messages_at_any_step_are_kept_exactly_when_they_were_promised(
    steps: list[int], cancel: Any
) -> None:
    trial, promised = Trial(), list[str]()
    agent = trial.agent("solo")
    agent.model = trial.model("chatty", *([["word "]] * 12))
    last = max(steps)

    async def write(number: int, after: int) -> None:
        for _ in range(after):
            await anyio.lowlevel.checkpoint()
        if send_message("trial", f"message {number}"):
            promised.append(f"message {number}")

    def act() -> None:
        if cancel is not None:
            cancel_run("trial", mode=cancel)

    async with anyio.create_task_group() as group:
        for number, after in enumerate(steps):
            group.start_soon(write, number, after)
        output = await trial.run(agent, last, act)
        group.cancel_scope.cancel()
    kept = [m.content for m in output.messages if m.role == "user"]
    assert kept[0] == "go"
    assert kept[1:] == promised
