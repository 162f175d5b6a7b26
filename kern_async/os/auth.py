"""Who may call: a bearer key, a JSON Web Token, or where neither is asked for, no page of another site."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from urllib.parse import quote

from fastapi import HTTPException, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from kern_async.observe import log

from .browser import same_site
from .caller import NOBODY, Caller, caller_of
from .jwt import Rejected
from .limits import RateLimit
from .refusal import refuse
from .security import Security

PUBLIC = frozenset({"/", "/health", "/info", "/console"})
"""What anybody may read. The page is a file without data: it is loaded first, and then asks for the key."""


class Gate:
    """Middleware that lets in who may call, tells the application who it is (`caller_of`), and counts how often.

    Wrong keys count too, for the address that they come from.
    """

    def __init__(self, app: ASGIApp, *, security: Security) -> None:
        self._app = app
        key = security.os_security_key
        self._key = key.encode() if key is not None else None
        self._verifier = security.verifier
        self._guarded = security.guarded
        self._rate = RateLimit(security.rate_limit) if security.rate_limit is not None else None
        self._origins = frozenset(security.cors_allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            try:
                self._admit(scope)
            except HTTPException as error:
                await refuse(error, scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _admit(self, scope: Scope) -> None:
        state = scope.setdefault("state", {})
        if scope["type"] == "http" and _path(scope) in PUBLIC:
            if self._guarded:
                state["caller"] = NOBODY
            return
        client = scope.get("client")
        address = f"address {client[0] if client else ''}"
        if self._guarded:
            try:
                state["caller"] = self._caller(_bearer(scope))
            except _Unknown as error:
                log(
                    "info",
                    "auth.refused",
                    reason=error.reason,
                    path=quote(scope["path"], errors="replace"),  # nobody writes lines into a log
                    client=client and client[0],
                )
                self._count(address)
                raise error.answer() from None
        elif not same_site(scope, self._origins):
            raise HTTPException(
                403,
                "a page of another site may not call this server: it asks for no key, so it cannot tell whether you "
                "want that; add the page's origin to AgentOS(cors_allowed_origins=[...])",
            )
        # What an application that this one is mounted in has found out itself stays.
        caller: Caller | None = state.get("caller")
        self._count(
            f"user {caller.user_id}" if caller is not None and caller.user_id is not None else address
        )

    def _count(self, who: str) -> None:
        if self._rate is not None:
            self._rate.spend(who)

    def _caller(self, token: bytes) -> Caller:
        if self._key is not None and hmac.compare_digest(token, self._key):
            return Caller()
        if self._verifier is None:
            raise _Unknown("wrong key")
        try:
            return self._verifier.caller(token.decode("ascii"))
        except UnicodeDecodeError:
            raise _Unknown("not ASCII") from None
        except Rejected as error:
            raise _Unknown(error.reason, expired=error.expired) from None


class _Unknown(Exception):
    """Nobody knows who calls: `reason` is for the log, and says nothing of the key or token."""

    def __init__(self, reason: str, *, missing: bool = False, expired: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = (
            "Authorization header required"
            if missing
            else "Token has expired"
            if expired
            else "Invalid authentication token"
        )

    def answer(self) -> HTTPException:
        return HTTPException(401, self.detail, {"WWW-Authenticate": "Bearer"})


def _path(scope: Scope) -> str:
    """The path below the one that the application is mounted at."""
    root: str = scope.get("root_path", "")
    path: str = scope["path"]
    below = path.removeprefix(root)
    return below if below.startswith("/") else path


def _bearer(scope: Scope) -> bytes:
    """The token of the request.

    Raises:
        _Unknown: there is none, or more than one.
    """
    values: list[bytes] = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
    if len(values) > 1:
        raise _Unknown("several Authorization headers")
    scheme, _, token = values[0].strip().partition(b" ") if values else (b"", b"", b"")
    if scheme.lower() != b"bearer" or not token.strip():
        raise _Unknown("no bearer token", missing=True)
    return token.strip()


Check = Callable[[Request], Awaitable[None]]

_RESOURCES = {"teams": "team_id", "agents": "agent_id"}


def requires(scope: str, *, some: bool = False) -> Check:
    """A FastAPI dependency, `Depends(requires("teams:run"))`, that answers 403 to who may not.

    Where the path has a `{team_id}` or `{agent_id}`, the scope for that one is enough. With `some` the scope for any
    one is: in a list, whose handler leaves out what `Caller.may` does not allow.
    """
    kind, _, action = scope.partition(":")

    async def check(request: Request) -> None:
        caller = caller_of(request)
        resource = request.path_params.get(_RESOURCES.get(kind, ""))
        if not (caller.may_some(scope) if some else caller.may(scope, resource)):
            enough = [scope, f"{kind}:{resource}:{action}"] if resource is not None else [scope]
            raise HTTPException(403, f"your token does not have the scope {' or '.join(enough)}")

    return check
