"""Teams in teams."""

from __future__ import annotations

from collections import Counter

from kern_async.run.base import RunStatus
from kern_async.testing import Cut, Text, ToolCall, Usage

from ..agent.crew import Crew, delegate, events_of


async def test_a_task_goes_down_three_levels_and_comes_back(any_crew: Crew) -> None:
    worker = any_crew.agent("Worker", Text("Done at the bottom."))
    lower = any_crew.team(delegate("worker", "Work."), Text("Lower."), members=[worker], name="Lower")
    upper = any_crew.team(delegate("lower", "See to it."), Text("Upper."), members=[lower], name="Upper")
    team = any_crew.team(delegate("upper", "Please."), Text("Top."), members=[upper])
    events = await events_of(team, "Go.", yield_run_output=True)
    *events, output = events
    assert output.content == "Top."
    assert any_crew.requests("Worker")[0].last_text == "Work."
    depth = []
    level = output
    while True:
        depth.append(level.content)
        below = getattr(level, "member_responses", [])
        if not below:
            break
        assert below[0].parent_run_id == level.run_id
        level = below[0]
    assert depth == ["Top.", "Upper.", "Lower.", "Done at the bottom."]
    ends = [e for e in events if e.event in ("RunCompleted", "TeamRunCompleted")]
    assert [e.content for e in ends] == ["Done at the bottom.", "Lower.", "Upper.", "Top."]
    assert Counter(e.run_id for e in ends) == Counter({e.run_id for e in events})
    assert [e.event_index for e in events] == list(range(len(events)))
    assert {e.session_id for e in events} == {output.session_id}


async def test_a_leader_may_address_a_member_of_a_member(crew: Crew) -> None:
    worker = crew.agent("Worker", Text("Done at the bottom."))
    lower = crew.team(members=[worker], name="Lower")
    team = crew.team(delegate("worker", "Work."), members=[crew.team(members=[lower], name="Upper")])
    output = await team.arun("Go.")
    assert crew.told("Leader") == ["Done at the bottom."]
    assert output.member_responses[0].parent_run_id == output.run_id
    assert crew.requests("Lower") == crew.requests("Upper") == []


async def test_of_two_members_with_one_id_the_nearest_is_meant(crew: Crew) -> None:
    far = crew.agent("Far", Text("far"), id="worker")
    near = crew.agent("Near", Text("near"), id="worker")
    team = crew.team(delegate("worker"), members=[crew.team(members=[far], name="Lower"), near])
    await team.arun("Go.")
    assert crew.told("Leader") == ["near"]


async def test_a_teams_metrics_are_the_sum_of_its_tree(any_crew: Crew) -> None:
    def look() -> str:
        return "rain"

    worker = any_crew.agent(
        "Worker", [Usage(10, 1), ToolCall("look")], [Usage(20, 2), Text("Done.")], tools=[look]
    )
    lower = any_crew.team(
        [Usage(100, 10), delegate("worker")], [Usage(200, 20), Text("Lower.")], members=[worker], name="Lower"
    )
    other = any_crew.agent("Other", [Usage(3, 4), Text("Other.")])
    team = any_crew.team(
        [Usage(1000, 100), delegate("lower"), delegate("other")],
        [Usage(2000, 200), Text("Top.")],
        members=[lower, other],
    )
    events = await events_of(team)
    metrics = {event.run_id: event.metrics for event in events if hasattr(event, "metrics")}
    whole = events[-1].metrics
    assert (whole.input_tokens, whole.output_tokens, whole.total_tokens) == (3333, 337, 3670)
    assert (whole.model_requests, whole.tool_calls, whole.estimated) == (7, 4, False)
    names = {e.run_id: e.team_name for e in events if e.event == "TeamRunCompleted"}
    below = next(metrics[run_id] for run_id, name in names.items() if name == "Lower")
    assert (below.input_tokens, below.output_tokens) == (330, 33)


async def test_one_members_estimate_makes_the_teams_sum_one(crew: Crew) -> None:
    worker = crew.agent("Worker", [Text("Half an "), Cut()])
    team = crew.team([Usage(10, 1), delegate("worker")], [Usage(20, 2), Text("Sorry.")], members=[worker])
    output = await team.arun("Go.")
    (member,) = output.member_responses
    assert (output.status, member.status) == (RunStatus.completed, RunStatus.error)
    assert member.metrics.estimated
    assert output.metrics.estimated
    assert output.metrics.total_tokens == 33 + member.metrics.total_tokens
