"""Sessions and their runs as HTTP says them, and what is sent to change them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self, cast

from fastapi import Response
from pydantic import AfterValidator, BaseModel, Field

from kern_async.engine.ending import RunOutputs
from kern_async.engine.rows import text_of
from kern_async.run.base import CancellationStage, CancelledBy, RunMetrics, RunStatus
from kern_async.run.message import Message
from kern_async.run.requirement import RunRequirement
from kern_async.run.session import Session, SessionSummary
from kern_async.run.tool import ToolExecution

PREVIEW = 280
"""Characters of a preview, and of a name that is made of what was asked."""

_LONGEST = 1_000
_LAST = 253_402_300_799  # later, there are no dates; an imported session may say what it likes
_DEEPEST = 200  # JSON that is deeper cannot be read again everywhere


class SessionType(StrEnum):
    """Whose session it is. There are no workflows here, so there is no session of one."""

    AGENT = "agent"
    TEAM = "team"
    WORKFLOW = "workflow"

    @property
    def kind(self) -> Literal["agent", "team"]:
        """The same, for what there is."""
        return "team" if self is SessionType.TEAM else "agent"


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("it has a NUL character in it")
    return text


def _plain_json(value: dict[str, Any]) -> dict[str, Any]:
    level: list[Any] = [value]
    for _ in range(_DEEPEST):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner += [*cast("dict[str, Any]", each), *cast("dict[str, Any]", each).values()]
            elif isinstance(each, list):
                inner += cast("list[Any]", each)
            elif isinstance(each, str):
                _check_unicode(each)
            elif isinstance(each, float) and not math.isfinite(each):
                raise ValueError(f"{each} is no JSON")
        if not inner:
            return value
        level = inner
    raise ValueError("it is nested too deep")


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("it has a text that is no valid Unicode") from None


Id = Annotated[str, Field(min_length=1, max_length=_LONGEST), AfterValidator(_no_nul)]
Name = Annotated[str, Field(max_length=_LONGEST), AfterValidator(_no_nul)]
Json = Annotated[dict[str, Any], AfterValidator(_plain_json)]


# What is sent.


class NewSession(BaseModel):
    """A session that has no run yet."""

    session_id: Id | None = None
    session_name: Name | None = None
    session_state: Json | None = None
    metadata: Json | None = None
    user_id: Id | None = None
    agent_id: Id | None = None
    team_id: Id | None = None


class Changes(BaseModel):
    """What is to change of a session."""

    session_name: Name | None = None
    session_state: Json | None = None
    metadata: Json | None = None

    @property
    def any(self) -> bool:
        """Whether anything is."""
        return any(value is not None for value in (self.session_name, self.session_state, self.metadata))


class Renaming(BaseModel):
    """A session's new name."""

    session_name: Annotated[Name, Field(min_length=1)]


class Deletion(BaseModel):
    """Sessions that are to go. Their types are not needed."""

    session_ids: list[str] = Field(min_length=1, max_length=_LONGEST)
    session_types: list[SessionType] | None = None


# What is answered.


class SessionInfo(BaseModel):
    """A session without its conversation.

    One that was given no name is called by what its first run was asked.
    """

    session_id: str
    session_name: str
    session_type: Literal["agent", "team"]
    session_state: dict[str, Any]
    user_id: str | None = None
    agent_id: str | None = None
    team_id: str | None = None
    metadata: dict[str, Any] | None = None
    created_at: datetime
    updated_at: datetime
    run_count: int

    @classmethod
    def of(cls, session: SessionSummary, opening: str) -> Self:
        """The session, and what it is called if it has no name."""
        return cls(**_fields(session, opening), run_count=session.run_count)


class Meta(BaseModel):
    """Which page of how many."""

    page: int
    limit: int
    total_pages: int
    total_count: int
    search_time_ms: float


class Page(BaseModel):
    """A page of a list of sessions."""

    data: list[SessionInfo]
    meta: Meta

    @classmethod
    def of(cls, data: list[SessionInfo], *, page: int, limit: int, count: int, seconds: float) -> Self:
        """The page, of so many sessions in all; they took so many seconds to find."""
        meta = Meta(
            page=page,
            limit=limit,
            total_pages=-(-count // limit),
            total_count=count,
            search_time_ms=round(seconds * 1000, 3),
        )
        return cls(data=data, meta=meta)


class SessionDetail(SessionInfo):
    """A session with its conversation, without members' and system messages."""

    agent_session_id: str | None = None
    total_tokens: int
    metrics: RunMetrics
    chat_history: list[Message]

    @classmethod
    def whole(cls, session: Session) -> Self:
        """The session with what its runs have said and used."""
        roots = [run for run in session.runs if run.parent_run_id is None]
        metrics = RunMetrics()
        for run in roots:
            metrics.add(run.metrics)
        return cls(
            **_fields(session, words_of(roots[0]) if roots else ""),
            run_count=len(roots),
            agent_session_id=None if session.team_id is not None else session.session_id,
            total_tokens=metrics.total_tokens,
            metrics=metrics,
            chat_history=session.get_messages(),
        )


def _fields(session: Session | SessionSummary, opening: str) -> dict[str, Any]:
    return {
        "session_id": session.session_id,
        "session_name": session.session_name or opening[:PREVIEW],
        "session_type": "agent" if session.team_id is None else "team",
        "session_state": session.session_state,
        "user_id": session.user_id,
        "agent_id": session.agent_id,
        "team_id": session.team_id,
        "metadata": session.metadata,
        "created_at": _time(session.created_at),
        "updated_at": _time(session.updated_at),
    }


class RunPreview(BaseModel):
    """A run in short; its texts are cut off."""

    run_id: str
    parent_run_id: str | None = None
    agent_id: str | None = None
    team_id: str | None = None
    user_id: str | None = None
    status: RunStatus
    run_input: str | None = None
    content_preview: str | None = None
    created_at: datetime

    @classmethod
    def of(cls, run: RunOutputs) -> Self:
        """The run's preview."""
        content = None if run.content is None else _text(run.content)[:PREVIEW]
        return cls(**_who(run), run_input=words_of(run)[:PREVIEW], content_preview=content)


class SessionRun(BaseModel):
    """A run of a session. `events` has none with pieces of text: they are in `content`."""

    run_id: str
    parent_run_id: str | None = None
    agent_id: str | None = None
    agent_name: str | None = None
    team_id: str | None = None
    team_name: str | None = None
    user_id: str | None = None
    status: RunStatus
    cancellation_stage: CancellationStage | None = None
    cancelled_by: CancelledBy | None = None
    reason: str | None = None
    error: str | None = None
    error_type: str | None = None
    run_input: str
    content: str | dict[str, Any] | None = None
    run_response_format: Literal["text", "json"]
    reasoning_content: str | None = None
    metrics: RunMetrics
    metadata: dict[str, Any] | None = None
    messages: list[Message]
    tools: list[ToolExecution]
    requirements: list[RunRequirement] | None = None
    events: list[dict[str, Any]] | None = None
    session_state: dict[str, Any] | None = None
    created_at: datetime
    forked_from_run_id: str | None = None
    forked_from_session_id: str | None = None

    @classmethod
    def of(cls, run: RunOutputs, *, events: bool = False) -> Self:
        """The run, and its events if they are wanted."""
        kept = [event.to_dict() for event in run.events or ()] if events else None
        content = run.content
        return cls.model_construct(
            **_who(run),
            agent_name=getattr(run, "agent_name", None),
            team_name=getattr(run, "team_name", None),
            cancellation_stage=run.cancellation_stage,
            cancelled_by=run.cancelled_by,
            reason=run.reason,
            error=run.error,
            error_type=run.error_type,
            run_input=words_of(run),
            content=content if content is None or isinstance(content, dict) else _text(content),
            run_response_format="text" if run.content_type == "str" else "json",
            reasoning_content=run.reasoning_content,
            metrics=run.metrics,
            metadata=run.metadata,
            messages=run.messages,
            tools=run.tools,
            requirements=run.requirements,
            events=None if kept is None else [event for event in kept if not _is_piece(event)],
            session_state=run.session_state,
            forked_from_run_id=run.forked_from_run_id,
            forked_from_session_id=run.forked_from_session_id,
        )


class Forked(BaseModel):
    """The copy of a session."""

    session_id: str
    forked_from_session_id: str


def _who(run: RunOutputs) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "parent_run_id": run.parent_run_id,
        "agent_id": getattr(run, "agent_id", None),
        "team_id": getattr(run, "team_id", None),
        "user_id": run.user_id,
        "status": run.status,
        "created_at": _time(run.created_at),
    }


def _is_piece(event: dict[str, Any]) -> bool:
    return event["event"].removeprefix("Team") in ("RunContent", "ReasoningContentDelta")


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(min(seconds, _LAST), UTC)


def _text(value: Any) -> str:
    """Text as it is, anything else as JSON."""
    if isinstance(value, BaseModel):
        return text_of(value)
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def words_of(asked: Any) -> str:
    """What a run was asked, as text: of messages the first one of the user's."""
    if isinstance(asked, RunOutputs):
        asked = None if asked.input is None else asked.input.input_content
    if asked is None:
        return ""
    if isinstance(asked, BaseModel):
        asked = asked.model_dump(mode="json", exclude_none=True, fallback=str)
    messages: Sequence[Any] = cast("list[Any]", asked) if isinstance(asked, list) else [asked]
    for each in messages:
        message = each.model_dump(exclude_none=True) if isinstance(each, Message) else each
        if isinstance(message, dict) and cast("dict[str, Any]", message).get("role") == "user":
            return str(cast("dict[str, Any]", message).get("content") or "")
    return _text(asked)


def in_json(answer: BaseModel | Sequence[BaseModel], status: int = 200) -> Response:
    """The answer, also where a value in it has no proper JSON: what runs have kept may be anything."""
    text = text_of(answer) if isinstance(answer, BaseModel) else f"[{','.join(map(text_of, answer))}]"
    return Response(text, status, media_type="application/json")
