"""A small application behind the guard, and how the guard's tests talk to it."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any
from urllib.parse import unquote

import httpx2
import structlog
from fastapi import Depends, FastAPI, Form, Request, UploadFile
from starlette.types import ASGIApp, Message

from kern_async.os.auth import requires
from kern_async.os.caller import caller_of
from kern_async.os.guard import install
from kern_async.os.security import Security

KEY = "sentinel-key-6f1d0f"


def small_app(security: Security) -> FastAPI:
    app = FastAPI(form_limits=security.form_limits)  # pyright: ignore[reportArgumentType]

    @app.get("/health")
    @app.get("/info")
    @app.get("/whoami")
    async def whoami(request: Request) -> dict[str, Any]:
        caller = caller_of(request)
        return {
            "user_id": caller.user_id,
            "scopes": None if caller.scopes is None else sorted(caller.scopes),
            "isolated": caller.isolated,
        }

    @app.get("/teams", dependencies=[Depends(requires("teams:read", some=True))])
    async def teams(request: Request) -> list[str]:
        return [team for team in ("red", "blue") if caller_of(request).may("teams:read", team)]

    @app.get("/sessions", dependencies=[Depends(requires("sessions:read"))])
    async def sessions() -> str:
        return "sessions"

    @app.post("/teams/{team_id}/runs", dependencies=[Depends(requires("teams:run"))])
    async def run(
        team_id: str, message: Annotated[str, Form()], files: list[UploadFile] | None = None
    ) -> dict[str, Any]:
        return {"team": team_id, "message": message, "files": len(files or [])}

    @app.post("/json")
    async def some_json(body: dict[str, Any]) -> dict[str, Any]:
        return body

    @app.post("/raw")
    async def raw(request: Request) -> int:
        return len(await request.body())

    install(app, security)
    return app


@contextmanager
def captured_logs() -> Generator[list[Any]]:
    try:
        with structlog.testing.capture_logs() as records:
            yield records
    finally:
        structlog.reset_defaults()  # capturing has configured it, which other tests must not see


def client_of(app: ASGIApp, base_url: str = "http://localhost:7777", **options: Any) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app, **options), base_url=base_url)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def raw_call(
    app: ASGIApp,
    method: str = "GET",
    path: str = "/whoami",
    *,
    query: bytes = b"",
    headers: Mapping[bytes, bytes] | list[tuple[bytes, bytes]] = (),  # pyright: ignore[reportArgumentType]
    body: list[bytes] | None = None,
    kind: str = "http",
    **more: Any,
) -> tuple[int, dict[str, str], bytes]:
    """Call an application with what no client would send; a body comes in these pieces."""
    pieces = body or [b""]
    incoming: list[Message] = [
        {"type": "http.request", "body": piece, "more_body": n + 1 < len(pieces)}
        for n, piece in enumerate(pieces)
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return incoming.pop(0) if incoming else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": kind,
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": list(headers.items()) if isinstance(headers, Mapping) else list(headers),
        "client": ("127.0.0.1", 1234),
        "server": ("127.0.0.1", 7777),
        **more,
    }
    await app(scope, receive, send)
    if sent and sent[0]["type"] == "websocket.close":
        return sent[0]["code"], {}, b""
    starts = [message for message in sent if message["type"] == "http.response.start"]
    assert len(starts) == 1, sent
    answered = {name.decode(): value.decode() for name, value in starts[0]["headers"]}
    return starts[0]["status"], answered, b"".join(m.get("body", b"") for m in sent[1:])
