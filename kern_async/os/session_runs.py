"""The runs of a session over HTTP, and its copy."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.exceptions import HTTPException

from kern_async.db.base import FindRuns
from kern_async.engine import stored
from kern_async.engine.asking import ask
from kern_async.engine.ending import RunOutputs
from kern_async.run.base import RunStatus

from .auth import requires
from .caller import caller_of
from .databases import find_database
from .problems import answers
from .session_forms import Forked, RunPreview, SessionRun, in_json
from .sessions import OfWhom, find_session, hold, not_found

if TYPE_CHECKING:
    from .agent_os import AgentOS, Kind


@dataclass(frozen=True)
class Chosen:
    """Which runs of a session are wanted."""

    created_after: Annotated[float | None, Query(description="Seconds since the epoch.")] = None
    created_before: Annotated[float | None, Query(description="Seconds since the epoch.")] = None
    status: Annotated[list[str] | None, Query(description="Any of these, in any case of letters.")] = None

    def check(self) -> None:
        """See that the statuses exist.

        Raises:
            HTTPException: 400, one of them does not.
        """
        known = [str(status) for status in RunStatus]
        if unknown := [each for each in self.status or () if each.upper() not in known]:
            raise HTTPException(400, f"There is no status {unknown[0]!r}; it is one of {', '.join(known)}")

    def fits(self, run: RunOutputs) -> bool:
        """Whether the run is one of them."""
        return (
            (not self.status or str(run.status) in {each.upper() for each in self.status})
            and (self.created_after is None or run.created_at >= self.created_after)
            and (self.created_before is None or run.created_at <= self.created_before)
        )


ChosenRuns = Annotated[Chosen, Depends()]


def router(agent_os: AgentOS) -> APIRouter:  # noqa: C901 - one handler after the other
    """The routes of sessions' runs, and those that copy a session."""
    routes = APIRouter()
    may_read = [Depends(requires("sessions:read"))]

    async def runs_of(session_id: str, whose: OfWhom, chosen: Chosen, *, messages: bool) -> list[RunOutputs]:
        chosen.check()
        db = await whose.find(agent_os, session_id)
        session = await hold(db, stored.session(db, session_id, events=False, messages=messages))
        if session is None:
            raise not_found()
        return [run for run in session.runs if chosen.fits(run)]

    @routes.get(
        "/sessions/{session_id}/runs",
        tags=["sessions"],
        summary="The runs of a session, members' too, in the order in which they began; without their events",
        response_model=list[SessionRun],
        responses=answers(400, 404, 422, 503),
        dependencies=may_read,
    )
    async def runs(session_id: str, whose: OfWhom, chosen: ChosenRuns) -> Response:
        return in_json(
            [SessionRun.of(run) for run in await runs_of(session_id, whose, chosen, messages=True)]
        )

    @routes.get(
        "/sessions/{session_id}/run-previews",
        tags=["sessions"],
        summary="The runs of a session in short",
        response_model=list[RunPreview],
        responses=answers(400, 404, 422, 503),
        dependencies=may_read,
    )
    async def previews(session_id: str, whose: OfWhom, chosen: ChosenRuns) -> Response:
        return in_json(
            [RunPreview.of(run) for run in await runs_of(session_id, whose, chosen, messages=False)]
        )

    @routes.get(
        "/sessions/{session_id}/runs/{run_id}",
        tags=["sessions"],
        summary="A run of a session",
        response_model=SessionRun,
        responses=answers(400, 404, 422, 503),
        dependencies=may_read,
    )
    async def run(session_id: str, whose: OfWhom, run_id: str) -> Response:
        db = await whose.find(agent_os, session_id)
        output = await hold(db, stored.run_output(db, run_id, session_id))
        if output is None:
            raise HTTPException(404, "Run not found")
        return in_json(SessionRun.of(output, events=True))

    async def fork(kind: Kind, target_id: str, session_id: str, request: Request) -> Forked:
        target = agent_os.find_target(kind, target_id)
        db = target.db or find_database(agent_os, None)
        found = await find_session(db, session_id, caller_of(request))
        if (found.team_id if kind == "team" else found.agent_id) != target_id:
            theirs = FindRuns(
                session_id=session_id, kind=kind, entity_id=target_id, roots=True, bare=True, last=1
            )
            if not await hold(db, ask(db, theirs)):
                raise not_found()
        new_id = await hold(db, stored.fork_session(db, session_id, uuid.uuid4().hex))
        if new_id is None:
            raise not_found()
        return Forked(session_id=new_id, forked_from_session_id=session_id)

    about = "Copy a session of it: its ended and paused runs, under new run ids"

    @routes.post(
        "/teams/{team_id}/sessions/{session_id}/fork",
        tags=["teams"],
        summary=about,
        responses=answers(400, 404, 503),
        dependencies=[Depends(requires("teams:run"))],
    )
    async def fork_of_team(request: Request, team_id: str, session_id: str) -> Forked:
        return await fork("team", team_id, session_id, request)

    @routes.post(
        "/agents/{agent_id}/sessions/{session_id}/fork",
        tags=["agents"],
        summary=about,
        responses=answers(400, 404, 503),
        dependencies=[Depends(requires("agents:run"))],
    )
    async def fork_of_agent(request: Request, agent_id: str, session_id: str) -> Forked:
        return await fork("agent", agent_id, session_id, request)

    return routes
