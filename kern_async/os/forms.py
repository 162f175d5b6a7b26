"""The forms of the routes: what their fields mean, and reading them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, cast

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from kern_async.engine.attempt import CancelMode
from kern_async.run.base import RunStatus
from kern_async.run.media import File, Image
from kern_async.run.message import Message

from .problems import field_error


def _from_json(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None


def _none_if_empty(value: object) -> object:
    return None if value == "" else value


Text = Annotated[str | None, BeforeValidator(_none_if_empty)]
JsonObject = Annotated[dict[str, Any] | None, BeforeValidator(_from_json)]
JsonObjects = Annotated[list[dict[str, Any]] | None, BeforeValidator(_from_json)]
Seconds = Annotated[
    Annotated[float, Field(gt=0, allow_inf_nan=False)] | None, BeforeValidator(_none_if_empty)
]


MOST = 10**15
"""The greatest index of an event that anybody may ask for."""


class _Form(BaseModel):
    # The reference's clients send fields that mean nothing here.
    model_config = ConfigDict(extra="ignore")


class Delivery(_Form):
    """How the events or the output of a run are delivered."""

    stream: Annotated[bool, Field(description="server-sent events; else the output as JSON")] = True
    stream_events: Annotated[
        bool, Field(description="all events; else those that start, say something or end")
    ] = True
    background: Annotated[bool, Field(description="go on without a reader; needs a database")] = False
    on_disconnect: Annotated[
        Literal["cancel", "continue"],
        Field(description="what the run does when this request's client leaves before its end"),
    ] = "cancel"
    timeout: Annotated[Seconds, Field(description="seconds, for the run and everything below it")] = None


class RunForm(Delivery):
    """A new run."""

    message: Annotated[str, Field(min_length=1, description="the input")]
    run_id: Annotated[Text, Field(description="chosen by the client, so that it can cancel at any time")] = (
        None
    )
    session_id: Text = None
    user_id: Text = None
    session_state: Annotated[JsonObject, Field(description="JSON object")] = None
    dependencies: Annotated[JsonObject, Field(description="JSON object")] = None
    metadata: Annotated[JsonObject, Field(description="JSON object")] = None
    output_schema: Annotated[JsonObject, Field(description="JSON schema of the answer")] = None
    images: Annotated[JsonObjects, Field(description="JSON list: url or content (base64), mime_type")] = None
    input_files: Annotated[
        JsonObjects, Field(description="JSON list: url or content (base64), mime_type")
    ] = None
    audio: Annotated[JsonObjects, Field(description="not supported")] = None
    videos: Annotated[JsonObjects, Field(description="not supported")] = None


class ContinueForm(Delivery):
    """A run that goes on."""

    requirements: Annotated[
        JsonObjects, Field(description="JSON list of requirements with what was decided")
    ] = None
    tools: Annotated[JsonObjects, Field(description="JSON list of tool calls with what was decided")] = None
    input: Annotated[Text, Field(description="a message before the next model request")] = None
    session_id: Text = None
    user_id: Text = None
    session_state: JsonObject = None
    dependencies: JsonObject = None
    metadata: JsonObject = None
    continue_from: Annotated[Text, Field(description="not supported")] = None
    fork: Annotated[bool, Field(description="not supported")] = False
    regenerate: Annotated[bool, Field(description="not supported")] = False


class ResumeForm(_Form):
    """Reading a run's events from where one left."""

    last_event_index: Annotated[
        int, Field(ge=-1, le=MOST, description="of the last event that was read; -1: all")
    ] = -1
    session_id: Text = None


class CancelManyForm(_Form):
    """Which runs to cancel, and how; what is given must all hold."""

    run_ids: list[str] | None = None
    team_id: Text = None
    agent_id: Text = None
    session_id: Text = None
    user_id: Text = None
    status: Annotated[RunStatus | None, BeforeValidator(_none_if_empty)] = None
    reason: Text = None
    mode: CancelMode = "now"
    wait: bool = False


AnyForm = TypeVar("AnyForm", bound=_Form)


def body_of(form: type[BaseModel], *, files: bool = False, as_json: bool = False) -> dict[str, Any]:
    """What OpenAPI says of a request with this form."""
    as_it_is = form.model_json_schema(ref_template="#/components/schemas/{model}")
    as_it_is.pop("$defs", None)  # other routes have put them there
    schema = dict(as_it_is)
    schema["properties"] = {name: _as_field(field) for name, field in schema["properties"].items()}
    kinds = {"application/x-www-form-urlencoded": {"schema": schema}}
    with_files = schema
    if files:
        upload = {"type": "array", "items": {"type": "string", "format": "binary"}}
        with_files = {**schema, "properties": {**schema["properties"], "files": upload}}
    kinds["multipart/form-data"] = {"schema": with_files}
    if as_json:
        kinds["application/json"] = {"schema": as_it_is}
    return {"requestBody": {"required": bool(schema.get("required")), "content": kinds}}


def _as_field(schema: dict[str, Any]) -> dict[str, Any]:
    """An object in a form is its JSON."""
    kinds = schema.get("anyOf", [])
    if any(kind.get("type") in ("object", "array") for kind in kinds):
        rest = {name: value for name, value in schema.items() if name not in ("anyOf", "default")}
        return {"type": "string", **rest}
    return schema


def checked(form: type[AnyForm], given: Mapping[str, Any]) -> AnyForm:
    """The form with these values.

    Raises:
        RequestValidationError: one is missing or wrong.
    """
    try:
        return form.model_validate(given)
    except ValidationError as error:
        raise RequestValidationError(
            [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
        ) from None


@dataclass(frozen=True)
class Upload:
    """A file that came with a form."""

    content: bytes
    content_type: str | None
    filename: str | None


async def read_form(request: Request, form: type[AnyForm]) -> tuple[AnyForm, list[Upload]]:
    """The form that a request brings, and the files with it.

    Raises:
        RequestValidationError: a field is missing or wrong.
        HTTPException: 400, the body is no form.
    """
    texts, uploads = await raw_form(request)
    return checked(form, dict(texts)), uploads


async def raw_form(request: Request) -> tuple[list[tuple[str, str]], list[Upload]]:
    """The fields of a request's body, and its `files`.

    Raises:
        HTTPException: 400, it is no form.
    """
    try:
        values = (await request.form(**request.app.state.form_limits)).multi_items()
    except UnicodeDecodeError:
        raise HTTPException(400, "The form is not UTF-8") from None
    texts: list[tuple[str, str]] = []
    uploads: list[Upload] = []
    try:
        for name, value in values:
            if isinstance(value, str):
                texts.append((name, value))
            elif name == "files":
                uploads.append(Upload(await value.read(), value.content_type, value.filename))
    finally:
        for _, value in values:
            if isinstance(value, UploadFile):
                value.file.close()
    return texts, uploads


def input_of(form: RunForm, uploads: list[Upload]) -> str | Message:
    """What the run is asked: the message, with the images and files that came with it.

    Raises:
        RequestValidationError: one is not what it should be.
        HTTPException: 400, a kind of media that models are not given.
    """
    if form.audio or form.videos:
        raise HTTPException(400, "Audio and video are not supported; send images or files")
    images = [_media(Image, "images", each) for each in form.images or ()]
    files = [_media(File, "input_files", each) for each in form.input_files or ()]
    for upload in uploads:
        kind = upload.content_type or "application/octet-stream"
        if kind.startswith(("audio/", "video/")):
            raise HTTPException(400, f"{upload.filename!r} is {kind}; send images or files")
        if kind.startswith("image/"):
            images.append(Image(content=upload.content, mime_type=kind))
        else:
            files.append(File(content=upload.content, mime_type=kind, filename=upload.filename))
    if not images and not files:
        return form.message
    return Message(role="user", content=form.message, images=tuple(images), files=tuple(files))


MediaT = TypeVar("MediaT", Image, File)


def _media(kind: type[MediaT], name: str, given: dict[str, Any]) -> MediaT:
    if given.get("filepath"):  # of the server's own disk
        raise field_error(name, "a filepath is not taken from a client; send the content", "filepath")
    known = {key: value for key, value in given.items() if key in kind.model_fields and value is not None}
    try:
        return cast(MediaT, kind.model_validate(known))
    except ValidationError as error:
        raise field_error(name, error.errors()[0]["msg"], given.get("url")) from None
