"""A model on this machine: llama.cpp serving a GGUF file, with no key and no network."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import anyio
import httpx2

from kern_async.exceptions import ConfigurationError

from .base import Emit, Model, ModelReply, ModelRequest
from .clients import tls_context
from .llamacpp_server import Server, ServerConfig, bundled_model, check_installed, shared_server
from .openai import OpenAIResponses

_CLOSE_SECONDS = 0.5


@dataclass(kw_only=True, eq=False)
class LlamaCpp(Model):
    """A GGUF model, served by llama.cpp in a child process that starts with the first request.

    Without `model_path` it is the bundled SmolLM2 (135 million parameters): a real model, quick and small, which
    writes fluent nonsense and never calls tools. All LlamaCpp of one configuration share one server, which stops
    at exit, on `close()`, and when this process dies. Needs the extra `local`.

    `n_parallel` is how many generations run at once, others wait their turn; `n_ctx` is the context of each, in
    tokens; `n_threads` are the processor threads that generate, by default all but one, at most four.
    `max_output_tokens` None means until the model is done or the context is full. `extra_body` goes into every
    request, with llama.cpp's own sampling fields.

    Errors of a request: `ConfigurationError` when a package or the file is missing, `ModelError` when the server
    does not start. A cancelled request closes its connection, on which the server stops generating.
    """

    provider: ClassVar[str] = "llama.cpp"

    id: str = field(default="smollm2", kw_only=False)
    model_path: str | os.PathLike[str] | None = None
    n_parallel: int = 3
    n_ctx: int = 4096
    n_threads: int | None = None
    temperature: float | None = 0.3
    top_p: float | None = None
    repeat_penalty: float | None = 1.1
    max_output_tokens: int | None = None
    extra_body: dict[str, Any] | None = None
    _server: Server | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("n_parallel", "n_ctx", "n_threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigurationError(f"LlamaCpp({name}={value}): it must be 1 or more")
        tls_context()  # here rather than at the first request, where it would block the event loop

    async def respond(self, request: ModelRequest, emit: Emit) -> ModelReply:
        """Send one request, on the first use after starting the server. See `Model.respond`."""
        base_url = await self.start()
        sampling = {} if self.repeat_penalty is None else {"repeat_penalty": self.repeat_penalty}
        http_client = httpx2.AsyncClient(
            trust_env=False, verify=tls_context()
        )  # no proxy reaches our loopback
        responses = OpenAIResponses(
            self.id,
            base_url=base_url,
            api_key=self.api_key,
            http_client=http_client,
            temperature=self.temperature,
            top_p=self.top_p,
            max_output_tokens=self.max_output_tokens,
            extra_body=sampling | (self.extra_body or {}),
        )
        try:
            return await responses.respond(request, emit)
        finally:
            with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
                await http_client.aclose()

    async def start(self) -> str:
        """Start the server if it is not running, wait until it is ready, and return `base_url`.

        Takes about a second for the bundled model. A cancel ends the waiting, not the start.

        Raises:
            ConfigurationError: a package or the model file is missing.
            ModelError: the server did not start.
        """
        server = self._server = shared_server(self._config())
        return f"{await server.wait_ready()}/v1"

    @property
    def base_url(self) -> str | None:
        """Where the server speaks OpenAI's protocol, None when it is not ready. It wants `api_key`."""
        address = self._server.address if self._server and self._server.usable else None
        return f"{address}/v1" if address else None

    @property
    def api_key(self) -> str | None:
        """The server's key, made up anew at every start; None before the first one."""
        return self._server.api_key if self._server else None

    @property
    def pid(self) -> int | None:
        """The server's process id, None before it has one."""
        return self._server.pid if self._server else None

    def slots(self) -> int:
        """How many slots are busy, generating or reading a prompt; 0 when the server is not ready.

        Asks the server, which takes about a millisecond: meant for tests, and for showing that a cancelled
        generation has stopped.

        Raises:
            OSError: the server died while it was asked.
        """
        return self._server.busy() if self._server and self.base_url else 0

    def close(self) -> None:
        """Stop the server, for every LlamaCpp of this configuration; the next request starts a new one.

        Blocks for some 40 ms, 2 s at most. Generations that it serves are cut.
        """
        if self._server:
            self._server.close()

    def _config(self) -> ServerConfig:
        check_installed()
        path = Path(self.model_path).absolute() if self.model_path else bundled_model()
        if not path.is_file():
            raise ConfigurationError(f"LlamaCpp(model_path={str(path)!r}): there is no such file")
        return ServerConfig(
            model_path=str(path),
            alias=self.id,
            n_parallel=self.n_parallel,
            n_ctx=self.n_ctx,
            n_threads=self.n_threads or max(1, min(4, _cores() - 1)),
        )


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
