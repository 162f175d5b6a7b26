"""What the provider receives for each keyword that shapes the prompt."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from kern_async.run.message import Message
from kern_async.testing import Text
from kern_async.tools import Toolkit

from .crew import Crew


async def instructions(crew: Crew, **options: Any) -> str:
    await crew.agent(**options).arun("Hello.")
    return crew.requests()[0].instructions


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"description": "You tell stories."}, "You tell stories."),
        ({"role": "storyteller"}, "Your role: storyteller"),
        ({"instructions": "Be brief."}, "Be brief."),
        ({"instructions": ["Be brief."]}, "Be brief."),
        ({"instructions": ["Be brief.", "Be kind."]}, "- Be brief.\n- Be kind."),
        ({"markdown": True}, "Write your answer in Markdown."),
        ({"add_name_to_context": True}, "Your name is Solo."),
        ({"expected_output": "three sentences"}, "Expected output: three sentences"),
        ({"additional_context": "It is raining."}, "It is raining."),
        (
            {"session_state": {"count": 3}, "add_session_state_to_context": True},
            'Session state: {"count": 3}',
        ),
        ({"tools": [Toolkit(instructions="Search twice.")]}, "Search twice."),
        ({"system_message": "Only this."}, "Only this."),
    ],
)
async def test_the_system_message_says(crew: Crew, options: dict[str, Any], said: str) -> None:
    assert await instructions(crew, **options) == said


async def test_the_parts_of_the_system_message_stand_in_their_order(any_crew: Crew) -> None:
    told = await instructions(
        any_crew,
        description="D",
        role="R",
        instructions="I",
        expected_output="E",
        additional_context="A",
    )
    assert told == "D\n\nYour role: R\n\nI\n\nExpected output: E\n\nA"
    assert any_crew.requests()[0].last_text == "Hello."


async def test_a_system_message_takes_the_place_of_all_else(crew: Crew) -> None:
    assert await instructions(crew, system_message="Only this.", instructions="Not this.") == "Only this."


async def test_without_anything_to_say_there_is_no_system_message(any_crew: Crew) -> None:
    assert await instructions(any_crew) == ""
    assert [item["role"] for item in any_crew.requests()[0].input] == ["user"]


async def test_the_time_is_told_with_its_zone(crew: Crew) -> None:
    told = await instructions(crew, add_datetime_to_context=True)
    found = re.fullmatch(r"The time is (\S+)\.", told)
    assert found
    assert abs(datetime.now(UTC) - datetime.fromisoformat(found[1])) < timedelta(minutes=1)


async def test_markdown_is_not_asked_for_where_the_answer_is_an_object(crew: Crew) -> None:
    class Story(BaseModel):
        title: str

    crew.script("Solo", Text('{"title": "Rain"}'))
    assert "Markdown" not in await instructions(crew, markdown=True, output_schema=Story)


async def test_earlier_messages_stand_before_the_input(any_crew: Crew) -> None:
    agent = any_crew.agent(
        instructions="Be brief.",
        introduction="I am here.",
        additional_input=["One.", Message(role="assistant", content="Two.")],
    )
    output = await agent.arun("Three.")
    conversation = [item for item in any_crew.requests()[0].input if item["role"] != "system"]
    assert [item["role"] for item in conversation] == ["user", "assistant", "assistant", "user"]
    assert any_crew.requests()[0].text.splitlines() == ["Be brief.", "One.", "Two.", "I am here.", "Three."]
    assert [m.content for m in output.messages[1:-1]] == ["One.", "Two.", "I am here.", "Three."]


async def test_a_key_in_braces_is_filled_in_from_state_then_dependencies_then_metadata(crew: Crew) -> None:
    agent = crew.agent(
        instructions="{who} {where} {when} {unknown} {'json': 1} {}",
        session_state={"who": "state"},
        dependencies={"who": "dependency", "where": "dependency"},
        metadata={"who": "metadata", "where": "metadata", "when": "metadata"},
    )
    await agent.arun("Hello {who}.")
    request = crew.requests()[0]
    assert request.instructions == "state dependency metadata {unknown} {'json': 1} {}"
    assert request.last_text == "Hello {who}.", "the user's words are the user's"


async def test_values_of_a_run_come_before_those_of_its_agent(crew: Crew) -> None:
    agent = crew.agent(
        instructions="{a} {b} {c} {d}",
        session_state={"a": "old"},
        dependencies={"b": "old", "d": "kept"},
        metadata={"c": "old"},
    )
    output = await agent.arun(
        "Go.", session_state={"a": "new"}, dependencies={"b": "new"}, metadata={"c": "new"}
    )
    assert crew.requests()[0].instructions == "new new new kept"
    assert output.metadata == {"c": "new"}


@pytest.mark.parametrize("choice", ["auto", "none", "required"])
async def test_a_tool_choice_goes_to_the_provider(any_crew: Crew, choice: str) -> None:
    def look() -> str:
        return "seen"

    await any_crew.agent(tools=[look], tool_choice=choice).arun("Go.")
    assert any_crew.requests()[0].body["tool_choice"] == choice


async def test_a_tools_name_as_tool_choice_asks_for_that_tool(any_crew: Crew) -> None:
    def look() -> str:
        return "seen"

    await any_crew.agent(tools=[look], tool_choice="look").arun("Go.")
    choice = any_crew.requests()[0].body["tool_choice"]
    assert choice.get("function", choice)["name"] == "look"


async def test_tools_are_told_with_their_schema(any_crew: Crew) -> None:
    def look(where: str, closely: bool = False) -> str:
        """Look at something.

        Args:
            where: The place.
            closely: With a lens.
        """
        return f"{where} {closely}"

    await any_crew.agent(tools=[look]).arun("Go.")
    (tool,) = any_crew.requests()[0].tools
    told = tool.get("function", tool)
    assert (told["name"], told["description"]) == ("look", "Look at something.")
    assert told["parameters"]["required"] == ["where"]
    assert told["parameters"]["properties"]["where"]["description"] == "The place."
