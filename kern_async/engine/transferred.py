"""The form of an exported session, and the checks of one that somebody hands in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import ConfigDict, Field, StringConstraints, ValidationError

from kern_async.exceptions import ConfigurationError
from kern_async.run.agent import RunOutput
from kern_async.run.data import Data
from kern_async.run.message import Message
from kern_async.run.team import TeamRunOutput, event_reader
from kern_async.run.tool import ToolExecution

FORMAT = "kern_async.session"
VERSION = 1

_DEEPEST = 200  # what is deeper, pydantic does not read again
_DIGITS = 4_000  # nor does Python write a longer number
_SHOWN = 3

_Id = Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\x00]*$")]
_Count = Annotated[int, Field(ge=0, lt=2**31)]
_Seconds = Annotated[float, Field(ge=0, lt=2**53)]
_Kind = Literal["agent", "team"]
_Object = dict[str, Any]
_Where = tuple[str | int, ...]

_OUTPUTS = {"agent": RunOutput, "team": TeamRunOutput}


class _Form(Data):
    model_config = ConfigDict(extra="forbid", strict=True)


class ExportedSession(_Form):
    """A session without its runs."""

    session_id: _Id
    user_id: _Id | None
    kind: _Kind
    entity_id: str
    """Empty if it was made before there was a run of it, and for no agent or team."""
    state: _Object
    created_at: _Seconds
    updated_at: _Seconds
    name: str | None = None  # these two are none of what older releases wrote
    metadata: _Object | None = None


class ExportedRun(_Form):
    """A run, of the session that it is exported with."""

    run_id: _Id
    root_run_id: _Id
    parent_run_id: _Id | None
    user_id: _Id | None
    kind: _Kind
    entity_id: _Id
    created_at: Annotated[int, Field(ge=0, lt=2**53)]
    status: Literal["PENDING", "RUNNING", "COMPLETED", "PAUSED", "CANCELLED", "ERROR"]
    attempt: _Count
    output: _Object | None
    resume: Any
    error_type: str | None
    error: str | None
    messages: list[_Object]
    tools: list[_Object]


class ExportedEvent(_Form):
    """An event of one of the runs."""

    root_run_id: _Id
    event_index: _Count
    run_id: _Id
    event: _Object


class Export(_Form):
    """A whole session."""

    format: str
    version: int
    session: ExportedSession
    runs: list[ExportedRun]
    events: list[ExportedEvent]


def checked(data: Any) -> Export:
    """The export that the data is.

    Raises:
        ConfigurationError: it is none; the message names what is wrong, and where.
    """
    if not isinstance(data, dict):
        raise _wrong((), f"it is {type(data).__name__}, not the dict that an export gave")
    given = cast("dict[Any, Any]", data)
    if given.get("format") != FORMAT:
        raise _wrong(("format",), f"it is {given.get('format')!r}, not {FORMAT!r}")
    version = given.get("version")
    if type(version) is not int or version != VERSION:
        raise _wrong(("version",), f"it is {version!r}; this release reads version {VERSION}")
    _check_json(given, ())
    export = _valid(Export.model_validate, given, ())
    _check_tree(export.runs)
    for place, run in enumerate(export.runs):
        _check_run(run, export.session, ("runs", place))
    _check_events(export)
    return export


def _check_json(value: Any, where: _Where) -> None:
    """Refuse what is no JSON, or what is JSON only for Python."""
    if len(where) > _DEEPEST:
        raise _wrong(where[:3], "it is nested too deep")
    if isinstance(value, dict):
        for key, inner in cast("dict[Any, Any]", value).items():
            if not isinstance(key, str):
                raise _wrong(where, f"its key {key!r} is no text")
            _check_text(key, where)
            _check_json(inner, (*where, key))
    elif isinstance(value, list):
        for place, inner in enumerate(cast("list[Any]", value)):
            _check_json(inner, (*where, place))
    else:
        _check_scalar(value, where)


def _check_scalar(value: Any, where: _Where) -> None:
    if type(value) is str:
        _check_text(value, where)
    elif type(value) is float:
        if not math.isfinite(value):
            raise _wrong(where, f"{value} is no JSON")
    elif type(value) is int:
        if value.bit_length() > _DIGITS * 3:
            raise _wrong(where, "it is a number that is too great")
    elif value is not None and type(value) is not bool:
        raise _wrong(where, f"a {type(value).__name__} is no JSON")


def _check_text(text: str, where: _Where) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _wrong(where, f"{text!r} is no valid Unicode") from None


ValidT = TypeVar("ValidT")


def _valid(read: Callable[[Any], ValidT], value: Any, where: _Where) -> ValidT:
    try:
        return read(value)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
        told = [f"{_place((*where, *problem['loc']))}: {problem['msg']}" for problem in problems[:_SHOWN]]
        raise ConfigurationError(f"this is no exported session: {'; '.join(told)}") from error


def _place(where: _Where) -> str:
    return ".".join(map(str, where)) or "the data"


def _wrong(where: _Where, what: str) -> ConfigurationError:
    return ConfigurationError(f"this is no exported session: {_place(where)}: {what}")


def _check_tree(runs: Sequence[ExportedRun]) -> None:
    """Each run has an id of its own, and its parent, a team's run of the same tree, stands before it.

    In that order they began; so each tree has one root and no circle.
    """
    known: dict[str, ExportedRun] = {}
    for place, run in enumerate(runs):
        where = ("runs", place)
        if run.run_id in known:
            raise _wrong(where, f"there are two runs {run.run_id!r}")
        if run.parent_run_id is None:
            if run.root_run_id != run.run_id:
                raise _wrong(where, f"it has no parent, but root_run_id is {run.root_run_id!r}")
        elif (parent := known.get(run.parent_run_id)) is None:
            raise _wrong(where, f"parent_run_id is {run.parent_run_id!r}, which is no run before it")
        elif parent.root_run_id != run.root_run_id:
            raise _wrong(where, f"root_run_id is {run.root_run_id!r}, its parent's {parent.root_run_id!r}")
        elif parent.kind != "team":
            raise _wrong(where, f"parent_run_id is {parent.run_id!r}, which is no team's run")
        known[run.run_id] = run


def _check_run(run: ExportedRun, session: ExportedSession, where: _Where) -> None:
    if None not in (run.user_id, session.user_id) and run.user_id != session.user_id:
        raise _wrong(where, f"user_id is {run.user_id!r}, the session's {session.user_id!r}")
    if run.output is not None:
        identity = {
            "run_id": run.run_id,
            "parent_run_id": run.parent_run_id,
            "session_id": session.session_id,
            "user_id": run.user_id,
            f"{run.kind}_id": run.entity_id,
        }
        _check_same(run.output, identity, (*where, "output"))
        _valid(
            _OUTPUTS[run.kind].model_validate,
            {"status": run.status, **run.output, **identity},
            (*where, "output"),
        )
    for place, message in enumerate(run.messages):
        _valid(Message.model_validate, message, (*where, "messages", place))
    for place, tool in enumerate(run.tools):
        _valid(ToolExecution.model_validate, tool, (*where, "tools", place))


def _check_events(export: Export) -> None:
    runs = {run.run_id: run for run in export.runs}
    seen: set[tuple[str, int]] = set()
    for place, event in enumerate(export.events):
        where = ("events", place)
        run = runs.get(event.run_id)
        if run is None or run.root_run_id != event.root_run_id:
            raise _wrong(where, f"there is no run {event.run_id!r} with the root {event.root_run_id!r}")
        at = event.root_run_id, event.event_index
        if at in seen:
            raise _wrong(where, f"event_index {event.event_index} of {event.root_run_id!r} is there twice")
        seen.add(at)
        identity = {
            "run_id": event.run_id,
            "parent_run_id": run.parent_run_id,
            "session_id": export.session.session_id,
            "event_index": event.event_index,
        }
        _check_same(event.event, identity, (*where, "event"))
        _valid(event_reader().validate_python, event.event, (*where, "event"))


def _check_same(value: Mapping[str, Any], identity: Mapping[str, Any], where: _Where) -> None:
    """Refuse what says of itself to be something else than where it stands."""
    for name, expected in identity.items():
        if value.get(name, expected) != expected:
            raise _wrong((*where, name), f"it is {value[name]!r}, and should be {expected!r}")
