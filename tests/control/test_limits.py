"""Limits of a run tree: what is allowed finishes, the next one is not begun, and the tree says why (SPEC §4)."""

from __future__ import annotations

from typing import Any

import anyio.lowlevel
import pytest

from kern_async import RunLimits, RunStatus, TeamMode, cancel_run, tool
from kern_async.exceptions import ConfigurationError
from kern_async.testing import Cut, Gate, Status, Text, ToolCall, Usage

from ..agent.crew import Crew, delegate
from .stage import RUN, Held, Stage, answers, by_name, is_cancelled, still_live

idle = anyio.lowlevel.checkpoint


def look(n: int = 0) -> str:
    return f"seen {n}"


def looks(*numbers: int) -> list[ToolCall]:
    return [ToolCall("look", {"n": n}) for n in numbers]


def refusal(limit: str) -> str:
    return f"Not called: the run has reached its {limit}."


@pytest.mark.parametrize("where", ["run", "agent", "both"])
async def test_model_requests_are_counted_and_the_next_is_not_begun(stage: Stage, where: str) -> None:
    two, nine = RunLimits(model_requests=2), RunLimits(model_requests=9)
    agent = stage.crew.agent("Solo", tools=[look], limits={"run": None, "agent": two, "both": nine}[where])
    stage.crew.provider.reply([Usage(10, 1), Text("on "), *looks(1)], times=None)
    output = await stage.run(agent, idle, **({} if where == "agent" else {"limits": two}))
    assert is_cancelled(output, by="limit", reason="limit of 2 model requests")
    assert len(stage.crew.requests()) == output.metrics.model_requests == 2
    assert answers(output) == ["seen 1", "seen 1"]
    assert output.content == "on on "
    assert output.interrupted == []
    assert (output.metrics.total_tokens, output.metrics.estimated) == (22, False)


@pytest.mark.parametrize("whose", ["run", "model"])
async def test_requests_that_are_tried_again_are_counted_each(stage: Stage, whose: str) -> None:
    options: dict[str, Any] = (
        {"retries": 9, "delay_between_retries": 0}
        if whose == "run"
        else {"model": stage.crew.model("Solo", max_retries=9)}
    )
    agent = stage.crew.agent("Solo", *[Status(500)] * 9, **options)
    output = await stage.run(agent, idle, limits=RunLimits(model_requests=3))
    assert is_cancelled(output, by="limit", reason="limit of 3 model requests")
    assert len(stage.crew.requests()) == 3


async def test_parallel_calls_past_the_limit_are_answered_and_the_others_keep_their_results(
    stage: Stage,
) -> None:
    held = Held()
    agent = stage.crew.agent("Solo", [*looks(1), ToolCall("held"), *looks(3, 4)], tools=[look, held.tool])

    async def act() -> None:
        await stage.until(held.begun.is_set)
        await still_live()
        assert not held.context.cancelled
        held.released.set()

    output = await stage.run(agent, act, limits=RunLimits(tool_calls=2))
    assert is_cancelled(output, by="limit", reason="limit of 2 tool calls")
    refused = refusal("limit of 2 tool calls")
    assert answers(output) == ["seen 1", "done", refused, refused]
    assert [t.result for t in output.tools][:2] == ["seen 1", "done"]
    assert len(stage.crew.requests()) == 1
    assert output.metrics.tool_calls == 2


async def test_tool_calls_are_counted_over_the_tree(stage: Stage) -> None:
    worker = stage.crew.agent("Worker", looks(1), looks(2, 3), Text("never"), tools=[look])
    team = stage.crew.team(delegate("worker"), members=[worker])
    output = await stage.run(team, idle, limits=RunLimits(tool_calls=3))
    member = by_name(output)["Worker"]
    assert is_cancelled(output, by="limit", reason="limit of 3 tool calls")
    assert is_cancelled(member, by="parent")
    assert answers(member) == ["seen 1", "seen 2", refusal("limit of 3 tool calls")]
    assert [r.model for r in stage.crew.provider.requests] == ["Leader", "Worker", "Worker"]


async def test_a_runaway_team_stops_before_the_request_after_its_tokens_are_used(any_crew: Crew) -> None:
    """A leader that delegates for ever to a member that never stops looking."""
    spent: list[int] = []

    def usage(name: str) -> Any:
        def reply(_request: Any) -> Any:
            spent.append(70 + len(spent))
            steps = looks(len(spent)) if name == "Worker" and len(spent) % 3 else [Text("Found.")]
            return [Usage(60 + len(spent), 10 - 1), *(steps if name == "Worker" else [delegate("worker")])]

        return reply

    for streamed in (True, False):
        spent.clear()
        any_crew.provider.reset()
        stage = Stage(any_crew, streamed)
        worker = any_crew.agent("Worker", tools=[look])
        team = any_crew.team(members=[worker])
        for name in ("Worker", "Leader"):
            any_crew.provider.reply(
                usage(name), when=lambda request, name=name: request.model == name, times=None
            )
        output = await stage.run(team, idle, limits=RunLimits(total_tokens=1000))
        assert is_cancelled(output, by="limit", reason="limit of 1000 total tokens")
        assert output.metrics.total_tokens == sum(spent)
        assert not output.metrics.estimated
        assert sum(spent[:-1]) < 1000 <= sum(spent)
        assert len(any_crew.provider.requests) == len(spent) == output.metrics.model_requests


async def test_tokens_of_a_cut_answer_count_as_they_are_estimated(stage: Stage) -> None:
    agent = stage.crew.agent("Solo", [Text("x" * 4000), Cut()], retries=5, delay_between_retries=0)
    output = await stage.run(agent, idle, limits=RunLimits(total_tokens=1000))
    assert is_cancelled(output, by="limit", reason="limit of 1000 total tokens")
    assert len(stage.crew.requests()) == 1
    assert output.metrics.estimated


async def test_member_runs_past_the_limit_are_not_begun(stage: Stage) -> None:
    members = [stage.crew.agent(name, Text(f"{name}.")) for name in ("A", "B", "C")]
    team = stage.crew.team([delegate("a"), delegate("b"), delegate("c")], members=members)
    output = await stage.run(team, idle, limits=RunLimits(member_runs=2))
    assert is_cancelled(output, by="limit", reason="limit of 2 member runs")
    assert len(output.member_responses) == 2
    refused = refusal("limit of 2 member runs")
    assert sorted(answers(output)).count(refused) == 1
    said = {m.agent_name: m.content for m in output.member_responses}
    assert all(said[name] == f"{name}." for name in said)
    assert len(stage.crew.provider.requests) == 3


async def test_members_of_members_count(stage: Stage) -> None:
    deep = [stage.crew.agent(name, Text(f"{name}.")) for name in ("A", "B")]
    inner = stage.crew.team(delegate("a"), delegate("b"), members=deep, name="Inner")
    team = stage.crew.team(delegate("inner"), members=[inner])
    output = await stage.run(team, idle, limits=RunLimits(member_runs=2))
    assert is_cancelled(output, by="limit", reason="limit of 2 member runs")
    outputs = by_name(output)
    assert is_cancelled(outputs["Inner"], by="parent")
    assert answers(outputs["Inner"]) == ["A.", refusal("limit of 2 member runs")]
    assert "B" not in outputs


async def test_a_broadcast_begins_as_many_members_as_it_may(stage: Stage) -> None:
    members = [stage.crew.agent(name, Text(f"{name}.")) for name in ("A", "B", "C")]
    team = stage.crew.team(members=members, mode=TeamMode.broadcast)
    output = await stage.run(team, idle, limits=RunLimits(member_runs=2))
    assert is_cancelled(output, by="limit", reason="limit of 2 member runs")
    assert [m.status for m in output.member_responses] == [RunStatus.completed] * 2
    assert stage.crew.requests("Leader") == []


async def test_a_route_that_may_have_no_member_has_no_answer(stage: Stage) -> None:
    team = stage.crew.team(delegate("a"), members=[stage.crew.agent("A")], mode=TeamMode.route)
    output = await stage.run(team, idle, limits=RunLimits(member_runs=0))
    assert is_cancelled(output, by="limit", reason="limit of 0 member runs")
    assert output.content is None
    assert len(stage.crew.provider.requests) == 1


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("model_requests", "model requests"),
        ("tool_calls", "tool calls"),
        ("total_tokens", "total tokens"),
        ("member_runs", "member runs"),
    ],
)
async def test_zero_forbids(stage: Stage, what: str, name: str) -> None:
    team = stage.crew.team([*looks(1), delegate("a")], members=[stage.crew.agent("A")], tools=[look])
    output = await stage.run(team, idle, limits=RunLimits(**{what: 0}))
    assert is_cancelled(output, by="limit", reason=f"limit of 0 {name}")
    asked = 0 if what in ("model_requests", "total_tokens") else 1
    assert len(stage.crew.provider.requests) == asked
    assert output.member_responses == []
    refused = refusal(f"limit of 0 {name}")
    told = {"tool_calls": [refused, refused], "member_runs": ["seen 1", refused]}
    assert answers(output) == told.get(what, [])


async def test_limits_that_are_never_hit_change_nothing(stage: Stage) -> None:
    """Just as much as is allowed is used."""
    worker = stage.crew.agent(
        "Worker", [Usage(10, 1), *looks(1)], [Usage(10, 1), Text("Found.")], tools=[look]
    )
    team = stage.crew.team(
        [Usage(10, 1), delegate("worker")], [Usage(10, 1), Text("All told.")], members=[worker]
    )
    limits = RunLimits(model_requests=4, tool_calls=2, total_tokens=44, member_runs=1)
    output = await stage.run(team, idle, limits=limits)
    assert (output.status, output.content) == (RunStatus.completed, "All told.")
    assert (output.cancelled_by, output.reason) == (None, None)
    assert output.metrics.total_tokens == 44
    assert by_name(output)["Worker"].status is RunStatus.completed


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (RunLimits(model_requests=1), "limit of 1 model requests"),
        (RunLimits(tool_calls=0), "limit of 0 tool calls"),
        (RunLimits(total_tokens=5), "limit of 5 total tokens"),
    ],
    ids=["requests", "calls", "tokens"],
)
async def test_a_members_own_limits_end_only_that_member(
    stage: Stage, limits: RunLimits, reason: str
) -> None:
    worker = stage.crew.agent("Worker", [Text("Let me see. "), *looks(1)], tools=[look], limits=limits)
    other = stage.crew.agent("Other", looks(2), Text("Fine."), tools=[look])
    team = stage.crew.team(
        [delegate("worker"), delegate("other")], Text("All told."), members=[worker, other]
    )
    output = await stage.run(team, idle)
    outputs = by_name(output)
    assert (output.status, output.content) == (RunStatus.completed, "All told.")
    assert is_cancelled(outputs["Worker"], by="limit", reason=reason)
    assert outputs["Other"].status is RunStatus.completed
    told = f"Member Worker was cancelled ({reason}). Its answer so far: Let me see. "
    assert stage.crew.told("Leader") == [told, "Fine."]


async def test_an_inner_teams_own_limits_end_just_its_tree(stage: Stage) -> None:
    deep = stage.crew.agent("Deep", looks(1), looks(2), tools=[look])
    inner = stage.crew.team(
        delegate("deep"), members=[deep], name="Inner", limits=RunLimits(model_requests=2)
    )
    team = stage.crew.team(delegate("inner"), Text("All told."), members=[inner])
    output = await stage.run(team, idle)
    outputs = by_name(output)
    assert (output.status, output.content) == (RunStatus.completed, "All told.")
    assert is_cancelled(outputs["Inner"], by="limit", reason="limit of 2 model requests")
    assert is_cancelled(outputs["Deep"], by="parent")
    assert stage.crew.told("Leader") == ["Member Inner was cancelled (limit of 2 model requests)."]


async def test_what_was_begun_elsewhere_in_the_tree_finishes(read_stage: Stage) -> None:
    stage, held, gate = read_stage, Held(), Gate()
    greedy = stage.crew.agent("Greedy", [gate, *looks(1, 2)], tools=[look])
    worker = stage.crew.agent("Worker", ToolCall("held"), Text("never"), tools=[held.tool])
    slow = Gate()
    talker = stage.crew.agent(
        "Talker", [Usage(10, 1), Text(["one "]), slow, Text("two"), *looks(3)], tools=[look]
    )
    team = stage.crew.team(
        [delegate("greedy"), delegate("worker"), delegate("talker")], members=[greedy, worker, talker]
    )

    async def act() -> None:
        await stage.until(held.begun.is_set)
        await stage.heard("one ")
        gate.open()
        await stage.until(lambda: bool(stage.kinds("RunCancelled")))
        await still_live()
        assert stage.crew.requests("Talker")[0].outcome is None
        assert not held.context.cancelled
        slow.open()
        held.released.set()

    output = await stage.run(team, act, limits=RunLimits(tool_calls=5))
    outputs = by_name(output)
    assert is_cancelled(output, by="limit", reason="limit of 5 tool calls")
    assert answers(outputs["Greedy"]) == ["seen 1", refusal("limit of 5 tool calls")]
    assert answers(outputs["Worker"]) == ["done"]
    assert outputs["Talker"].content == "one two"
    assert answers(outputs["Talker"]) == ["cancelled"], "no call begins after the limit"
    assert not output.metrics.estimated
    assert all(is_cancelled(outputs[name], by="parent") for name in ("Greedy", "Worker", "Talker"))
    assert len(stage.crew.provider.requests) == 4


async def test_a_cancel_may_cut_what_a_limit_lets_finish(read_stage: Stage) -> None:
    stage, held, gate = read_stage, Held(), Gate()
    greedy = stage.crew.agent("Greedy", [gate, *looks(1, 2)], tools=[look])
    worker = stage.crew.agent("Worker", ToolCall("held"), tools=[held.tool])
    team = stage.crew.team([delegate("greedy"), delegate("worker")], members=[greedy, worker])

    async def act() -> None:
        await stage.until(held.begun.is_set)
        gate.open()
        await stage.until(lambda: bool(stage.kinds("RunCancelled")))
        assert cancel_run(RUN, mode="after_turn"), "it is ending"
        await still_live()
        assert cancel_run(RUN, reason="enough")
        assert held.context.cancelled

    output = await stage.run(team, act, limits=RunLimits(tool_calls=4))
    assert is_cancelled(output, by="limit", reason="limit of 4 tool calls")
    assert answers(by_name(output)["Worker"]) == ["cancelled"]
    assert held.ended == ["cut"]


async def test_after_tools_cuts_the_answers_that_a_limit_lets_finish(read_stage: Stage) -> None:
    stage, gate = read_stage, Gate()
    greedy = stage.crew.agent("Greedy", [gate, *looks(1, 2)], tools=[look])
    talker = stage.crew.agent("Talker", [Text(["one "]), Gate()])
    team = stage.crew.team([delegate("greedy"), delegate("talker")], members=[greedy, talker])

    async def act() -> None:
        await stage.heard("one ")
        gate.open()
        await stage.until(lambda: bool(stage.kinds("RunCancelled")))
        await still_live()
        assert cancel_run(RUN, mode="after_tools")

    output = await stage.run(team, act, limits=RunLimits(tool_calls=3))
    assert is_cancelled(output, by="limit", reason="limit of 3 tool calls")
    assert stage.crew.requests("Talker")[0].outcome == "disconnected"


async def test_the_first_claim_stays_when_a_limit_comes_later(stage: Stage) -> None:
    held = Held()
    agent = stage.crew.agent("Solo", [ToolCall("held"), *looks(1)], tools=[held.tool, look])

    async def act() -> None:
        await stage.until(held.begun.is_set)
        assert cancel_run(RUN, mode="after_turn", reason="enough")
        held.released.set()

    output = await stage.run(agent, act, limits=RunLimits(tool_calls=1))
    assert is_cancelled(output, reason="enough")
    assert answers(output) == ["done", refusal("limit of 1 tool calls")]


async def test_a_tool_that_ends_the_loop_does_not_hide_the_limit(stage: Stage) -> None:
    @tool(stop_after_tool_call=True)
    def finish() -> str:
        return "All done."

    agent = stage.crew.agent("Solo", [ToolCall("finish"), *looks(1)], tools=[finish, look])
    output = await stage.run(agent, idle, limits=RunLimits(tool_calls=1))
    assert is_cancelled(output, by="limit", reason="limit of 1 tool calls")
    assert output.content == "All done."


async def test_a_paused_run_goes_on_counting(crew: Crew) -> None:
    @tool(requires_confirmation=True)
    def dangerous() -> str:
        return "boom"

    agent = crew.agent("Solo", ToolCall("dangerous"), tools=[dangerous])
    paused = await agent.arun("Go.", run_id=RUN, limits=RunLimits(model_requests=1, tool_calls=1))
    assert paused.status is RunStatus.paused
    assert paused.requirements is not None
    paused.requirements[0].confirm()
    output = await agent.acontinue_run(paused)
    assert is_cancelled(output, by="limit", reason="limit of 1 model requests")
    assert answers(output) == ["boom"], "the call that waited was counted before"
    assert len(crew.requests()) == 1


async def test_a_limit_and_a_pause_in_one_turn_end_the_run(stage: Stage) -> None:
    @tool(requires_confirmation=True)
    def dangerous() -> str:
        return "boom"

    agent = stage.crew.agent("Solo", [ToolCall("dangerous"), *looks(1)], tools=[dangerous, look])
    output = await stage.run(agent, idle, limits=RunLimits(tool_calls=1))
    assert is_cancelled(output, by="limit", reason="limit of 1 tool calls")
    assert sorted(answers(output)) == sorted([refusal("limit of 1 tool calls"), "cancelled"])


@pytest.mark.parametrize("value", [-1, 1.5, "3", True])
@pytest.mark.parametrize("what", ["model_requests", "tool_calls", "total_tokens", "member_runs"])
async def test_limits_that_make_no_sense_are_refused(what: str, value: Any) -> None:
    await anyio.lowlevel.checkpoint()
    with pytest.raises(ConfigurationError, match=what):
        RunLimits(**{what: value})


@pytest.mark.parametrize("where", ["run", "agent"])
async def test_what_is_no_limits_is_refused_at_the_call(crew: Crew, where: str) -> None:
    wrong: Any = {"model_requests": 3}
    with pytest.raises(ConfigurationError, match="RunLimits"):
        if where == "run":
            crew.agent().arun("Go.", stream=True, limits=wrong)
        else:
            crew.agent(limits=wrong).arun("Go.", stream=True)
    assert crew.requests() == []
