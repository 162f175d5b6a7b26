"""What a run's model, and a team's members, hear of earlier runs."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from kern_async import Agent, RunStatus, Team, cancel_run
from kern_async.agent.arguments import check_stored
from kern_async.db.in_memory import InMemoryDb
from kern_async.engine.history import Turn, turns_of
from kern_async.engine.run import Run
from kern_async.exceptions import ConfigurationError
from kern_async.run.base import BaseOutput
from kern_async.run.message import Message
from kern_async.testing.scripted import ScriptedModel, call

from ..agent.crew import Crew
from .conversations import answer, said, texts, user
from .test_turns import ran

EARLIER: list[Turn] = turns_of(
    [
        ran("Old question?", user("Old question?"), said("I look.", "1"), answer("1"), said("Old answer.")),
        ran("New question?", user("New question?"), said("New answer, but"), status=RunStatus.cancelled),
    ]
)


def remembering(kind: type[Any], turns: Sequence[Turn]) -> type[Any]:
    """Agents or teams whose runs begin with this history."""

    class Remembering(kind):
        def _create(self, *args: Any, **options: Any) -> Run:
            run = super()._create(*args, **options)
            run.history = list(turns)
            return run

    return Remembering


async def heard(trim: Any = None, **options: Any) -> tuple[list[str | None], BaseOutput]:
    """What the model was told, and what the run left."""
    model = ScriptedModel("m", ["Done."])
    agent = remembering(Agent, EARLIER)(model=model, trim_history=trim, **options)
    output = await agent.arun("Now?")
    return texts(model.requests[0].messages) if model.requests else [], output


ALL = ["Old question?", "I look.", "seen", "Old answer.", "New question?", "New answer, but"]


async def test_the_history_stands_before_the_input_and_after_all_else() -> None:
    told, output = await heard(
        instructions="Be brief.", additional_input=["An example."], introduction="I am here."
    )
    assert told == ["Be brief.", "An example.", "I am here.", *ALL, "Now?"]
    assert not [message for message in output.messages if message.from_history]
    assert [texts(turn) for turn in turns_of([output])] == [["Now?", "Done."]]


async def test_providers_take_the_history_and_see_no_mark_of_it(any_crew: Crew) -> None:
    agent = remembering(Agent, EARLIER)(model=any_crew.model("Solo"), instructions="Be brief.")
    output = await agent.arun("Now?")
    assert output.status is RunStatus.completed, output.error
    (request,) = any_crew.requests()
    assert request.text.splitlines() == ["Be brief.", *ALL, "Now?"]
    assert "from_history" not in str(request.body)


@pytest.mark.parametrize(
    ("tokens", "left"), [(100, ALL), (18, ALL), (17, ALL[4:]), (7, ALL[4:]), (6, []), (0, [])]
)
async def test_a_number_of_tokens_leaves_the_latest_turns_that_fit(tokens: int, left: list[str]) -> None:
    told, _ = await heard(tokens)
    assert told == [*left, "Now?"]


async def test_a_function_says_what_is_told_and_need_not_be_careful() -> None:
    def trim(messages: list[Message]) -> list[Message]:
        threads.append(threading.current_thread())
        return [user("In short: nothing."), messages[2], *messages[4:], said("", "7"), said(None)]

    threads: list[threading.Thread] = []
    told, output = await heard(trim)
    assert told == ["In short: nothing.", "New question?", "New answer, but", "", "not finished", "Now?"]
    assert threads != [threading.current_thread()], "it would block the event loop"
    assert [texts(turn) for turn in turns_of([output])] == [["Now?", "Done."]], "its words are no turn"


async def test_a_trimming_function_that_raises_ends_the_run() -> None:
    def trim(messages: list[Message]) -> list[Message]:
        raise KeyError("no")

    told, output = await heard(trim)
    assert (output.status, output.error_type, told) == (RunStatus.error, "KeyError", [])
    assert [texts(turn) for turn in turns_of([output])] == [["Now?"]]


@pytest.mark.parametrize("returned", [None, "text", [1], ({},)])
async def test_a_trimming_function_that_returns_no_messages_ends_the_run(returned: Any) -> None:
    _, output = await heard(lambda messages: returned)
    assert (output.status, output.error_type) == (RunStatus.error, "ConfigurationError")
    assert "trim_history" in (output.error or "")


async def no_plain_function(messages: list[Message]) -> list[Message]:
    return messages


@pytest.mark.parametrize(
    "options",
    [
        {"num_history_runs": 0},
        {"num_history_runs": True},
        {"num_history_runs": "all"},
        {"trim_history": -1},
        {"trim_history": "short"},
        {"trim_history": True},
        {"trim_history": no_plain_function},
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_wrong_value_is_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        Agent(**options)
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        Team(members=[Agent()], **options)


@pytest.mark.parametrize("number", [0, None, 1.5])
def test_a_wrong_number_of_team_runs_is_refused_at_once(number: Any) -> None:
    with pytest.raises(ConfigurationError, match="num_team_history_runs"):
        Team(members=[Agent()], num_team_history_runs=number)


@pytest.mark.parametrize(
    "options",
    [{"add_history_to_context": True}, {"num_history_runs": 2}, {"add_team_history_to_members": True}],
    ids=str,
)
def test_a_history_needs_a_database(options: dict[str, Any]) -> None:
    team = Team(name="Crew", members=[Agent()], **options)
    with pytest.raises(ConfigurationError, match=f"{next(iter(options))}=.*'crew'.*needs a database"):
        check_stored(team, None)
    check_stored(team, object())
    check_stored(Agent(), None)


# Members.

TOLD = """Earlier in this conversation:

User: First?

Team: One.

User: Second?

Team (cut off): Tw

User: Third?

User: And?

Team (cut off): (no answer)"""


async def member_heard(given: Any = "Now?", **options: Any) -> list[str | None]:
    """What a member's model is told in a session of three earlier runs: one completed, one was cut, one failed."""
    member = ScriptedModel("member", ["Done."])

    async def cut(_: Any) -> None:
        assert cancel_run("second")
        await anyio.sleep_forever()

    leader = ScriptedModel(
        "leader",
        [
            "One.",
            ["Tw", cut, "o."],
            ValueError("broken"),
            call("delegate_task_to_member", member_id="one", task="Do it."),
            "Ok.",
        ],
    )
    db = InMemoryDb()
    team = Team(members=[Agent(name="one", model=member)], model=leader, session_id="s", db=db, **options)
    await team.arun("First?")
    await team.arun("Second?", run_id="second")
    await team.arun([user("Third?"), user("And?")])
    output = await team.arun(given)
    await db.aclose()
    assert output.status is RunStatus.completed, output.error
    return texts(member.requests[0].messages)


async def test_members_hear_the_teams_earlier_turns_before_their_task() -> None:
    told = await member_heard(add_team_history_to_members=True)
    assert told == [f"{TOLD}\n\nYour task:\n\nDo it."]


async def test_members_hear_of_no_more_earlier_turns_than_is_wanted() -> None:
    (told,) = await member_heard(add_team_history_to_members=True, num_team_history_runs=1)
    assert told is not None
    assert "Third?" in told
    assert "Second?" not in told


async def test_members_hear_nothing_of_earlier_turns_unless_it_is_wanted() -> None:
    assert await member_heard() == ["Do it."]


async def test_members_hear_earlier_turns_before_an_input_that_is_no_text_too() -> None:
    told = await member_heard(
        {"topic": "rain"}, add_team_history_to_members=True, determine_input_for_members=False
    )
    assert told == [TOLD, '{"topic": "rain"}']


def test_a_team_knows_how_many_earlier_turns_are_wanted_in_it() -> None:
    inner = Team(name="inner", members=[Agent()], add_team_history_to_members=True, num_team_history_runs=5)
    assert Team(members=[inner]).team_history_runs == 5
    assert (
        Team(members=[inner], add_team_history_to_members=True, num_team_history_runs=7).team_history_runs
        == 7
    )
    assert Team(members=[Agent()]).team_history_runs == 0
