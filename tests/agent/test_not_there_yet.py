"""What is not built yet says so, by name, instead of doing something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import kern_async
from kern_async import Agent, Team

from .crew import Crew


@pytest.mark.parametrize(
    "options",
    [
        {"db": object()},
        {"checkpoint": "tool-batch"},
        {"add_history_to_context": True},
        {"num_history_runs": 3},
        {"tool_hooks": [print]},
        {"limits": object()},
    ],
    ids=lambda options: next(iter(options)),
)
@pytest.mark.parametrize("kind", ["agent", "team"])
def test_a_keyword_that_is_not_there_yet_names_itself(kind: str, options: dict[str, Any]) -> None:
    (keyword,) = options
    with pytest.raises(NotImplementedError, match=f"{keyword}="):
        if kind == "agent":
            Agent(name="Solo", **options)
        else:
            Team(name="Team", members=[Agent(name="Solo")], **options)


def test_a_teams_keyword_that_is_not_there_yet_names_itself() -> None:
    with pytest.raises(NotImplementedError, match="add_team_history_to_members="):
        Team(members=[Agent(name="Solo")], add_team_history_to_members=True)


@pytest.mark.parametrize(
    "options",
    [{"background": True}, {"limits": object()}, {"requirements": []}],
    ids=["background", "limits", "requirements"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_runs_keyword_that_is_not_there_yet_names_itself(
    crew: Crew, options: dict[str, Any], stream: bool
) -> None:
    (keyword,) = options
    with pytest.raises(NotImplementedError, match=f"{keyword}="):
        crew.agent().arun("Go.", stream=stream, **options)


@pytest.mark.parametrize("mode", ["after_tools", "after_turn"])
async def test_a_graceful_cancel_names_itself(crew: Crew, mode: Any) -> None:
    async with crew.agent().arun("Go.", stream=True, run_id="the-run") as events:
        with pytest.raises(NotImplementedError, match=mode):
            kern_async.cancel_run("the-run", mode=mode)
        with pytest.raises(NotImplementedError, match=mode):
            await kern_async.acancel_run("the-run", mode=mode)
        with pytest.raises(NotImplementedError, match=mode):
            events.cancel(mode=mode)
        left = [event.event async for event in events]
    assert left[-1] == "RunCompleted", "and it changes nothing"


SYNC: dict[str, Callable[[Any], Any]] = {
    "cancel_tool_call": lambda home: home.cancel_tool_call("run", "call"),
    "send_message": lambda home: home.send_message("run", "text"),
}
ASYNC: dict[str, Callable[[Any], Any]] = {
    "acancel_tool_call": lambda home: home.acancel_tool_call("run", "call"),
    "asend_message": lambda home: home.asend_message("run", "text"),
}


@pytest.mark.parametrize("name", SYNC)
@pytest.mark.parametrize(
    "home",
    [kern_async, Agent(name="Solo"), Team(members=[Agent(name="Solo")])],
    ids=["module", "agent", "team"],
)
def test_a_verb_that_is_not_there_yet_names_itself(home: Any, name: str) -> None:
    with pytest.raises(NotImplementedError, match=name):
        SYNC[name](home)


@pytest.mark.parametrize("name", ASYNC)
@pytest.mark.parametrize(
    "home",
    [kern_async, Agent(name="Solo"), Team(members=[Agent(name="Solo")])],
    ids=["module", "agent", "team"],
)
async def test_an_async_verb_that_is_not_there_yet_names_itself(home: Any, name: str) -> None:
    with pytest.raises(NotImplementedError, match=name):
        await ASYNC[name](home)


@pytest.mark.parametrize("name", ["continue_run", "acontinue_run"])
def test_continuing_names_itself(name: str) -> None:
    with pytest.raises(NotImplementedError, match=name):
        getattr(Agent(name="Solo"), name)(run_id="run")
