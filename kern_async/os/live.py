"""The runs that are live now, as trees, and cancelling many of them."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from kern_async.db.texts import plain
from kern_async.engine import registry
from kern_async.engine.run import Run
from kern_async.metrics import RunMetrics
from kern_async.run.base import RunStatus
from kern_async.run.tool import ToolExecution

from .agent_os import AgentOS
from .caller import Caller, caller_of
from .finding import belongs, status_of
from .forms import CancelManyForm, body_of, checked, raw_form
from .problems import answers, field_error
from .runs import MOMENT, CancelAnswer

SHOWN = 2_000
"""Characters of a run's text, the last ones."""


class LiveTool(BaseModel):
    """A tool call of a live run. `status`: running, waiting (for somebody), done or error."""

    tool_call_id: str
    tool_name: str
    tool_args: dict[str, Any]
    status: str


class LiveRun(BaseModel):
    """A run of a live tree, with its members' runs, those that have ended included.

    `age` is in seconds; `content` is the end of its text so far; `requirements` says how many decisions it waits for.
    """

    run_id: str
    parent_run_id: str | None
    kind: str
    id: str
    name: str | None
    status: RunStatus
    cancelling: bool
    session_id: str
    user_id: str | None
    created_at: int
    age: float
    content: str | None
    metrics: RunMetrics
    tools: list[LiveTool]
    requirements: int
    members: list[LiveRun]


class CancelManyAnswer(BaseModel):
    """What a cancel of many came to: how many of them were live and end CANCELLED, and each one's answer."""

    cancelled: int
    runs: list[CancelAnswer]


def router(agent_os: AgentOS) -> APIRouter:
    """`/runs`: what is live in this server's process, of its agents and teams."""
    routes = APIRouter(prefix="/runs", tags=["runs"])

    @routes.get("", summary="The live runs, as trees", responses=answers(422))
    async def get(
        request: Request,
        team_id: Annotated[str | None, Query()] = None,
        agent_id: Annotated[str | None, Query()] = None,
        session_id: Annotated[str | None, Query()] = None,
        user_id: Annotated[str | None, Query()] = None,
        status: Annotated[RunStatus | None, Query()] = None,
    ) -> list[LiveRun]:
        wanted = CancelManyForm(
            team_id=team_id, agent_id=agent_id, session_id=session_id, user_id=user_id, status=status
        )
        return [_shown(run) for run in _live(agent_os, caller_of(request), "read") if _fits(run, wanted)]

    @routes.post(
        "/cancel",
        summary="Cancel the live runs that a filter names",
        responses=answers(400, 422, 503),
        openapi_extra=body_of(CancelManyForm, as_json=True),
    )
    async def cancel(request: Request) -> CancelManyAnswer:
        form = checked(CancelManyForm, await _given(request))
        if not any((form.run_ids, form.team_id, form.agent_id, form.session_id, form.user_id, form.status)):
            raise field_error(
                "run_ids",
                "a filter is needed: run_ids, team_id, agent_id, session_id, user_id or status",
                None,
            )
        chosen = [
            run
            for root in _live(agent_os, caller_of(request), "run")
            if _fits(root, form)
            for run in _named(root, form.run_ids)
        ]
        cancelled = [run.cancel("request", form.reason, form.mode) for run in chosen]
        if form.wait or form.mode == "now":
            with anyio.move_on_after(None if form.wait else MOMENT):
                for run, ends in zip(chosen, cancelled, strict=True):
                    if ends:
                        await run.wait_ended()
        return CancelManyAnswer(
            cancelled=sum(cancelled),
            runs=[
                CancelAnswer(run_id=run.id, status=status_of(run), cancelled=ends)
                for run, ends in zip(chosen, cancelled, strict=True)
            ],
        )

    _ = get, cancel
    return routes


async def _given(request: Request) -> dict[str, Any]:
    """What a request says in its query and its body, be that JSON or a form."""
    given: dict[str, Any] = dict(request.query_params)
    many = request.query_params.getlist("run_ids")
    if request.headers.get("content-type", "").partition(";")[0].strip() == "application/json":
        try:
            body = json.loads(await request.body() or b"{}")
        except (ValueError, RecursionError):
            raise HTTPException(400, "The body is not JSON") from None
        if not isinstance(body, dict):
            raise HTTPException(400, "The body is no JSON object")
        given |= body
    else:
        texts, _ = await raw_form(request)
        given |= dict(texts)
        many += [value for name, value in texts if name == "run_ids"]
    if many:
        given["run_ids"] = [each for text in many for each in text.split(",") if each]
    return given


def _live(agent_os: AgentOS, caller: Caller, verb: str) -> list[Run]:
    """The live root runs of the server's agents and teams that the caller may read or run."""
    found: list[Run] = []
    for run in registry.live_runs():
        if run.parent is not None or run.ended or not caller.owns(run.user_id):
            continue
        kind, target_id = run.owner.kind, run.owner.id
        targets = agent_os.teams if kind == "team" else agent_os.agents
        if target_id in targets and caller.may(f"{kind}s:{verb}", target_id):
            found.append(run)
    return sorted(found, key=lambda run: run.began)


def _named(root: Run, run_ids: list[str] | None) -> list[Run]:
    """The root, or those of its tree that are named, whose ends do not end one another."""
    if not run_ids or root.id in run_ids:
        return [root]
    named = [run for run in root.below() if run.id in run_ids]
    return [run for run in named if not any(above in named for above in run.lineage() if above is not run)]


def _fits(run: Run, wanted: CancelManyForm) -> bool:
    below = {run.id, *(each.id for each in run.below())} if wanted.run_ids else set[str]()
    return (
        (not wanted.run_ids or not below.isdisjoint(wanted.run_ids))
        and (wanted.team_id is None or belongs(run, "team", wanted.team_id))
        and (wanted.agent_id is None or belongs(run, "agent", wanted.agent_id))
        and wanted.session_id in (None, run.session_id)
        and wanted.user_id in (None, run.user_id)
        and wanted.status in (None, status_of(run))
    )


def _shown(run: Run) -> LiveRun:
    text = plain("".join(run.text[-SHOWN:])[-SHOWN:])
    return LiveRun(
        run_id=run.id,
        parent_run_id=run.parent.id if run.parent is not None else None,
        kind=run.owner.kind,
        id=run.owner.id,
        name=run.owner.name,
        status=status_of(run),
        cancelling=run.cancelling and not run.ended,
        session_id=run.session_id,
        user_id=run.user_id,
        created_at=run.created_at,
        age=round(time.monotonic() - run.began, 3),
        content=text or None,
        metrics=run.metrics,
        tools=[_tool(run, tool) for tool in list(run.tools)],
        requirements=len([each for each in run.requirements.values() if not each.is_resolved()]),
        members=[_shown(member) for member in list(run.children)],
    )


def _tool(run: Run, tool: ToolExecution) -> LiveTool:
    if tool.tool_call_error:
        status = "error"
    elif tool.is_paused:
        status = "waiting"
    else:
        status = "running" if tool.tool_call_id in run.calls else "done"
    return LiveTool(
        tool_call_id=tool.tool_call_id, tool_name=tool.tool_name, tool_args=tool.tool_args, status=status
    )
