"""What cannot be continued, and words that do not fit, are errors at the call, and change nothing."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from kern_async import RunStatus, cancel_run, tool
from kern_async.exceptions import ConfigurationError, RunNotContinuable
from kern_async.run.cancel import get_active_runs
from kern_async.run.requirement import RunRequirement
from kern_async.run.tool import ToolExecution
from kern_async.testing import Stall, Text, ToolCall

from ..agent.crew import Crew
from .test_teams import of_three, payer


def verbs(runner: Any) -> list[Any]:
    return [
        runner.continue_run,
        runner.acontinue_run,
        lambda *a, **k: runner.continue_run(*a, stream=True, **k),
        lambda *a, **k: runner.acontinue_run(*a, stream=True, **k),
    ]


@pytest.mark.parametrize("verb", range(4))
async def test_what_is_not_paused_cannot_be_continued(crew: Crew, verb: int) -> None:
    agent = crew.agent("Solo", Text("Done."), [Text("Well "), Stall()])
    go_on = verbs(agent)[verb]
    output = await agent.arun("Go.", run_id="ended")
    with pytest.raises(RunNotContinuable, match="'ended' is COMPLETED"):
        go_on(output)
    with pytest.raises(RunNotContinuable, match="no paused run 'ended'"):
        go_on(run_id="ended")
    with pytest.raises(ConfigurationError, match="which run"):
        go_on()
    with pytest.raises(ConfigurationError, match="run_response"):
        go_on("ended")
    async with agent.arun("Go.", stream=True, run_id="live") as events:
        async for event in events:
            if event.event == "RunContent":
                with pytest.raises(RunNotContinuable, match="'live' is live"):
                    go_on(run_id="live")
                assert cancel_run("live")
    created = agent.arun("Go.", stream=True, run_id="created")
    with pytest.raises(RunNotContinuable, match="'created' is live"):
        go_on(run_id="created")
    del created


@pytest.mark.parametrize("verb", range(4))
async def test_a_paused_run_is_its_owner_s_and_its_session_s(crew: Crew, verb: int) -> None:
    agent = payer(crew, "Solo")
    team = of_three(crew)
    output = await agent.arun("Go.", run_id="mine", session_id="s1")
    other = await team.arun("Go.", run_id="theirs")
    with pytest.raises(RunNotContinuable, match="belongs to the agent 'solo'"):
        verbs(team)[verb](run_id="mine")
    with pytest.raises(RunNotContinuable, match="another session than 's2'"):
        verbs(agent)[verb](run_id="mine", session_id="s2")
    with pytest.raises(RunNotContinuable, match="another user than 'bob'"):
        verbs(agent)[verb](run_id="mine", user_id="bob")
    with pytest.raises(ConfigurationError, match="session_state is 3"):
        verbs(agent)[verb](run_id="mine", session_state=3)
    member = other.active_requirements[0].member_run_id
    with pytest.raises(RunNotContinuable, match="continue its team's run 'theirs'"):
        verbs(agent)[verb](run_id=member)
    with pytest.raises(ConfigurationError, match="none of run 'theirs'"):
        verbs(team)[verb](run_id="theirs", requirements=output.requirements)
    with pytest.raises(ConfigurationError, match="run_response is of run 'mine'"):
        verbs(agent)[verb](output, run_id="theirs")
    assert get_active_runs().keys() >= {"mine", "theirs"}
    for run_id in ("mine", "theirs"):
        assert cancel_run(run_id)


@pytest.mark.parametrize("given", [["word"], [{"id": 7}], [None]], ids=str)
async def test_what_is_no_requirement(crew: Crew, given: Any) -> None:
    agent = payer(crew)
    output = await agent.arun("Go.")
    with pytest.raises(ConfigurationError, match="requirement"):
        agent.continue_run(run_id=output.run_id, requirements=given)
    invented = RunRequirement(tool_execution=ToolExecution(tool_call_id="c", tool_name="pay", confirmed=True))
    with pytest.raises(ConfigurationError, match=r"it waits for: .* \(pay\)"):
        agent.continue_run(run_id=output.run_id, requirements=[invented])
    unknown: Any = {"stream_everything": True}
    with pytest.raises(TypeError, match="stream_everything"):
        agent.continue_run(run_id=output.run_id, **unknown)
    assert cancel_run(output.run_id)


async def test_a_requirement_may_come_back_as_json(crew: Crew) -> None:
    agent = payer(crew)
    output = await agent.arun("Go.")
    data = output.active_requirements[0].to_dict()
    data["confirmation"] = True
    again = await agent.acontinue_run(run_id=output.run_id, requirements=[data])
    assert again.status is RunStatus.completed


async def test_who_comes_second_decides_nothing(crew: Crew) -> None:
    agent = payer(crew)
    output = await agent.arun("Go.")
    yes, no = (output.active_requirements[0].model_copy(deep=True) for _ in range(2))
    yes.confirm()
    no.reject("never")
    late = agent.acontinue_run(run_id=output.run_id, requirements=[no])
    async with agent.acontinue_run(run_id=output.run_id, requirements=[yes], stream=True) as events:
        with pytest.raises(RunNotContinuable):
            await late
        async for _ in events:
            pass
    assert events.output is not None
    assert [tool.result for tool in events.output.tools] == ["paid 5"]


async def test_what_the_run_knows_may_be_changed_when_it_goes_on(crew: Crew) -> None:
    agent = payer(crew)
    output = await agent.arun("Go.", session_state={"a": 1, "b": 1}, dependencies={"d": 1}, metadata={"m": 1})
    output.active_requirements[0].confirm()
    again = await agent.acontinue_run(
        output, session_state={"b": 2}, dependencies={"d": 2}, metadata={"m": 2}, timeout=60
    )
    assert again.session_state == {"a": 1, "b": 2}
    assert again.metadata == {"m": 2}


async def test_an_old_copy_takes_no_word_back(crew: Crew) -> None:
    agent = payer(crew)
    output = await agent.arun("Go.")
    stale = output.active_requirements[0].model_copy(deep=True)
    output.active_requirements[0].confirm()
    again = await agent.acontinue_run(run_id=output.run_id, requirements=[stale])
    assert again.status is RunStatus.completed


async def test_values_that_cannot_be_copied_cost_no_pause_and_no_continuation(crew: Crew) -> None:
    @tool(requires_user_input=True)
    def meet(who: Any, where: Any) -> str:
        """Meet somebody."""
        return f"met at {where}"

    agent = crew.agent("Solo", ToolCall("meet"), Text("Done."), tools=[meet])
    output = await agent.arun("Go.")
    output.active_requirements[0].provide_user_input({"who": threading.Lock()})
    again = await agent.acontinue_run(output)
    assert again.is_paused, "one field is still open"
    with pytest.raises(TypeError, match="pickle"):
        agent.continue_run(again, session_state={"lock": threading.Lock()})
    again.active_requirements[0].provide_user_input({"who": "Ann", "where": "home"})
    last = await agent.acontinue_run(again)
    assert [done.result for done in last.tools] == ["met at home"]
