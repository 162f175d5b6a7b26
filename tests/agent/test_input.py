"""Every kind of input, as the provider receives it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from kern_async.exceptions import ConfigurationError
from kern_async.run.agent import RunOutput
from kern_async.run.base import RunStatus
from kern_async.run.media import File, Image
from kern_async.run.message import Message

from .crew import Crew


class Order(BaseModel):
    dish: str
    count: int


PIXEL = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("Hello.", "Hello."),
        (Message(role="user", content="Hello."), "Hello."),
        ({"dish": "süß", "count": 2}, '{"dish": "süß", "count": 2}'),
        (Order(dish="soup", count=2), '{"dish":"soup","count":2}'),
    ],
    ids=["text", "message", "dict", "object"],
)
async def test_an_input_is_a_user_message(any_crew: Crew, given: Any, text: str) -> None:
    output = await any_crew.agent().arun(given)
    (item,) = any_crew.requests()[0].input
    assert (item["role"], item["content"]) == ("user", text)
    assert output.input is not None
    assert output.input.input_content == given


async def test_a_list_of_messages_is_the_conversation(any_crew: Crew) -> None:
    given = [
        Message(role="user", content="What is 1 + 1?"),
        Message(role="assistant", content="2"),
        Message(role="user", content="Why?"),
    ]
    output = await any_crew.agent().arun(given)
    request = any_crew.requests()[0]
    assert [item["role"] for item in request.input] == ["user", "assistant", "user"]
    assert request.text == "What is 1 + 1?\n2\nWhy?"
    assert len(given) == 3, "the caller's list is the caller's"
    assert len(output.messages) == 4


@pytest.mark.parametrize("source", ["url", "content", "filepath"])
async def test_an_image_goes_to_the_provider_as_a_part(any_crew: Crew, source: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(PIXEL)
    image = {
        "url": Image(url="https://example.org/picture.png"),
        "content": Image(content=PIXEL),
        "filepath": Image(filepath=path),
    }[source]
    output = await any_crew.agent().arun(Message(role="user", content="What is it?", images=(image,)))
    assert output.status is RunStatus.completed
    (item,) = any_crew.requests()[0].input
    text, picture = item["content"]
    assert text["text"] == "What is it?"
    told = picture["image_url"]
    told = told["url"] if isinstance(told, dict) else told
    inline = f"data:image/png;base64,{base64.b64encode(PIXEL).decode()}"
    assert told == ("https://example.org/picture.png" if source == "url" else inline)


async def test_a_file_goes_to_the_provider_as_a_part(any_crew: Crew) -> None:
    file = File(content=b"%PDF", filename="menu.pdf")
    await any_crew.agent().arun(Message(role="user", content="Read it.", files=(file,)))
    (item,) = any_crew.requests()[0].input
    told = item["content"][1]
    told = told.get("file", told)
    assert told["filename"] == "menu.pdf"
    assert told["file_data"].startswith("data:application/pdf;base64,")


async def test_an_image_that_cannot_be_read_is_the_runs_error(crew: Crew, tmp_path: Path) -> None:
    missing = Image(filepath=tmp_path / "nothing.png")
    output = await crew.agent().arun(Message(role="user", content="What is it?", images=(missing,)))
    assert (output.status, output.error_type) == (RunStatus.error, "ConfigurationError")
    assert "nothing.png" in str(output.error)
    assert crew.requests() == []


@pytest.mark.parametrize("media", ["audio", "videos"])
def test_other_media_are_refused_by_name(media: str) -> None:
    with pytest.raises(ValidationError, match=media):
        Message.model_validate({"role": "user", "content": "Listen.", media: [b"..."]})


@pytest.mark.parametrize(
    "given",
    [None, 3, b"bytes", ("a", "b"), ["text"], [Message(role="user", content="a"), "b"], object()],
    ids=["none", "number", "bytes", "tuple", "texts", "mixed", "object"],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_any_other_input_is_refused_at_the_call(crew: Crew, given: Any, stream: bool) -> None:
    with pytest.raises(ConfigurationError, match=r"the input is .*Message"):
        crew.agent().arun(given, stream=stream)


@pytest.mark.parametrize(
    "given",
    [
        "Hello.",
        Message(role="user", content="Hello.", images=(Image(content=PIXEL),)),
        [Message(role="user", content="Hello.")],
        {"dish": "soup"},
    ],
    ids=["text", "message", "messages", "dict"],
)
async def test_an_output_keeps_its_input_through_json(crew: Crew, given: Any) -> None:
    output = await crew.agent().arun(given)
    again = RunOutput.from_dict(json.loads(output.to_json()))
    assert again.to_dict() == output.to_dict()
    assert again.input is not None
    assert type(again.input.input_content) is type(given)
    assert [list(m.images) for m in again.messages] == [list(m.images) for m in output.messages]


@pytest.mark.parametrize("other", ["audio", "videos"])
def test_media_that_no_model_here_takes_are_named(other: str) -> None:
    with pytest.raises(ValueError, match=f"images and files to the model, no {other}"):
        Message.model_validate({"role": "user", "content": "hear", other: ["x"]})
