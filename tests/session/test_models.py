"""Sessions as data."""

from __future__ import annotations

import json

from kern_async.run.agent import RunOutput
from kern_async.run.message import Message
from kern_async.run.session import Session, SessionSummary
from kern_async.run.team import TeamRunOutput

from .conversations import said, texts, user
from .test_turns import SYSTEM


def a_session() -> Session:
    ids = {"session_id": "s", "status": "COMPLETED"}
    history = [message.model_copy(update={"from_history": True}) for message in (user("One?"), said("One."))]
    first = [SYSTEM, user("One?"), said("One.")]
    member = RunOutput.from_dict({**ids, "run_id": "m1", "parent_run_id": "r1", "agent_id": "a"})
    member.messages = [user("Do it."), said("Done.")]
    return Session(
        session_id="s",
        user_id="u",
        team_id="t",
        session_state={"count": 1, "nothing": None},
        runs=[
            TeamRunOutput.from_dict({**ids, "run_id": "r1", "team_id": "t"}).model_copy(
                update={"messages": first}
            ),
            member,
            TeamRunOutput.from_dict({**ids, "run_id": "r2", "team_id": "t"}).model_copy(
                update={"messages": [SYSTEM, *history, user("Two?")]}
            ),
        ],
        created_at=1.5,
        updated_at=2.5,
    )


def test_a_session_survives_json() -> None:
    session = a_session()
    again = Session.from_dict(session.to_dict())
    assert again == session
    assert [type(run) for run in again.runs] == [TeamRunOutput, RunOutput, TeamRunOutput]
    assert Session.from_dict(json.loads(session.to_json())) == session
    assert "agent_id" not in session.to_dict()


def test_a_session_finds_its_runs_and_its_conversation() -> None:
    session = a_session()
    assert session.get_run("m1") is session.runs[1]
    assert session.get_run("unknown") is None
    assert texts(session.get_messages()) == ["One?", "One.", "Two?"]
    assert texts(session.get_messages(last_n_runs=1)) == ["Two?"]
    assert session.get_messages(last_n_runs=0) == []


def test_values_of_a_state_that_are_no_json_do_not_hinder_it() -> None:
    session = a_session()
    session.session_state["one"] = Message
    assert json.loads(session.to_json())["session_state"]["one"] == str(Message)
    assert session.to_dict()["session_state"]["one"] == str(Message)


def test_a_summary_survives_json() -> None:
    summary = SessionSummary(session_id="s", agent_id="a", created_at=1.5, updated_at=2.5, run_count=3)
    assert SessionSummary.from_dict(summary.to_dict()) == summary
