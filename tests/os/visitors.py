"""HTTP clients of an `AgentOS` in this process, each somebody else."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from starlette.types import ASGIApp, Receive, Scope, Send

from kern_async.os import AgentOS
from kern_async.os.caller import Caller


class _As:
    """The app for a caller of whom it is known who they are."""

    def __init__(self, app: ASGIApp, caller: Caller) -> None:
        self._app = app
        self._caller = caller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["caller"] = self._caller
        await self._app(scope, receive, send)


@asynccontextmanager
async def visit(
    agent_os: AgentOS, caller: Caller | None = None, *, headers: Mapping[str, str] | None = None
) -> AsyncGenerator[httpx2.AsyncClient]:
    """A client; without a caller, one who may do everything."""
    app: ASGIApp = agent_os.get_app() if caller is None else _As(agent_os.get_app(), caller)
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://os", headers=headers) as client:
        yield client


async def get(client: httpx2.AsyncClient, path: str, **params: Any) -> Any:
    """What a request gives that nothing speaks against."""
    answer = await client.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()
