"""What the two OpenAI models have in common: their settings, their client, and one request's way."""

from __future__ import annotations

import os
import re
from abc import abstractmethod
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import anyio.to_thread
import httpx2
import openai
from pydantic import BaseModel

from kern_async.exceptions import ConfigurationError, ModelKeyMissing

from .base import Model, ModelRequest
from .clients import Endpoint, Transport, check_transport, client_for, close_clients, tls_context

_OPENAI_URL = "https://api.openai.com/v1"
_NO_KEY = "none"


@dataclass(kw_only=True, eq=False)
class OpenAIModel(Model):
    """The settings of both OpenAI models. None leaves a setting to the provider.

    `api_key`, `base_url`, `organization` and `project` come from OPENAI_API_KEY, OPENAI_BASE_URL, OPENAI_ORG_ID
    and OPENAI_PROJECT_ID, read at each request, where they are None. `timeout` is in seconds: how long the
    connection may be silent, keep-alives included, 600 by default. `client` and `http_client` are used as they
    are and never closed; without them, all models of one configuration share their connections on each event
    loop, and those are closed when the loop ends. `transport="aiohttp"` (extra `aiohttp`, asyncio only) sends these
    requests through aiohttp, which takes less CPU where many answers stream. `strict_output=False` lets an
    `output_schema` be what OpenAI's strict mode refuses.
    """

    provider: ClassVar[str] = "OpenAI"

    api_key: str | None = field(default=None, repr=False)
    base_url: str | None = None
    organization: str | None = None
    project: str | None = None
    timeout: float | httpx2.Timeout | None = None
    client: openai.AsyncOpenAI | None = field(default=None, repr=False)
    http_client: httpx2.AsyncClient | None = field(default=None, repr=False)
    transport: Transport = "httpx"
    temperature: float | None = None
    top_p: float | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    parallel_tool_calls: bool | None = None
    service_tier: str | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    strict_output: bool = True
    extra_headers: dict[str, str] | None = field(default=None, repr=False)
    extra_query: dict[str, Any] | None = None
    extra_body: dict[str, Any] | None = None
    _wrapped: tuple[Endpoint, httpx2.AsyncClient, openai.AsyncOpenAI] | None = field(
        default=None, init=False, repr=False
    )

    def __post_init__(self) -> None:
        if self.client is not None and not isinstance(self.client, openai.AsyncOpenAI):
            raise ConfigurationError(f"client={self.client!r}: it must be an openai.AsyncOpenAI")
        if self.http_client is not None and not isinstance(self.http_client, httpx2.AsyncClient):
            raise ConfigurationError(f"http_client={self.http_client!r}: it must be an httpx2.AsyncClient")
        check_transport(self.transport)
        if self.client is None and self.http_client is None:
            tls_context()  # here rather than at the first request, where it would block the event loop

    async def aclose(self) -> None:
        """Close the running event loop's shared connections of this configuration.

        Not needed before the loop ends. Requests that are under way on them fail; the next request opens new
        ones. Takes a second at most, and a cancel does not interrupt it.
        """
        if self.client is None and self.http_client is None:
            try:
                endpoint = self._endpoint()
            except ModelKeyMissing:
                return
            await close_clients(endpoint)

    @abstractmethod
    def _body(self, request: ModelRequest) -> dict[str, Any]:
        """The request as JSON data. May read files."""

    async def _converted(self, request: ModelRequest) -> dict[str, Any]:
        if any(message.images or message.files for message in request.messages):
            try:
                return await anyio.to_thread.run_sync(self._body, request, abandon_on_cancel=True)
            except OSError as error:
                raise ConfigurationError(
                    f"an image or file of the conversation cannot be read: {error}"
                ) from error
        return self._body(request)

    def _lent_client(self) -> AbstractAsyncContextManager[openai.AsyncOpenAI]:
        if self.client is not None:
            return nullcontext(self.client)
        endpoint = self._endpoint()
        if self.http_client is None:
            return client_for(endpoint)
        if self._wrapped is None or self._wrapped[:2] != (endpoint, self.http_client):
            self._wrapped = (endpoint, self.http_client, endpoint.client(self.http_client))
        return nullcontext(self._wrapped[2])

    def _endpoint(self) -> Endpoint:
        base_url = self.base_url or os.environ.get("OPENAI_BASE_URL") or _OPENAI_URL
        if not base_url.startswith(("http://", "https://")):
            raise ConfigurationError(f"base_url={base_url!r}: it must begin with http:// or https://")
        api_key = (self.api_key or os.environ.get("OPENAI_API_KEY") or "").strip()
        if not api_key:
            if httpx2.URL(base_url).host == httpx2.URL(_OPENAI_URL).host:
                raise ModelKeyMissing(
                    f"{type(self).__name__}({self.id!r}) has no API key: make one at "
                    "https://platform.openai.com/api-keys and set OPENAI_API_KEY, or pass api_key=. "
                    "Without a key, a model can run on this machine: "
                    "`from kern_async.models.llamacpp import LlamaCpp`, model=LlamaCpp() "
                    "(pip install 'kern-async[local]')"
                )
            api_key = _NO_KEY
        return Endpoint(
            api_key=api_key,
            base_url=base_url,
            organization=self.organization or os.environ.get("OPENAI_ORG_ID") or None,
            project=self.project or os.environ.get("OPENAI_PROJECT_ID") or None,
            transport=self.transport,
        )

    def _options(self) -> openai.RequestOptions:
        options: openai.RequestOptions = {
            "headers": {"Accept": "text/event-stream", **(self.extra_headers or {})}
        }
        if self.extra_query is not None:
            options["params"] = self.extra_query
        if self.extra_body is not None:
            options["extra_json"] = self.extra_body
        if self.timeout is not None:
            options["timeout"] = self.timeout
        return options

    def _settings(self, *names: str) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def _schema_format(self, schema: type[BaseModel] | dict[str, Any]) -> dict[str, Any]:
        if isinstance(schema, dict):
            name = str(schema.get("title") or "output")
            parameters = schema
        elif self.strict_output:
            name = schema.__name__
            parameters = cast("dict[str, Any]", openai.pydantic_function_tool(schema)["function"])[
                "parameters"
            ]
        else:
            name = schema.__name__
            parameters = schema.model_json_schema()
        # Names of generic classes have brackets, which the provider refuses.
        name = re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64]
        return {"name": name, "schema": parameters, "strict": self.strict_output}
