"""Arguments that the user fills: what the model sees, the form, and the call that comes of both."""

from __future__ import annotations

from datetime import date
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from kern_async.exceptions import ConfigurationError, ToolError
from kern_async.run import RunContext
from kern_async.run.tool import UserInputField
from kern_async.tools import tool


class Letter(BaseModel):
    more: dict[str, str]


class Stamp(Enum):
    RED = "red"
    BLUE = "blue"


CONTEXT = RunContext(run_id="run-1", session_id="session-1")


def send(
    to: str,
    body: str,
    ctx: RunContext,
    day: date | None = None,
    how: Literal["fast", "slow"] = "slow",
    copies: Annotated[int, Field(ge=1)] = 1,
) -> tuple[Any, ...]:
    """Send a letter.

    Args:
        to: Who gets it.
        body: What to say.
    """
    return to, body, day, how, copies


partly = tool(requires_user_input=True, user_input_fields=["body", "copies"])(send)
wholly = tool(requires_user_input=True)(send)


def call(tool: Any, arguments: str, given: dict[str, Any] | None = None) -> Any:
    return tool.bind(arguments, CONTEXT, given).call()


def test_the_model_is_not_asked_for_the_users_fields() -> None:
    assert list(partly.parameters["properties"]) == ["to", "day", "how"]
    assert partly.parameters["required"] == ["to"]
    strict = tool(requires_user_input=True, user_input_fields=["body"], strict=True)(send)
    assert strict.parameters["required"] == ["to", "day", "how", "copies"]


def test_without_fields_the_model_may_suggest_any() -> None:
    assert list(wholly.parameters["properties"]) == ["to", "body", "day", "how", "copies"]
    assert wholly.parameters["required"] == []
    assert wholly.check("") == {}
    assert wholly.check('{"body": "Hi"}') == {"body": "Hi"}


def test_what_the_model_sent_is_checked_without_the_users_fields() -> None:
    assert partly.check('{"to": "Ann", "day": "2026-11-02"}') == {"to": "Ann", "day": "2026-11-02"}
    with pytest.raises(ToolError, match="to: required, but missing"):
        partly.check("{}")
    with pytest.raises(ToolError, match=r"body: there is no such argument \(arguments: to, day, how\)"):
        partly.check('{"to": "Ann", "body": "Hi"}')
    with pytest.raises(ToolError, match="day"):
        wholly.check('{"day": "someday"}')


def test_the_form_lists_every_argument_with_the_models_values() -> None:
    form = partly.user_input_schema({"to": "Ann"})
    assert form == [
        UserInputField(name="to", field_type="string", description="Who gets it.", value="Ann"),
        UserInputField(name="body", field_type="string", description="What to say."),
        UserInputField(name="day", field_type="string", required=False),
        UserInputField(name="how", field_type="one of 'fast', 'slow'", required=False),
        UserInputField(name="copies", field_type="integer", required=False),
    ]
    assert [field.name for field in wholly.user_input_schema({})] == [field.name for field in form]


def test_the_users_values_take_the_models_place() -> None:
    said = '{"to": "Ann", "day": "2026-11-02", "how": "fast"}'
    given = {"to": "Bob", "body": "Hi", "day": None, "copies": "2"}
    assert call(partly, said, given) == ("Bob", "Hi", None, "fast", 2)
    bound = partly.bind(said, CONTEXT, given)
    assert bound.args == {"to": "Bob", "how": "fast", "body": "Hi", "copies": 2}
    assert call(partly, said, {"body": "Hi", "day": date(2026, 1, 2)})[2] == date(2026, 1, 2)
    assert call(wholly, "", {"to": "Ann", "body": "Hi"}) == ("Ann", "Hi", None, "slow", 1)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (None, "body: required"),
        ({}, "body: required"),
        ({"body": None}, "body"),
        ({"body": "Hi", "copies": 0}, "copies: .*greater than or equal to 1"),
        ({"body": "Hi", "bdoy": "Hi"}, "bdoy: there is no such argument"),
    ],
    ids=str,
)
def test_all_values_are_validated_together(given: dict[str, Any] | None, match: str) -> None:
    with pytest.raises(ToolError, match=match):
        call(partly, '{"to": "Ann"}', given)


def test_what_the_model_sent_wrong_is_no_better_with_the_users_values() -> None:
    for arguments in ("no json", "[]", '{"body": "the model\'s"}'):
        with pytest.raises(ToolError):
            call(partly, arguments, {"to": "Ann", "body": "Hi"})


def test_open_keywords_do_not_let_the_model_in() -> None:
    @tool(requires_user_input=True, user_input_fields=["secret"])
    def note(secret: str, **more: str) -> str:
        return secret + "".join(more.values())

    assert note.check('{"other": "x"}') == {"other": "x"}
    with pytest.raises(ToolError, match="secret"):
        note.check('{"secret": "x"}')
    assert call(note, '{"other": "x"}', {"secret": "s"}) == "sx"


def test_a_nullable_parameter_without_a_default_can_be_left_open() -> None:
    @tool(requires_user_input=True)
    def until(day: date | None, tags: Annotated[list[str], Field(default_factory=list)]) -> Any:
        return day, tags

    form = until.user_input_schema({})
    assert [(field.field_type, field.required) for field in form] == [("string", False), ("array", False)]
    assert call(until, "{}", {field.name: field.value for field in form}) == (None, [])


def test_types_of_the_users_fields_only_are_not_told_to_the_model() -> None:
    @tool(requires_user_input=True, user_input_fields=["letter"], strict=True)
    def post(letter: Letter, stamp: Stamp) -> str:
        return f"{letter} {stamp}"

    assert list(post.parameters["$defs"]) == ["Stamp"]
    assert [field.field_type for field in post.user_input_schema({})] == ["object", "one of 'red', 'blue'"]
    assert post.check('{"stamp": "red"}') == {"stamp": "red"}
    with pytest.raises(ToolError, match=r"letter\.more"):
        call(post, '{"stamp": "red"}', {"letter": {"more": 1}})


def test_a_method_keeps_its_form() -> None:
    class Post:
        @tool(requires_user_input=True, user_input_fields=["to"])
        def send(self, to: str, body: str) -> str:
            return f"{body} to {to}"

    post = Post().send
    assert list(post.parameters["properties"]) == ["body"]
    assert call(post, '{"body": "Hi"}', {"to": "Ann"}) == "Hi to Ann"


def test_a_field_that_is_no_parameter_is_refused() -> None:
    for name in ("bdoy", "ctx"):
        with pytest.raises(ConfigurationError, match=f"'send'.*{name!r}; its parameters are: to, body"):
            tool(requires_user_input=True, user_input_fields=[name])(send)
