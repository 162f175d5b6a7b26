"""Sessions over HTTP: listed, made, changed and deleted.

A session that is not the caller's is as if it did not exist.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.exceptions import HTTPException

from kern_async.db.base import CountSessions, FindSessions
from kern_async.db.database import BaseDb
from kern_async.engine import stored
from kern_async.engine.asking import T, Talk, drive
from kern_async.exceptions import ConfigurationError, SessionExists
from kern_async.run.session import SessionSummary

from .auth import requires
from .caller import Caller, caller_of
from .databases import find_database
from .problems import answers
from .session_forms import (
    Changes,
    Deletion,
    NewSession,
    Page,
    Renaming,
    SessionDetail,
    SessionInfo,
    SessionType,
    in_json,
    words_of,
)

if TYPE_CHECKING:
    from .agent_os import AgentOS

MOST = 1_000
"""Sessions on a page."""

OfType = Annotated[SessionType | None, Query(alias="type", description="Only sessions of this type.")]
UserId = Annotated[
    str | None, Query(description="Only what is this user's; who may see their own only, need not say it.")
]
DbId = Annotated[str | None, Query(description="The database; by default the server's own.")]


@dataclass(frozen=True)
class Whose:
    """What a request says of a session besides its id."""

    request: Request
    session_type: OfType = None
    user_id: UserId = None
    db_id: DbId = None

    async def find(self, agent_os: AgentOS, session_id: str) -> BaseDb:
        """The session's database.

        Raises:
            HTTPException: 404, there is no such session for the caller.
        """
        db = find_database(agent_os, self.db_id)
        await find_session(db, session_id, caller_of(self.request), self.user_id, self.session_type)
        return db


OfWhom = Annotated[Whose, Depends()]


async def hold(db: BaseDb, talk: Talk[T]) -> T:
    """Hold the talk; each answer may take as long as the database's patience."""
    return await drive(talk, db.store_timeout)


def not_found() -> HTTPException:
    """There is no such session."""
    return HTTPException(404, "Session not found")


async def find_session(
    db: BaseDb,
    session_id: str,
    caller: Caller,
    user_id: str | None = None,
    session_type: SessionType | None = None,
) -> SessionSummary:
    """The session, if it is for the caller to see, and of this user and type where they are given.

    Raises:
        HTTPException: 404, there is none.
    """
    found = await hold(db, stored.session_summary(db, session_id))
    if found is None or not caller.owns(found.user_id):
        raise not_found()
    if user_id and not caller.isolated and found.user_id != user_id:
        raise not_found()
    if session_type not in (None, SessionType.AGENT if found.team_id is None else SessionType.TEAM):
        raise not_found()
    return found


async def _detail(db: BaseDb, session_id: str) -> SessionDetail:
    whole = await hold(db, stored.session(db, session_id, events=False))
    if whole is None:
        raise not_found()
    return SessionDetail.whole(whole)


def _nobody(caller: Caller) -> bool:
    """Whether they may see their own sessions only, and can have none."""
    return caller.isolated and caller.user_id is None


async def _page(db: BaseDb, find: FindSessions) -> list[SessionInfo]:
    found = await hold(db, stored.sessions(db, find))
    unnamed = [each.session_id for each in found if not each.session_name]
    said = await hold(db, stored.openings(db, unnamed)) if unnamed else {}
    return [SessionInfo.of(each, words_of(said.get(each.session_id))) for each in found]


def router(agent_os: AgentOS) -> APIRouter:  # noqa: C901 - one handler after the other
    """The routes of sessions, but for their runs."""
    routes = APIRouter(prefix="/sessions", tags=["sessions"])
    may_read, may_write, may_delete = (
        [Depends(requires(f"sessions:{verb}"))] for verb in ("read", "write", "delete")
    )

    @routes.get(
        "",
        summary="Sessions, page by page",
        response_model=Page,
        responses=answers(400, 404, 422, 503),
        dependencies=may_read,
    )
    async def sessions(
        request: Request,
        *,
        session_type: OfType = None,
        component_id: Annotated[str | None, Query(description="An agent's or team's id.")] = None,
        user_id: UserId = None,
        session_name: Annotated[str | None, Query(description="A part of a given name.")] = None,
        limit: Annotated[int, Query(ge=1, description=f"How many on a page; {MOST:,} at most.")] = 20,
        page: Annotated[int, Query(ge=0, le=10**9, description="Counted from 1.")] = 1,
        sort_by: Literal["created_at", "updated_at"] = "created_at",
        sort_order: Literal["asc", "desc"] = "desc",
        db_id: DbId = None,
    ) -> Response:
        began = time.perf_counter()
        caller, limit, page = caller_of(request), min(limit, MOST), max(page, 1)
        db = find_database(agent_os, db_id)
        of_user = caller.user_id if caller.isolated else user_id or None
        kind = None if session_type is None else session_type.kind
        chosen = CountSessions(
            user_id=of_user, kind=kind, entity_id=component_id or None, name=session_name or None
        )
        find = FindSessions(
            user_id=chosen.user_id,
            kind=chosen.kind,
            entity_id=chosen.entity_id,
            name=chosen.name,
            by=sort_by,
            first=sort_order == "asc",
            limit=limit,
            offset=(page - 1) * limit,
        )
        none = session_type is SessionType.WORKFLOW or _nobody(caller)
        count = 0 if none else await hold(db, stored.count_sessions(db, chosen))
        data = [] if none else await _page(db, find)
        return in_json(
            Page.of(data, page=page, limit=limit, count=count, seconds=time.perf_counter() - began)
        )

    @routes.post(
        "",
        status_code=201,
        summary="Make an empty session",
        response_model=SessionDetail,
        responses=answers(400, 404, 409, 422, 503),
        dependencies=may_write,
    )
    async def create(
        request: Request,
        form: NewSession | None = None,
        session_type: Annotated[SessionType, Query(alias="type")] = SessionType.AGENT,
        db_id: DbId = None,
    ) -> Response:
        caller, form = caller_of(request), form or NewSession()
        if session_type is SessionType.WORKFLOW:
            raise HTTPException(400, "There are no workflows here: type is agent or team")
        if _nobody(caller):
            raise HTTPException(403, "The token names no user whose session it would be")
        db = find_database(agent_os, db_id)
        session_id = form.session_id or uuid.uuid4().hex
        making = stored.create_session(
            db,
            session_id=session_id,
            kind=session_type.kind,
            entity_id=form.team_id if session_type is SessionType.TEAM else form.agent_id,
            user_id=caller.user_id if caller.isolated else form.user_id or caller.user_id,
            name=form.session_name,
            metadata=form.metadata,
            state=form.session_state,
        )
        try:
            await hold(db, making)
        except SessionExists:
            raise HTTPException(409, "The session_id is in use; leave it out to get a new one") from None
        return in_json(await _detail(db, session_id), 201)

    @routes.delete(
        "",
        status_code=204,
        summary="Delete sessions",
        description="Those that do not exist are passed over. One with a live run stays, and the answer is 409.",
        responses=answers(400, 404, 409, 422, 503),
        dependencies=may_delete,
    )
    async def delete_several(
        request: Request, form: Deletion, user_id: UserId = None, db_id: DbId = None
    ) -> Response:
        if form.session_types is not None and len(form.session_types) != len(form.session_ids):
            raise HTTPException(400, "session_ids and session_types are not of the same length")
        caller, db = caller_of(request), find_database(agent_os, db_id)
        busy: list[str] = []
        for session_id in dict.fromkeys(form.session_ids):
            try:
                await find_session(db, session_id, caller, user_id)
            except HTTPException:
                continue
            try:
                await hold(db, stored.delete_session(db, session_id))
            except ConfigurationError as error:
                busy.append(str(error))
        if busy:
            raise HTTPException(409, "; ".join(busy))
        return Response(status_code=204)

    @routes.get(
        "/{session_id}",
        summary="A session with its conversation",
        response_model=SessionDetail,
        responses=answers(400, 404, 422, 503),
        dependencies=may_read,
    )
    async def session(session_id: str, whose: OfWhom) -> Response:
        return in_json(await _detail(await whose.find(agent_os, session_id), session_id))

    @routes.patch(
        "/{session_id}",
        summary="Change a session",
        description="What is given takes the place of what is there, `session_state` as a whole.",
        response_model=SessionDetail,
        responses=answers(400, 404, 422, 503),
        dependencies=may_write,
    )
    async def update(session_id: str, whose: OfWhom, form: Changes) -> Response:
        db = await whose.find(agent_os, session_id)
        changing = stored.update_session(
            db, session_id, name=form.session_name, metadata=form.metadata, state=form.session_state
        )
        if form.any and not await hold(db, changing):
            raise not_found()
        return in_json(await _detail(db, session_id))

    @routes.post(
        "/{session_id}/rename",
        summary="Name a session",
        response_model=SessionDetail,
        responses=answers(400, 404, 422, 503),
        dependencies=may_write,
    )
    async def rename(session_id: str, whose: OfWhom, form: Renaming) -> Response:
        return await update(session_id, whose, Changes(session_name=form.session_name))

    @routes.delete(
        "/{session_id}",
        status_code=204,
        summary="Delete a session",
        responses=answers(400, 404, 409, 422, 503),
        dependencies=may_delete,
    )
    async def delete(session_id: str, whose: OfWhom) -> Response:
        db = await whose.find(agent_os, session_id)
        try:
            deleted = await hold(db, stored.delete_session(db, session_id))
        except ConfigurationError as error:
            raise HTTPException(409, str(error)) from error
        if not deleted:
            raise not_found()
        return Response(status_code=204)

    return routes
