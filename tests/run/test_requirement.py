"""What a paused run waits for, and how it is answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kern_async import RunRequirement
from kern_async.exceptions import ConfigurationError
from kern_async.run.agent import RunOutput
from kern_async.run.base import RunStatus
from kern_async.run.requirement import UserInputField
from kern_async.run.tool import ToolExecution


def waiting(**what: Any) -> RunRequirement:
    return RunRequirement(
        tool_execution=ToolExecution(tool_call_id="c", tool_name="send", tool_args={"to": "Ann"}, **what),
        run_id="r",
    )


def form(**values: Any) -> RunRequirement:
    fields = [
        UserInputField(name="to", field_type="string", value="Ann"),
        UserInputField(name="body", field_type="string", description="What to say."),
        UserInputField(name="copies", field_type="integer", required=False),
    ]
    requirement = waiting(requires_user_input=True, user_input_schema=fields)
    if values:
        requirement.provide_user_input(values)
    return requirement


def test_a_confirmation_is_given_once() -> None:
    requirement = waiting(requires_confirmation=True)
    assert requirement.needs_confirmation
    assert not requirement.is_resolved()
    requirement.confirm()
    assert requirement.is_resolved()
    assert requirement.confirmation is True
    assert requirement.tool_execution.confirmed is True
    for again in (requirement.confirm, requirement.reject):
        with pytest.raises(ConfigurationError, match="resolved and needs nothing more"):
            again()


def test_a_rejection_resolves_with_its_note() -> None:
    requirement = waiting(requires_confirmation=True)
    requirement.reject("too dear")
    assert requirement.is_resolved()
    assert (requirement.confirmation, requirement.confirmation_note) == (False, "too dear")
    assert requirement.tool_execution.confirmation_note == "too dear"


def test_the_form_is_filled_in_several_calls() -> None:
    requirement = form()
    assert requirement.needs_user_input
    requirement.provide_user_input({"to": "Bob"})
    assert not requirement.is_resolved(), "a required field is open"
    requirement.provide_user_input({"body": "Hello"})
    assert requirement.is_resolved()
    requirement.provide_user_input({"copies": 2})
    assert [field.value for field in requirement.user_input_schema or []] == ["Bob", "Hello", 2]


def test_an_unknown_field_names_those_that_there_are() -> None:
    with pytest.raises(ConfigurationError, match="no field 'bdoy'; its fields are: to, body, copies"):
        form(bdoy="Hello")


def test_suggestions_alone_are_no_answer_but_can_be_accepted() -> None:
    requirement = waiting(
        requires_user_input=True,
        user_input_schema=[UserInputField(name="to", field_type="string", value="Ann")],
    )
    assert requirement.needs_user_input
    requirement.provide_user_input({})
    assert requirement.is_resolved()


@pytest.mark.parametrize(("result", "text"), [("12 °C", "12 °C"), ({"a": [1]}, '{"a": [1]}'), (None, "null")])
def test_a_result_from_elsewhere_is_text(result: Any, text: str) -> None:
    requirement = waiting(external_execution_required=True)
    assert requirement.needs_external_execution
    requirement.set_external_execution_result(result)
    assert requirement.is_resolved()
    assert requirement.external_execution_result == requirement.tool_execution.result == text
    with pytest.raises(ConfigurationError, match="resolved"):
        requirement.set_external_execution_result("again")


VERBS: dict[str, Callable[[RunRequirement], None]] = {
    "confirm": lambda requirement: requirement.confirm(),
    "reject": lambda requirement: requirement.reject(),
    "provide_user_input": lambda requirement: requirement.provide_user_input({}),
    "set_external_execution_result": lambda requirement: requirement.set_external_execution_result(""),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("requirement", "need", "fitting"),
    [
        (waiting(requires_confirmation=True), r"needs confirm\(\) or reject\(\)", {"confirm", "reject"}),
        (
            form(),
            r"needs provide_user_input\(\) with values for to, body, copies",
            {"provide_user_input"},
        ),
        (
            waiting(external_execution_required=True),
            r"needs set_external_execution_result\(\)",
            {"set_external_execution_result"},
        ),
    ],
    ids=["confirmation", "input", "external"],
)
def test_a_verb_that_does_not_fit_says_what_would(
    requirement: RunRequirement, need: str, fitting: set[str], verb: str
) -> None:
    if verb in fitting:
        return
    with pytest.raises(ConfigurationError, match=need):
        VERBS[verb](requirement.model_copy(deep=True))


def test_what_is_set_directly_is_understood() -> None:
    confirmed = waiting(requires_confirmation=True)
    confirmed.tool_execution.confirmed = True
    by_name = waiting(requires_confirmation=True)
    by_name.confirmation = False
    by_name.confirmation_note = "no"
    executed = waiting(external_execution_required=True)
    executed.external_execution_result = "done"
    filled = form()
    for field in filled.user_input_schema or []:
        if field.value is None and field.required:
            assert not filled.is_resolved()
            field.value = "Hello"
    answered = form()
    answered.tool_execution.answered = True
    assert all(requirement.is_resolved() for requirement in (confirmed, by_name, executed, filled, answered))
    assert by_name.tool_execution.confirmation_note == "no"


def test_a_requirement_survives_json() -> None:
    for requirement in (form(), form(body="Hello"), waiting(requires_confirmation=True)):
        requirement.member_run_id = "m"
        again = RunRequirement.from_dict(requirement.to_dict())
        assert again == requirement
        assert again.is_resolved() == requirement.is_resolved()


def test_what_the_references_client_sends_is_understood() -> None:
    data = {
        "id": "x",
        "created_at": "2026-11-02T12:00:00+00:00",
        "tool_execution": {"tool_call_id": "c", "tool_name": "send", "requires_confirmation": True},
        "confirmation": False,
        "confirmation_note": "no",
        "user_feedback_schema": None,
    }
    requirement = RunRequirement.from_dict(data)
    assert requirement.is_resolved()
    assert requirement.tool_execution.confirmation_note == "no"
    assert requirement.created_at == 1793620800


def test_an_output_lists_what_is_open_by_kind() -> None:
    done = waiting(requires_confirmation=True)
    done.confirm()
    requirements = [
        waiting(requires_confirmation=True),
        form(),
        waiting(external_execution_required=True),
        done,
    ]
    output = RunOutput(
        run_id="r", session_id="s", agent_id="a", status=RunStatus.paused, requirements=requirements
    )
    assert output.is_paused
    assert output.active_requirements == requirements[:3]
    confirm, fill, execute = (requirement.tool_execution for requirement in requirements[:3])
    assert output.tools_requiring_confirmation == [confirm]
    assert output.tools_requiring_user_input == [fill]
    assert output.tools_awaiting_external_execution == [execute]
    output.tools_requiring_confirmation[0].confirmed = True
    assert output.active_requirements == requirements[1:3]
    assert RunOutput.from_dict(output.to_dict()) == output
    nothing = RunOutput(run_id="r", session_id="s", agent_id="a", status=RunStatus.completed)
    assert nothing.active_requirements == nothing.tools_requiring_confirmation == []
