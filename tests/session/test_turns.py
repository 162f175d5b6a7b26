"""What of earlier runs a later one is told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from kern_async.engine.history import UNFINISHED, newest, turns_of
from kern_async.engine.tokens import estimate_tokens
from kern_async.run.agent import RunOutput
from kern_async.run.base import RunInput, RunStatus
from kern_async.run.message import Message

from .conversations import CONVERSATIONS, answer, check_whole, refusals, said, texts, user

SYSTEM = Message(role="system", content="Be brief.")


def ran(asked: Any, *messages: Message, status: RunStatus = RunStatus.completed) -> RunOutput:
    return RunOutput(
        run_id="r",
        session_id="s",
        agent_id="a",
        status=status,
        input=RunInput.model_construct(input_content=asked),
        messages=list(messages),
    )


def test_each_run_is_a_turn_from_the_oldest_on() -> None:
    first = ran("One?", SYSTEM, user("One?"), said("One."))
    history = [message.model_copy(update={"from_history": True}) for message in first.messages[1:]]
    second = ran("Two?", SYSTEM, *history, user("Two?"), said("Two."))
    assert [texts(turn) for turn in turns_of([first, second])] == [["One?", "One."], ["Two?", "Two."]]
    assert [texts(turn) for turn in turns_of([first, second], last=1)] == [["Two?", "Two."]]
    assert turns_of([first, second], last=9) == turns_of([first, second], last=None)
    assert turns_of([first, second], last=0) == []


def test_what_is_told_are_copies_that_say_so() -> None:
    call = said("I look.", "1")
    call.provider_data = {"some": {"model": "m"}}
    output = ran("Go.", user("Go."), call, answer("1"))
    (turn,) = turns_of([output])
    assert all(message.from_history for message in turn)
    assert not any(message.from_history for message in output.messages)
    turn[1].tool_calls[0].arguments = "changed"
    turn[1].provider_data = turn[1].provider_data or {}
    turn[1].provider_data["some"]["model"] = "changed"
    assert call.tool_calls[0].arguments == "{}"
    assert call.provider_data == {"some": {"model": "m"}}


@pytest.mark.parametrize("status", [RunStatus.cancelled, RunStatus.error, RunStatus.paused])
def test_a_run_that_did_not_complete_is_a_turn_like_any_other(status: RunStatus) -> None:
    output = ran("Go.", SYSTEM, user("Go."), said("I look.", "1", "2"), answer("1"), status=status)
    (turn,) = turns_of([output])
    assert texts(turn) == ["Go.", "I look.", "seen", UNFINISHED]


@pytest.mark.parametrize("messages", [[], [SYSTEM], [SYSTEM, said("Partly")]])
def test_a_run_without_its_input_among_its_messages_tells_it_all_the_same(messages: list[Message]) -> None:
    (turn,) = turns_of([ran("Go.", *messages, status=RunStatus.cancelled)])
    assert texts(turn) == ["Go.", *(["Partly"] if len(messages) == 2 else [])]


def test_what_the_prompt_puts_before_the_input_is_not_told_again() -> None:
    prelude = [user("An example."), said("Its answer."), said("I am here.")]
    (turn,) = turns_of([ran("Go.", SYSTEM, *prelude, user("Go."), said("Done."))])
    assert texts(turn) == ["Go.", "Done."]


class Story(BaseModel):
    topic: str


@pytest.mark.parametrize(
    "asked",
    [{"topic": "rain"}, Story(topic="rain"), user("Go."), [user("Look."), said("At what?"), user("It.")]],
)
def test_any_input_is_told(asked: Any) -> None:
    output = ran(asked, SYSTEM, *RunInput.model_construct(input_content=asked).messages(), said("Done."))
    stored = RunOutput.from_dict(output.to_dict())
    for each in (output, stored):
        assert texts(turns_of([each])[0]) == texts(output.messages[1:])


@given(st.lists(CONVERSATIONS, max_size=4), st.none() | st.integers(0, 5))
def test_turns_of_any_runs_are_valid_input(conversations: list[list[Message]], last: int | None) -> None:
    turns = turns_of([ran("Go.", *messages) for messages in conversations], last)
    told = [message for turn in turns for message in turn]
    check_whole(told)
    assert refusals(told) == []
    assert all(message.from_history and message.role != "system" for message in told)
    assert all(any(message.role == "user" for message in turn) for turn in turns)


@given(st.lists(CONVERSATIONS, max_size=5), st.integers(0, 20))
def test_trimming_leaves_out_whole_turns_from_the_oldest_on(turns: list[list[Message]], tokens: int) -> None:
    kept = newest(turns, tokens)
    assert kept == turns[len(turns) - len(kept) :]
    assert sum(map(estimate_tokens, kept)) <= tokens
    if len(kept) < len(turns):
        assert sum(map(estimate_tokens, turns[len(turns) - len(kept) - 1 :])) > tokens


def test_a_token_is_four_characters() -> None:
    assert estimate_tokens([user("12345678"), said("1234")]) == 3
    assert estimate_tokens([user("1")]) == 1
    assert estimate_tokens([]) == 0
    assert estimate_tokens([said(None, "1")]) == estimate_tokens([user("look{}")])
