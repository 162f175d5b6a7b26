"""The FastAPI app of an `AgentOS`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from fastapi import FastAPI

import kern_async

from . import catalog, console, guard, live, problems, runs, session_runs, sessions
from .sse import Abortable

if TYPE_CHECKING:
    from .agent_os import AgentOS


def make_app(agent_os: AgentOS) -> FastAPI:
    """All routes, with their errors as HTTP says them."""
    app = FastAPI(
        title=agent_os.name or "AgentOS",
        description=agent_os.description or "Agents and teams over HTTP, in which stop means stop.",
        version=kern_async.__version__,
        lifespan=agent_os.lifespan,
        form_limits=cast(Any, agent_os.security.form_limits),
    )
    problems.install(app)
    guard.install(app, agent_os.security)
    app.add_middleware(Abortable)
    for routes in (
        catalog.router(agent_os),
        console.router(agent_os),
        sessions.router(agent_os),
        session_runs.router(agent_os),
        live.router(agent_os),
        runs.router(agent_os, "team"),
        runs.router(agent_os, "agent"),
    ):
        # Not include_router: with nothing to add to the routes, it would build each of them a second time.
        app.router.routes.extend(routes.routes)
    return app
