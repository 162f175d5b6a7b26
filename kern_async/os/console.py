"""The page to watch and stop runs: one static file, which asks the API for all that it shows."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

if TYPE_CHECKING:
    from .agent_os import AgentOS


@dataclass(frozen=True)
class _Page:
    body: bytes
    headers: dict[str, str]


@cache
def _page() -> _Page:
    text = Path(__file__).with_name("console.html").read_text(encoding="utf-8")
    body = text.encode()
    policy = [
        "default-src 'none'",
        f"script-src {_hashes(text, 'script')}",
        f"style-src {_hashes(text, 'style')}",
        "img-src data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # The browser itself refuses to make HTML of a text, whatever the page does.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
    return _Page(
        body,
        {
            "ETag": f'"{sha256(body).hexdigest()[:32]}"',
            "Cache-Control": "no-cache",
            "Content-Security-Policy": "; ".join(policy),
            "Cross-Origin-Opener-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
        },
    )


def _hashes(text: str, tag: str) -> str:
    """The sources of all elements of this kind in the page, as a policy allows them."""
    contents = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return " ".join(f"'sha256-{b64encode(sha256(one.encode()).digest()).decode()}'" for one in contents)


def router(_agent_os: AgentOS) -> APIRouter:
    """The route of the page. It holds no data, so it needs no key: it asks for one when the API does."""
    routes = APIRouter(tags=["Console"])

    @routes.get(
        "/console",
        operation_id="get_console",
        summary="The page to watch and stop runs",
        response_class=Response,
        responses={
            200: {"description": "the page", "content": {"text/html": {}}},
            304: {"description": "the page has not changed since the version that `If-None-Match` names"},
        },
    )
    async def get_console(request: Request) -> Response:
        page = _page()
        known = request.headers.get("if-none-match", "")
        if page.headers["ETag"] in [tag.strip().removeprefix("W/") for tag in known.split(",")]:
            return Response(status_code=304, headers=page.headers)
        return Response(page.body, headers=page.headers, media_type="text/html")

    return routes
