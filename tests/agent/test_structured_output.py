"""An answer as an object: `output_schema`."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from kern_async.exceptions import RunFailed
from kern_async.run.base import RunStatus
from kern_async.testing import Cut, Text, ToolCall

from .crew import Crew, events_of


class Story(BaseModel):
    title: str
    pages: int


RAIN = '{"title": "Rain", "pages": 3}'
SCHEMA: dict[str, Any] = {
    "type": "object",
    "title": "Story",
    "properties": {"title": {"type": "string"}, "pages": {"type": "integer"}},
    "required": ["title", "pages"],
    "additionalProperties": False,
}


def asked_format(crew: Crew) -> dict[str, Any]:
    body = crew.requests()[0].body
    if crew.requests()[0].chat:
        return body["response_format"]["json_schema"]
    return body["text"]["format"]


@pytest.mark.parametrize(
    ("schema", "parsed", "kind"),
    [
        (Story, Story(title="Rain", pages=3), "Story"),
        (SCHEMA, {"title": "Rain", "pages": 3}, "dict"),
    ],
    ids=["class", "schema"],
)
async def test_a_completed_answer_is_the_object(any_crew: Crew, schema: Any, parsed: Any, kind: str) -> None:
    events = await events_of(any_crew.agent("Solo", Text(RAIN), output_schema=schema), yield_run_output=True)
    *_, end, output = events
    assert end.content == output.content == parsed
    assert type(output.content) is type(parsed)
    assert output.content_type == kind
    assert "".join(event.content for event in events if event.event == "RunContent") == RAIN
    told = asked_format(any_crew)
    assert told["name"] == "Story"
    assert set(told["schema"]["properties"]) == {"title", "pages"}


async def test_a_runs_schema_comes_before_its_agents(crew: Crew) -> None:
    class Other(BaseModel):
        name: str

    output = await crew.agent("Solo", Text(RAIN), output_schema=Other).arun("Go.", output_schema=Story)
    assert output.content == Story(title="Rain", pages=3)


async def test_a_fenced_answer_is_taken(crew: Crew) -> None:
    output = await crew.agent("Solo", Text(f"```json\n{RAIN}\n```"), output_schema=Story).arun("Go.")
    assert output.content == Story(title="Rain", pages=3)


@pytest.mark.parametrize(
    ("schema", "text", "says"),
    [
        (Story, '{"title": "Rain"}', "pages"),
        (Story, "Once upon a time.", "Story"),
        (SCHEMA, "Once upon a time.", "JSON"),
    ],
    ids=["incomplete", "prose", "prose for a schema"],
)
async def test_an_answer_that_does_not_fit_is_an_error_and_kept(
    crew: Crew, schema: Any, text: str, says: str
) -> None:
    output = await crew.agent("Solo", Text(text), output_schema=schema).arun("Go.")
    assert (output.status, output.error_type) == (RunStatus.error, "OutputSchemaError")
    assert says in str(output.error)
    assert (output.content, output.content_type) == (text, "str")
    with pytest.raises(RunFailed, match="OutputSchemaError"):
        output.raise_for_status()


async def test_an_unfinished_answer_is_kept_as_text(crew: Crew) -> None:
    output = await crew.agent("Solo", [Text('{"title": '), Cut()], output_schema=Story).arun("Go.")
    assert (output.status, output.error_type) == (RunStatus.error, "ModelConnectionError")
    assert output.content == '{"title": '


async def test_only_the_final_answer_has_to_fit(any_crew: Crew) -> None:
    def look() -> str:
        return "rain"

    agent = any_crew.agent(
        "Solo",
        [Text("Let me look out of the window. "), ToolCall("look")],
        Text(RAIN),
        tools=[look],
        output_schema=Story,
    )
    output = await agent.arun("Go.")
    assert output.error is None
    assert output.content == Story(title="Rain", pages=3)


async def test_an_object_that_was_cut_and_went_on_is_one(crew: Crew) -> None:
    agent = crew.agent(
        "Solo",
        [Text(RAIN[:12]), Cut()],
        Text(RAIN[12:]),
        output_schema=Story,
        retries=1,
        delay_between_retries=0,
    )
    output = await agent.arun("Go.")
    assert output.content == Story(title="Rain", pages=3)
