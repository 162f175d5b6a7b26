"""What a middleware answers instead of the application."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send


async def refuse(error: HTTPException, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request with this error, as the application would, or close a WebSocket that is not open yet."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": str(error.detail)})
        return
    await JSONResponse({"detail": error.detail}, error.status_code, error.headers)(scope, receive, send)
