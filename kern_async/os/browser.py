"""What browsers do for any page that somebody opens, and what a server tells them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .refusal import refuse
from .security import is_local


def same_site(scope: Scope, origins: Collection[str]) -> bool:
    """Whether no page of a site but our own and these asks for something to be done.

    A browser sends a form to any address that a page names, and asks nobody before: only its reading of the answer
    waits for CORS. It says whose page it is.
    """
    if scope.get("method") in ("GET", "HEAD", "OPTIONS"):
        return True
    headers = Headers(scope=scope)
    origin = headers.get("origin")
    if origin in origins or "*" in origins:
        return True
    if (site := headers.get("sec-fetch-site")) is not None:
        return site in ("same-origin", "none")
    return origin is None or origin.partition("://")[2] == headers.get("host")


class BrowserHeaders:
    """Middleware that tells browsers not to guess types, not to show pages in frames and not to say where from."""

    PAGE: Mapping[str, str] = {
        "Content-Security-Policy": "frame-ancestors 'none'; base-uri 'none'; object-src 'none'",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
    }

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("X-Content-Type-Options", "nosniff")
                if headers.get("content-type", "").startswith("text/html"):
                    for name, value in self.PAGE.items():
                        headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, answer)


class LocalNames:
    """Middleware for a server without a key on this machine: it answers browsers only under a name of this machine.

    A page of another site can have its own name lead to 127.0.0.1 (DNS rebinding), and is then of the same site as
    this server for a browser; but the name in `Host` stays that of the site. A browser is known by the languages that
    it says it prefers: no page can keep it from that.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] != "lifespan" else Headers()
        if "accept-language" in headers:
            host = re.sub(r":\d*$", "", headers.get("host", ""))
            if not is_local(host.strip("[]")):
                error = HTTPException(
                    403,
                    f"without a key this server answers a browser as localhost, not as {host!r}: set OS_SECURITY_KEY, or say "
                    "allow_unauthenticated=True",
                )
                await refuse(error, scope, receive, send)
                return
        await self._app(scope, receive, send)
