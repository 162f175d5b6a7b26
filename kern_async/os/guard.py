"""The guard round an application: which middlewares, in which order."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from .auth import PUBLIC, Gate
from .browser import BrowserHeaders
from .limits import RequestLimits
from .security import Security


def install(app: FastAPI, security: Security) -> None:
    """Guard an application that has not begun to serve.

    From the outside in: CORS, so that a page can read refusals and preflights need no key; headers for browsers; the
    size and text of the request; the key or token, and the rate; then the application, with its 403 for scopes.
    """
    app.state.form_limits = security.form_limits
    app.add_middleware(Gate, security=security)
    app.add_middleware(
        RequestLimits, max_body_bytes=security.max_body_bytes, max_header_bytes=security.max_header_bytes
    )
    app.add_middleware(BrowserHeaders)
    if security.cors_allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(security.cors_allowed_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["Retry-After", "WWW-Authenticate"],
        )
    if security.guarded:
        _describe(app)


def _describe(app: FastAPI) -> None:
    """Have the OpenAPI document say that a bearer key is asked for, and where it is not."""
    undescribed = app.openapi

    def openapi() -> dict[str, Any]:
        document = undescribed()
        schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes["bearer"] = {"type": "http", "scheme": "bearer"}
        document["security"] = [{"bearer": []}]
        for path in PUBLIC & document["paths"].keys():
            for operation in document["paths"][path].values():
                operation["security"] = []
        return document

    app.openapi = openapi
