"""`AgentOS`: agents and teams as an HTTP server, or as a part of somebody's own."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Unpack

import anyio
from starlette.exceptions import HTTPException

from kern_async.agent import Agent
from kern_async.agent.arguments import check_seconds, slug
from kern_async.db.database import BaseDb
from kern_async.engine.observe import log
from kern_async.engine.run import Run
from kern_async.exceptions import ConfigurationError
from kern_async.team import Team

from .frames import AllFrames
from .roster import Arrivals, Roster
from .security import Security, SecurityOptions, check_bind
from .sse import StreamSettings

if TYPE_CHECKING:
    from fastapi import FastAPI

Kind = Literal["agent", "team"]
Target = Agent | Team

_MARGIN = 1.0
_AGAIN = 0.005
"""Seconds until another look at what is live."""

_REASON = "the server is shutting down"


OPEN: set[AgentOS] = set()
"""Those whose lifespan is open in this process: an app that is named to `serve` may have another one in it."""


class AgentOS:
    """Agents and teams over HTTP, with the reference's routes and forms.

    `get_app()` is an ASGI app to mount or to serve; `serve()` runs it and owns SIGINT and SIGTERM. A run that was
    begun here lives in the server's event loop and goes on or ends as its request's `on_disconnect` says.

    Args:
        agents, teams: what can be run; ids must differ. All of them get `store_events=True`, and `db` if they
            have none.
        db: where runs and sessions are kept. Without one a run is known for an hour after its end, in memory.
        id, name, description: what `/` and `/config` say.
        shutdown_grace: seconds that live runs may go on when the server is told to stop; then they end CANCELLED
            (`cancelled_by=shutdown`).
        stream: how patient streams are with their clients.
        os_security_key, authorization, authorization_config, user_isolation, cors_allowed_origins, max_body_bytes,
            max_header_bytes, max_form_parts, max_concurrent_runs, rate_limit, allow_unauthenticated: who may call, and
            how much; see `Security`.
        telemetry: accepted and means nothing.

    Raises:
        ConfigurationError: nothing to serve, two of one id, or an argument that is wrong.
    """

    def __init__(
        self,
        *,
        agents: Sequence[Agent] = (),
        teams: Sequence[Team] = (),
        db: BaseDb | None = None,
        id: str | None = None,
        name: str | None = None,
        description: str | None = None,
        shutdown_grace: float = 10.0,
        stream: StreamSettings | None = None,
        telemetry: bool = False,
        **security: Unpack[SecurityOptions],
    ) -> None:
        if not agents and not teams:
            raise ConfigurationError("AgentOS has nothing to run; give agents=[...] or teams=[...]")
        check_seconds("shutdown_grace", shutdown_grace, zero=True)
        self.security = Security(**security)
        self.name = name
        self.id = id or slug(name or "agent-os")
        self.description = description
        self.db = db
        self.agents = _by_id("agent", agents, Agent)
        self.teams = _by_id("team", teams, Team)
        self.shutdown_grace = shutdown_grace
        self.stream = stream or StreamSettings()
        self.roster = Roster()
        self.arrivals = Arrivals()
        self.frames = AllFrames()
        self.serving = False
        """Whether `serve()` has the signals."""
        self.stopper: Callable[[float | None], object] | None = None
        """What stops `serve()`, while that runs."""
        self._app: FastAPI | None = None
        self.coming: list[str] = []
        """Ids of runs that are being continued: before one is live, the database is asked what it has of it."""
        self._beginning = 0
        self._stop: _Stop | None = None
        for target in (*self.agents.values(), *self.teams.values()):
            for each in target.everybody():
                each.store_events = True
            if target.db is None:
                target.db = db

    def find_target(self, kind: Kind, target_id: str) -> Target:
        """The agent or team of this id.

        Raises:
            HTTPException: 404, there is none.
        """
        target = (self.teams if kind == "team" else self.agents).get(target_id)
        if target is None:
            raise HTTPException(404, f"{kind.capitalize()} not found")
        return target

    def get_app(self) -> FastAPI:
        """The ASGI app, always the same one. Mounted in another app, that one must use `lifespan`."""
        if self._app is None:
            from .app import make_app

            self._app = make_app(self)
        return self._app

    # Stopping.

    @property
    def closing(self) -> bool:
        """Whether the server is stopping: it begins no run any more."""
        return self._stop is not None

    @property
    def closed(self) -> bool:
        """Whether it has stopped: all its runs have ended."""
        return self._stop is not None and self._stop.done.is_set()

    def check_open(self) -> None:
        """Refuse what would begin a run while the server stops.

        Raises:
            HTTPException: 503.
        """
        if self.closing:
            raise HTTPException(503, "The server is shutting down", {"Retry-After": "5"})

    async def begin(self, start: Callable[[], Awaitable[Run]]) -> Run:
        """Begin a run that a shutdown ends with the others, also one that comes while this is under way.

        Raises:
            HTTPException: 503, the server stops.
        """
        self.check_open()
        self._beginning += 1
        try:
            run = await start()
            self.roster.add(run)
        finally:
            self._beginning -= 1
            if self._stop is not None:
                self._stop.begun.set()
        return run

    async def shutdown(self, grace: float | None = None) -> None:
        """End all runs that were begun here and are live; return when they have ended and are stored.

        They may go on for `grace` seconds (default `shutdown_grace`), then they are cancelled
        (`cancelled_by=shutdown`). New runs are refused from the start. Paused runs that are stored stay paused. A
        second call waits for the first, and may shorten its grace. A cancel of the call cancels the runs at once.
        """
        grace = self.shutdown_grace if grace is None else grace
        if self._stop is not None:
            self._stop.hurry(grace)
            await self._stop.done.wait()
            return
        self._stop = stop = _Stop()
        log("info", "server.stopping", runs=len(self._to_end()), grace=grace)
        cancelled = 0
        try:
            stop.hurry(grace)
            with stop.scope:
                for run in self._to_end():
                    if run.resting:  # nobody can continue it any more, and no database has it
                        run.cancel("shutdown", _REASON)
                await self._all_begun(stop)
                await self._all_ended()
        finally:
            with anyio.move_on_after(self._patience(), shield=True):
                await self._all_begun(stop)
                while runs := self._to_end():
                    cancelled += sum(run.cancel("shutdown", _REASON) for run in runs)
                    await self._all_ended()
                    await anyio.sleep(_AGAIN)
            stop.done.set()
        log("info", "server.stopped", cancelled=cancelled)

    def _to_end(self) -> list[Run]:
        """The live runs, without those that are paused and stored."""
        return [
            run
            for run in self.roster.live()
            if not (run.resting and run.output is not None and run.output.stored)
        ]

    async def _all_begun(self, stop: _Stop) -> None:
        while self._beginning:
            stop.begun = anyio.Event()
            await stop.begun.wait()

    async def _all_ended(self) -> None:
        """Wait until what is live has ended or paused."""
        for run in self._to_end():
            await run.wait_ended(run.attempt)

    def _patience(self) -> float:
        """Seconds that the slowest of the live runs, and of those that are being begun, may take to end."""
        targets = [*self.agents.values(), *self.teams.values()]
        stored = max(
            0.0
            if each.db is None
            else each.db.store_timeout
            if each.store_timeout is None
            else each.store_timeout
            for each in targets
        )
        return max(each.cancel_grace for each in targets) + stored + _MARGIN

    def stop(self, grace: float | None = None) -> bool:
        """Have `serve()` end as a signal would, from any thread; returns at once, whether there was one to stop."""
        stopper = self.stopper
        if stopper is None:
            return False
        stopper(grace)
        return True

    @asynccontextmanager
    async def lifespan(self, app: Any = None) -> AsyncGenerator[None]:
        """The lifespan of an app in which this one is mounted: `FastAPI(lifespan=agent_os.lifespan)`.

        While it is open, SIGINT and SIGTERM end the live runs as `shutdown` does, and then reach whoever handled
        them before: a server waits for its open streams before it ends a lifespan, which is too late. After its end
        it may be entered again.
        """
        from .serving import chained_signals

        if self.closed:
            self._stop = None
        OPEN.add(self)
        with nullcontext() if self.serving else chained_signals(self):
            try:
                yield
            finally:
                await self.shutdown()
                OPEN.discard(self)

    def serve(
        self,
        app: Any = None,
        *,
        host: str | None = None,
        port: int | None = None,
        on_ready: Callable[[str], object] | None = None,
        **uvicorn_options: Any,
    ) -> None:
        """Serve until SIGINT or SIGTERM; blocks. A second signal ends the live runs at once.

        Args:
            app: an ASGI app to serve instead of `get_app()`, in which that one is mounted.
            host, port: default: `AGENT_OS_HOST` and `AGENT_OS_PORT`, else localhost and 7777.
            on_ready: called with the server's URL when it listens.
            uvicorn_options: as of `uvicorn.Config`.

        Raises:
            ConfigurationError: the address cannot be served, or not so (see `docs/security.md`).
        """
        from .serving import serve

        host = host or os.environ.get("AGENT_OS_HOST") or "localhost"
        check_bind(host, self.security)
        serve(
            self,
            app if app is not None else self.get_app(),
            host=host,
            port=port if port is not None else _port(os.environ.get("AGENT_OS_PORT")),
            on_ready=on_ready,
            options=uvicorn_options,
        )


@dataclass(eq=False)
class _Stop:
    """A shutdown under way."""

    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    begun: anyio.Event = field(default_factory=anyio.Event)
    done: anyio.Event = field(default_factory=anyio.Event)

    def hurry(self, seconds: float) -> None:
        """Give the live runs no more than this."""
        self.scope.deadline = min(self.scope.deadline, anyio.current_time() + seconds)


def _by_id(kind: Kind, given: Sequence[Any], wanted: type[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in given:
        if not isinstance(each, wanted):
            raise ConfigurationError(f"{kind}s holds {each!r}, which is no {wanted.__name__}")
        if each.id in found:
            raise ConfigurationError(f"two {kind}s have the id {each.id!r}; give one of them another id=")
        found[each.id] = each
    return found


def _port(text: str | None) -> int:
    if text is None or not text:
        return 7777
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise ConfigurationError(f"AGENT_OS_PORT is {text!r}; it is a port, 0 to 65535")
    return int(text)
