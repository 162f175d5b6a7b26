"""Whatever a history is made of, providers take it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings

from kern_async.engine.history import UNFINISHED, sealed
from kern_async.run.message import Message, ToolCall

from .conversations import CONVERSATIONS, answer, check_whole, refusals, said, texts, user


@settings(max_examples=500)
@given(CONVERSATIONS)
def test_any_messages_become_input_that_providers_take(messages: list[Message]) -> None:
    before = [message.model_copy(deep=True) for message in messages]
    made = sealed(messages)
    check_whole(made)
    assert refusals(made) == []
    assert messages == before, "what was given is not changed"


@given(CONVERSATIONS)
def test_what_is_sealed_stays_as_it_is(messages: list[Message]) -> None:
    once = sealed(messages)
    assert sealed(once) == once


@given(CONVERSATIONS)
def test_sealing_loses_no_word_of_the_users_or_the_models(messages: list[Message]) -> None:
    def words(given: Sequence[Message]) -> list[tuple[str, str]]:
        return [(m.role, m.content) for m in given if m.content and m.role != "tool"]

    assert words(sealed(messages)) == words(messages)


def test_a_call_without_an_answer_is_answered_as_not_finished() -> None:
    made = sealed([said("I look.", "1", "2"), user("And?"), said("Nothing.")])
    assert texts(made) == ["I look.", UNFINISHED, UNFINISHED, "And?", "Nothing."]
    assert [m.tool_call_id for m in made[1:3]] == ["1", "2"]
    assert all(m.tool_call_error and m.tool_name == "look" for m in made[1:3])


def test_an_answer_that_came_late_stands_with_its_call() -> None:
    made = sealed([said(None, "1", "2"), answer("2", "b"), user("And?"), answer("1", "a")])
    assert texts(made) == [None, "a", "b", "And?"]


def test_an_id_may_come_again_in_a_later_turn() -> None:
    made = sealed([said(None, "1"), answer("1", "a"), said(None, "1"), user("And?"), answer("1", "b")])
    assert texts(made) == [None, "a", None, "b", "And?"]
    made = sealed([said(None, "1"), said(None, "1"), answer("1", "b")])
    assert texts(made) == [None, UNFINISHED, None, "b"], "an answer is the latest call's"


def test_of_two_calls_of_one_id_in_one_message_the_first_remains() -> None:
    calls = [ToolCall(id="1", name="look", arguments="a"), ToolCall(id="1", name="look", arguments="b")]
    made = sealed([Message(role="assistant", tool_calls=calls), answer("1", "a"), answer("1", "b")])
    assert [call.arguments for call in made[0].tool_calls] == ["a"]
    assert texts(made) == [None, "a"]


@pytest.mark.parametrize("nothing", [said(""), said(None), answer("9"), Message(role="tool", content="x")])
def test_what_says_nothing_or_answers_nothing_is_left_out(nothing: Message) -> None:
    assert texts(sealed([user("Go."), nothing, said("Done.")])) == ["Go.", "Done."]


@pytest.mark.parametrize("kind", ["reasoning", "custom_tool_call", "computer_call"])
def test_output_items_that_the_provider_would_refuse_are_not_sent(kind: str) -> None:
    item = {"type": kind, "id": "x_1", "summary": []}
    message = said("Done.")
    parts = [{"type": "output_text", "text": "Done.", "annotations": []}]
    items = [{"type": "message", "role": "assistant", "content": parts}, item]
    message.provider_data = {"openai_responses": {"model": "gpt-5.2", "output": items}}
    made = sealed([user("Go."), message])
    assert refusals(made) == []
    from .conversations import MODELS, ModelRequest

    sent = MODELS[0]._body(ModelRequest(messages=made))["input"]
    assert [item.get("type", "message") for item in sent] == ["message", "message"]
