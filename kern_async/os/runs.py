"""Runs of teams and agents over HTTP: the same handlers for both."""

from __future__ import annotations

import inspect
import re
import uuid
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, cast

import anyio
from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.datastructures import Default
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from kern_async.agent.options import ContinueOptions, RunOptions
from kern_async.db.texts import json_body
from kern_async.engine import stored
from kern_async.engine.asking import drive
from kern_async.engine.attempt import CancelMode
from kern_async.engine.following import EventReader
from kern_async.engine.log import BRIEF
from kern_async.engine.rows import text_of
from kern_async.engine.run import Run
from kern_async.exceptions import ConfigurationError
from kern_async.run.base import BaseEvent, BaseOutput, RunStatus
from kern_async.run.requirement import RunRequirement

from .agent_os import AgentOS, Kind, Target
from .auth import requires
from .caller import Caller, caller_of
from .finding import Found, find_here, find_run
from .forms import MOST, ContinueForm, Delivery, ResumeForm, RunForm, body_of, input_of, read_form
from .frames import notice
from .limits import check_room_for_a_run
from .problems import answers, field_error
from .sse import EventStream

EARLY = 1.0
"""Seconds that a cancel waits for a run whose request is still being received."""

MOMENT = 0.1
"""Seconds that the answer to a cancel waits for the run's end, so that it can nearly always tell it."""

_FRAMES: dict[str, Any] = {
    "itemSchema": {
        "type": "object",
        "properties": {
            "id": {"type": "string", "description": "the event's index"},
            "event": {"type": "string", "description": "its name"},
            "data": {"type": "string", "contentMediaType": "application/json"},
        },
        "required": ["data"],
    }
}
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The run's output, or its events as a stream that ends with the run.",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "text/event-stream": _FRAMES,
        },
    },
    202: {"description": "A background run: `run_id`, `session_id` and its status."},
}
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The run's events.",
        "content": {"text/event-stream": _FRAMES},
    }
}
_OUTPUT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The run's output, so far if it is live.",
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
}
_OUTPUTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The outputs of the runs, in the order in which they began.",
        "content": {"application/json": {"schema": {"type": "array", "items": {"type": "object"}}}},
    }
}


class CancelAnswer(BaseModel):
    """What a cancel came to. `cancelled` is true exactly when the run had not ended and ends CANCELLED."""

    run_id: str
    status: RunStatus
    cancelled: bool


SessionId = Annotated[str | None, Query(description="the run's session, if it must be that one")]
RunId = Annotated[str, Path()]


def _team(team_id: Annotated[str, Path()]) -> None:
    """Document the path of teams' routes."""


def _agent(agent_id: Annotated[str, Path()]) -> None:
    """Document the path of agents' routes."""


def router(agent_os: AgentOS, kind: Kind) -> APIRouter:
    """The run routes of teams, or of agents."""
    here = _Runs(agent_os, kind)
    routes = APIRouter(
        prefix=f"/{kind}s/{{{kind}_id}}/runs",
        tags=[f"{kind}s"],
        dependencies=[Depends(_team if kind == "team" else _agent)],
    )
    read, run = (Depends(requires(f"{kind}s:{verb}")) for verb in ("read", "run"))
    post, get = partial(_add, routes, "POST", run), partial(_add, routes, "GET", read)
    begun = _STREAM | answers(400, 404, 409, 422, 503)
    post("", here.create, begun, body_of(RunForm, files=True))
    post("/{run_id}/continue", here.go_on, begun, body_of(ContinueForm))
    post("/{run_id}/cancel", here.cancel, answers(404, 422, 503))
    post("/{run_id}/resume", here.resume, _EVENTS | answers(400, 404, 422, 503), body_of(ResumeForm))
    get("/{run_id}/events", here.events, _EVENTS | answers(404, 422, 503))
    get("/{run_id}", here.get, _OUTPUT | answers(404, 422, 503))
    get("", here.of_session, _OUTPUTS | answers(404, 422, 503))
    return routes


def _add(
    routes: APIRouter,
    method: str,
    allowed: Any,
    path: str,
    handler: Callable[..., Any],
    responses: dict[int | str, dict[str, Any]],
    body: dict[str, Any] | None = None,
) -> None:
    told, more = (inspect.getdoc(handler) or "").partition("\n\n")[::2]
    routes.add_api_route(
        path,
        handler,
        methods=[method],
        dependencies=[allowed],
        summary=told.rstrip("."),
        description=more,
        responses=responses,
        openapi_extra=body,
        response_model=None if inspect.signature(handler).return_annotation == "Response" else Default(None),
    )


class _Runs:
    """The handlers, for teams or for agents."""

    def __init__(self, agent_os: AgentOS, kind: Kind) -> None:
        self._os = agent_os
        self._kind: Kind = kind

    def _target_id(self, request: Request) -> str:
        return request.path_params[f"{self._kind}_id"]

    async def _find(self, request: Request, run_id: str, session_id: str | None) -> Found:
        target_id = self._target_id(request)
        return await find_run(self._os, self._kind, target_id, run_id, caller_of(request), session_id)

    async def _check_session(self, target: Target, session_id: str | None, caller: Caller) -> None:
        """See that a caller who has only what is his own does not go on with somebody's session."""
        db = target.db
        if db is None or session_id is None or not caller.isolated:
            return
        session = await drive(stored.session_summary(db, session_id), db.store_timeout)
        if session is not None and not caller.owns(session.user_id):
            raise HTTPException(404, "Session not found")

    async def create(self, request: Request) -> Response:
        """Run it, and stream the run's events or answer with its output."""
        target_id = self._target_id(request)
        target = self._os.find_target(self._kind, target_id)
        caller = caller_of(request)
        self._os.check_open()
        with self._os.arrivals.one((self._kind, target_id)):
            form, uploads = await read_form(request, RunForm)
            given = input_of(form, uploads)
            if form.background and target.db is None:
                raise HTTPException(400, "A background run needs a database; give AgentOS(db=...)")
            self._os.check_open()
            options = RunOptions(
                run_id=form.run_id,
                session_id=form.session_id or target.session_id or uuid.uuid4().hex,
                user_id=caller.user_id if caller.isolated else form.user_id or caller.user_id,
                session_state=form.session_state,
                dependencies=form.dependencies,
                metadata=form.metadata,
                output_schema=form.output_schema,
                timeout=form.timeout,
                background=form.background,
            )
            await self._check_session(target, form.session_id, caller)
            check_room_for_a_run(self._os.security.max_concurrent_runs, self._os.coming)
            run = await self._os.begin(partial(target.start_run, given, **options))
        return await _deliver(self._os, run, form, request, after=-1)

    async def go_on(self, run_id: RunId, request: Request) -> Response:
        """Continue a paused, cancelled or failed run.

        It goes on under its run id, with what it has; calls that have finished are not made again.
        """
        target = self._os.find_target(self._kind, self._target_id(request))
        self._os.check_open()
        form, _ = await read_form(request, ContinueForm)
        if form.fork or form.regenerate or form.continue_from:
            raise HTTPException(400, "fork, regenerate and continue_from are not supported; fork the session")
        found = await self._find(request, run_id, form.session_id)
        output = await found.output()
        after = found.run.log.next_index - 1 if found.run is not None else output.event_index
        self._os.check_open()
        options = ContinueOptions(
            run_id=run_id,
            requirements=_decided(output, form),
            input=form.input,
            session_state=form.session_state,
            dependencies=form.dependencies,
            metadata=form.metadata,
            timeout=form.timeout,
        )
        # Without a database an ended run is continued from what it left.
        left = output if target.db is None and output.status is not RunStatus.paused else None
        check_room_for_a_run(self._os.security.max_concurrent_runs, self._os.coming)
        self._os.coming.append(run_id)
        try:
            run = await self._os.begin(partial(target.start_again, left, **options))
        finally:
            self._os.coming.remove(run_id)
        return await _deliver(self._os, run, form, request, after=-1 if after is None else after)

    async def cancel(
        self,
        run_id: RunId,
        request: Request,
        session_id: SessionId = None,
        wait: Annotated[bool, Query(description="answer when the run has settled")] = False,
        reason: Annotated[str | None, Query(description="goes into the terminal event")] = None,
        mode: Annotated[CancelMode, Query(description="how soon")] = "now",
    ) -> CancelAnswer:
        """Cancel a run, or a member of one by its own run id.

        `cancelled` is true exactly when the run had not ended and ends CANCELLED; else nothing changes.
        """
        target_id = self._target_id(request)
        self._os.find_target(self._kind, target_id)
        try:
            found = await self._find(request, run_id, session_id)
        except HTTPException:
            early = await self._cancel_early(request, run_id, session_id, reason, mode)
            if early is None:
                raise
            found, cancelled = early
            return await _answer(found, cancelled=cancelled, mode=mode, wait=wait)
        return await cancel_found(found, reason=reason, mode=mode, wait=wait)

    async def _cancel_early(
        self, request: Request, run_id: str, session_id: str | None, reason: str | None, mode: CancelMode
    ) -> tuple[Found, bool] | None:
        """Cancel a run whose request is still being received, before it begins."""
        target_id, caller = self._target_id(request), caller_of(request)

        def take() -> tuple[Found, bool] | None:
            try:
                found = find_here(self._os, self._kind, target_id, run_id, caller, session_id)
            except HTTPException:  # another's, who has this id
                return None
            if found is None or found.run is None:
                return None
            return found, found.run.cancel("request", reason, mode)

        return await self._os.arrivals.wait_for((self._kind, target_id), take, EARLY)

    async def resume(self, run_id: RunId, request: Request) -> Response:
        """Stream what was missed of a run's events, then what happens."""
        form, _ = await read_form(request, ResumeForm)
        found = await self._find(request, run_id, form.session_id)
        return _stream(self._os, found, form.last_event_index, announced=True)

    async def events(
        self,
        run_id: RunId,
        request: Request,
        session_id: SessionId = None,
        last_event_id: Annotated[
            str | None, Header(description="the `id` of the last event that was read")
        ] = None,
        after: Annotated[
            int,
            Query(ge=-1, le=MOST, description="the same, where no header can be sent", alias="last_event_id"),
        ] = -1,
    ) -> Response:
        """Stream a run's events from the first that was missed, then what happens.

        Each event has the same bytes whenever it is read.
        """
        if last_event_id:
            if not re.fullmatch("-?[0-9]{1,15}", last_event_id):
                message = "it is the id of an event, a whole number"
                raise field_error("last-event-id", message, last_event_id, where="header")
            after = max(-1, int(last_event_id))
        return _stream(self._os, await self._find(request, run_id, session_id), after, announced=False)

    async def get(self, run_id: RunId, request: Request, session_id: SessionId = None) -> Response:
        """A run's output, so far if it is live."""
        return as_response(await (await self._find(request, run_id, session_id)).output())

    async def of_session(
        self,
        request: Request,
        session_id: Annotated[str, Query()],
        status: Annotated[RunStatus | None, Query()] = None,
    ) -> Response:
        """The runs of a session."""
        target_id = self._target_id(request)
        target = self._os.find_target(self._kind, target_id)
        session = await target.aget_session(session_id) if target.db is not None else None
        if session is None or not caller_of(request).owns(session.user_id):
            raise HTTPException(404, "Session not found")
        runs = [run for run in session.runs if getattr(run, f"{self._kind}_id", None) == target_id]
        wanted = [as_json(run) for run in runs if status in (None, run.status)]
        return Response(f"[{','.join(wanted)}]", media_type="application/json")


def as_json(output: BaseOutput) -> str:
    """An output as JSON, whatever its values are; what is no JSON is its `str`."""
    return json_body(text_of(output))


def as_response(output: BaseOutput) -> Response:
    """An output as the body of a response."""
    return Response(as_json(output), media_type="application/json")


async def cancel_found(found: Found, *, reason: str | None, mode: CancelMode, wait: bool) -> CancelAnswer:
    """Cancel a run; the answer is what is so when it is given.

    Raises:
        StoreError: it is known to the database only, which does not answer.
    """
    if found.run is None and found.target.db is None:
        return CancelAnswer(run_id=found.run_id, status=found.status, cancelled=False)
    cancelled = await found.target.acancel_run(found.run_id, reason=reason, mode=mode, wait=wait)
    return await _answer(found, cancelled=cancelled, mode=mode, wait=wait)


async def _answer(found: Found, *, cancelled: bool, mode: CancelMode, wait: bool) -> CancelAnswer:
    """What a cancel of a run came to, once it has ended if it ends soon or that is to be waited for."""
    if cancelled and found.run is not None and (wait or mode == "now"):
        with anyio.move_on_after(None if wait else MOMENT):
            await found.run.wait_ended()
    status = found.status if found.run is not None else (await found.output()).status
    return CancelAnswer(run_id=found.run_id, status=status, cancelled=cancelled)


def _stream(agent_os: AgentOS, found: Found, after: int, *, announced: bool) -> Response:
    run = found.run
    prelude, announce, until = b"", b"", 0
    if announced and run is not None and not run.ended and not run.resting:
        count = run.log.next_index
        missed = max(0, count - 1 - after)
        about = {"run_id": found.run_id, "status": "running", "current_event_count": count}
        if missed:
            words = f"{missed} events happened since index {after}; they follow"
            prelude = notice("catch_up", {**about, "missed_events": missed, "message": words})
        announce = notice("subscribed", {**about, "message": "What follows happens now"})
        until = count
        if not missed:
            prelude, announce = announce, b""
    elif announced:
        prelude = notice(
            "replay",
            {
                "run_id": found.run_id,
                "status": found.status.value,
                "last_event_index_requested": after,
                **({"total_events": run.log.next_index} if run is not None else {}),
                "message": f"The run is {found.status.value}; its events follow",
            },
        )
    return EventStream(
        EventReader(found.target.db, found.run_id, after, run),
        found.root_run_id,
        agent_os.frames,
        agent_os.stream,
        prelude=prelude,
        announce=announce,
        announce_at=until,
        closing=lambda: agent_os.closed,
    )


async def _deliver(agent_os: AgentOS, run: Run, form: Delivery, request: Request, *, after: int) -> Response:
    """The response of a request that began an attempt of a run."""
    attempt = run.attempt
    stays = form.background or form.on_disconnect == "continue"

    def leave() -> None:
        run.cancel("consumer", attempt=attempt)

    def wants(event: BaseEvent) -> bool:
        return (form.stream_events or event.event in BRIEF) and event.run_id not in run.log.hidden

    if form.stream:
        return EventStream(
            EventReader(run.keeper.db if run.keeper else None, run.id, after, run, attempt=attempt.number),
            run.id,
            agent_os.frames,
            agent_os.stream,
            wants=wants,
            on_leave=None if stays else leave,
            closing=lambda: agent_os.closed,
        )
    if form.background:
        output = run.output_of(attempt)  # a cancel may have been quicker than this answer
        begun = RunStatus.running if run.executing else RunStatus.pending
        status = output.status if output is not None else begun
        body = {"run_id": run.id, "session_id": run.session_id, "status": status.value}
        return JSONResponse(body, 202)
    async with anyio.create_task_group() as group:

        async def listen() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            if not stays:
                leave()

        group.start_soon(listen)
        await run.wait_ended(attempt)
        group.cancel_scope.cancel()
    return as_response(cast(BaseOutput, run.output_of(attempt)))


def _decided(output: BaseOutput, form: ContinueForm) -> list[RunRequirement | dict[str, Any]] | None:
    """What was decided: requirements as they are, or tool calls put to the requirements that they are of."""
    try:
        if form.requirements is not None:
            return [RunRequirement.from_dict(_known(given)) for given in form.requirements]
        if not form.tools:
            return None
        waiting = {each.tool_execution.tool_call_id: each for each in output.requirements or ()}
        decided: list[RunRequirement | dict[str, Any]] = []
        for given in form.tools:
            requirement = waiting.get(str(given.get("tool_call_id")))
            if requirement is None:
                raise ConfigurationError(
                    f"no tool call {given.get('tool_call_id')!r} of run {output.run_id!r} waits"
                )
            own = requirement.model_dump(mode="json", exclude_none=True)
            own["tool_execution"] |= {key: value for key, value in given.items() if value is not None}
            decided.append(RunRequirement.from_dict(own))
        return decided
    except ValidationError as error:
        name = "requirements" if form.requirements is not None else "tools"
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise field_error(name, f"{where}: {first['msg']}", None) from None


def _known(given: dict[str, Any]) -> dict[str, Any]:
    """A requirement without what its client left open."""
    execution = given.get("tool_execution")
    if isinstance(execution, dict):
        values = cast(dict[str, Any], execution)
        given = {
            **given,
            "tool_execution": {key: value for key, value in values.items() if value is not None},
        }
    return given
