"""Teams that cannot be are refused with a clear error."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from kern_async import Agent, RunStatus, Team
from kern_async.exceptions import ConfigurationError, RunIdInUse
from kern_async.testing import Forever

from ..agent.crew import Crew


def solo(name: str = "Solo", **options: Any) -> Agent:
    return Agent(name=name, **options)


def test_an_empty_team_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no members"):
        Team(name="Team", members=[])


def test_a_team_needs_the_word_members() -> None:
    with pytest.raises(TypeError, match="members"):
        Team(name="Team")  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize(
    "members",
    [
        lambda: [solo("Solo"), solo("solo")],
        lambda: [solo("A", id="x"), solo("B", id="x")],
        lambda: [solo("a b"), Team(name="A_B", members=[solo()])],
        lambda: [solo()] * 2,
    ],
    ids=["names", "ids", "slugs", "the same"],
)
def test_two_members_with_one_id_are_refused(members: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"two members of .* have the id"):
        Team(name="Team", members=members())


def test_members_without_names_have_ids_of_their_own() -> None:
    team = Team(members=[Agent(), Agent()])
    assert len({member.id for member in team.members}) == 2
    assert team.id


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_team_that_has_become_its_own_ancestor_is_refused_at_the_call(
    crew: Crew, depth: int, stream: bool
) -> None:
    lowest = team = crew.team(members=[crew.agent("Writer")], name="Lowest")
    for level in range(depth):
        team = crew.team(members=[team], name=f"Above {level}")
    assert isinstance(lowest.members, list)
    lowest.members.append(team)
    with pytest.raises(ConfigurationError, match="member of itself"):
        team.arun("Go.", stream=stream)
    with pytest.raises(ConfigurationError, match="member of itself"):
        team.run("Go.", stream=stream)
    assert crew.provider.requests == []
    lowest.members.clear()


def test_a_team_that_was_emptied_is_refused_at_the_call(crew: Crew) -> None:
    team = crew.team(members=[crew.agent("Writer")])
    team.members = []
    with pytest.raises(ConfigurationError, match="no members"):
        team.arun("Go.")  # pyright: ignore[reportUnusedCoroutine]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"members": [solo(), "Solo"]}, "a member of .* is 'Solo'"),
        ({"mode": "dictate"}, "mode of .* is 'dictate'; it is one of coordinate, route, broadcast, tasks"),
        ({"max_iterations": 0}, "max_iterations"),
        ({"timeout": -1}, "timeout"),
        ({"cancel_grace": -0.1}, "cancel_grace"),
        ({"model": "gpt-5.2"}, "model of .* is 'gpt-5.2'"),
    ],
    ids=["member", "mode", "max_iterations", "timeout", "cancel_grace", "model"],
)
def test_a_team_that_cannot_be_says_why(options: dict[str, Any], says: str) -> None:
    given: dict[str, Any] = {"name": "Team", "members": [solo()], **options}
    with pytest.raises(ConfigurationError, match=says):
        Team(**given)


def test_an_unknown_keyword_of_a_team_is_named() -> None:
    with pytest.raises(TypeError, match="show_member_responses"):
        Team(members=[solo()], show_member_responses=True)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("method", ["run", "arun"])
def test_an_unknown_keyword_of_a_run_is_named_at_the_call(crew: Crew, method: str, stream: bool) -> None:
    team = crew.team(members=[crew.agent("Writer")])
    with pytest.raises(TypeError, match="stream_steps"):
        getattr(team, method)("Go.", stream=stream, stream_steps=True)


def test_a_team_nobody_of_which_has_a_model_says_so() -> None:
    with pytest.raises(ConfigurationError, match="no model"):
        Team(name="Team", members=[solo()]).arun("Go.")  # pyright: ignore[reportUnusedCoroutine]


async def test_a_second_live_run_of_an_id_is_refused(crew: Crew) -> None:
    crew.provider.default = Forever()
    team = crew.team(members=[crew.agent("Writer")], mode="broadcast")
    with anyio.fail_after(5):
        async with team.arun("Go.", stream=True, run_id="the-run") as events:
            async for event in events:
                if event.event == "RunContent":
                    member = event.run_id
                    break
            for taken in ("the-run", member):
                with pytest.raises(RunIdInUse, match=taken):
                    team.arun("Again.", stream=True, run_id=taken)
                with pytest.raises(RunIdInUse):
                    await team.arun("Again.", run_id=taken)
    assert events.output is not None
    assert (events.output.status, events.output.cancelled_by) == (RunStatus.cancelled, "consumer")


def test_ids_are_slugs_of_names_from_the_start() -> None:
    team = Team(name="Storytelling Team", members=[solo("StorytellerAgent"), solo("second_writer")])
    assert team.id == "storytelling-team"
    assert [member.id for member in team.members] == ["storytelleragent", "second-writer"]
    assert Team(name="Team", id="given", members=[solo()]).id == "given"


async def test_a_tool_with_the_name_of_a_teams_own_is_refused_at_the_call(crew: Crew) -> None:
    def delegate_task_to_member() -> str:
        return "mine"

    with pytest.raises(ConfigurationError, match="delegate_task_to_member"):
        await crew.team(members=[crew.agent("Writer")], tools=[delegate_task_to_member]).arun("Go.")
    assert crew.provider.requests == []
