"""What went wrong, as HTTP says it: a status and `{"detail": ...}`."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from kern_async.engine.observe import log
from kern_async.exceptions import (
    ConfigurationError,
    KernError,
    NotTheirs,
    RunIdInUse,
    RunNotContinuable,
    SessionBusy,
    SessionExists,
    StoreError,
)

_STATUS: tuple[tuple[type[KernError], int], ...] = (
    (NotTheirs, 404),  # whose it is, is nobody else's business
    (RunIdInUse, 409),
    (RunNotContinuable, 409),
    (SessionBusy, 409),
    (SessionExists, 409),
    (ConfigurationError, 400),
    (StoreError, 503),
    (KernError, 500),
)

_SAID = {
    400: "what is asked for cannot be done as it is written",
    401: "no key or token, or not a valid one",
    403: "the token does not allow it, or a browser asks for another site's page",
    404: "no such team, agent, run or session, or it is another user's",
    409: "not in the state that it is in",
    413: "the body is too large",
    422: "a field is missing or is not what it should be",
    429: "too many requests, or too many runs at once; `Retry-After` says when to try again",
    431: "the address and the headers are too large",
    503: "the server is shutting down, or its database does not answer",
}


class Problem(BaseModel):
    """The body of an error."""

    detail: str


# FastAPI compiles a validator for every model of every route, which was half of what it takes to make an app. One for
# each route puts the model into the document, the others refer to it.
_PROBLEM = {"application/json": {"schema": {"$ref": f"#/components/schemas/{Problem.__name__}"}}}


def unguarded(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of a route that needs no key, for its documentation; what any request may get included."""
    known: dict[int | str, dict[str, Any]] = {
        status: {"content": _PROBLEM, "description": _SAID[status]}
        for status in sorted({400, 403, 413, 431, *statuses} - {422})
    }
    known[400] = {"model": Problem, "description": _SAID[400]}
    if 422 in statuses:
        known[422] = {"description": _SAID[422]}
    return known


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of a guarded route, for its documentation."""
    return unguarded(401, 429, *statuses)


def status_of(error: KernError) -> int:
    """The HTTP status that an error of ours has."""
    return next(status for kind, status in _STATUS if isinstance(error, kind))


def words_of(error: KernError) -> str:
    """What a client is told of an error of ours: not whose a session is, and not where the database is."""
    if isinstance(error, NotTheirs):
        return "Session not found"
    if isinstance(error, StoreError):
        return "The database does not answer, or refuses; the server's log says why"
    return str(error)


def field_error(name: str, message: str, value: object, *, where: str = "body") -> RequestValidationError:
    """A field that is not what it should be, as FastAPI reports its own."""
    return RequestValidationError(
        [{"type": "value_error", "loc": (where, name), "msg": message, "input": value}]
    )


def install(app: FastAPI) -> None:
    """Have the app answer with a status and a detail, whatever went wrong."""
    app.add_exception_handler(KernError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientDisconnect, _gone)


async def _ours(_request: Request, error: Exception) -> Response:
    if not isinstance(error, KernError):
        raise error
    status = status_of(error)
    if status >= 500:
        log("warning", "http.failed", status=status, error=str(error), error_type=type(error).__name__)
    return JSONResponse({"detail": words_of(error)}, status)


async def _invalid(_request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    errors = [
        {
            "type": str(one["type"]),
            "loc": list(one["loc"]),
            "msg": str(one["msg"]),
            "input": _plain(one.get("input")),
        }
        for one in error.errors()
    ]
    return JSONResponse({"detail": errors}, 422)


def _plain(value: Any) -> Any:
    """What can be said of an input again: short text, and nothing that is no JSON."""
    if value is None or isinstance(value, bool | int):
        return value
    return str(value).encode("utf-8", "replace").decode()[:200]


async def _http(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)


async def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it: the client left before its request was complete
