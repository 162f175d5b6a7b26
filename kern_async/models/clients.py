"""OpenAI clients: one set for each event loop and endpoint, closed when the loop ends.

Connections belong to the loop that opened them, and users make a new model for each request: so the clients
belong to the loop, not to the model. With httpx2 a set spreads its streams over several clients, because the cost of
a client's connection pool is quadratic in its open connections; aiohttp's is not.
"""

from __future__ import annotations

import asyncio
import importlib.util
import math
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, get_args

import anyio
import anyio.lowlevel
import httpx2
import openai

from kern_async.exceptions import ConfigurationError

Transport = Literal["httpx", "aiohttp"]

_STREAMS_PER_CLIENT: dict[Transport, float] = {"httpx": 32, "aiohttp": math.inf}
_KEPT_ALIVE = 32
_UNLIMITED = 1_000_000  # aiohttp's transport takes None for a limit of its own
_ENDPOINTS_PER_LOOP = 64
_CLOSE_TIMEOUT = 1.0
# The SDK's, but for connecting: its 5 s are too short when a busy loop opens hundreds of connections.
_TIMEOUT = httpx2.Timeout(600, connect=15)


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where requests go, as whom, and by which library."""

    api_key: str = field(repr=False)
    base_url: str
    organization: str | None = None
    project: str | None = None
    transport: Transport = "httpx"

    def client(self, http_client: httpx2.AsyncClient) -> openai.AsyncOpenAI:
        """A client for this endpoint that sends through `http_client`, each request once."""
        return openai.AsyncOpenAI(
            api_key=self.api_key,
            base_url=self.base_url,
            organization=self.organization,
            project=self.project,
            max_retries=0,
            http_client=http_client,
        )


@asynccontextmanager
async def client_for(endpoint: Endpoint) -> AsyncGenerator[openai.AsyncOpenAI]:
    """Lend a client of the running loop for one request, until the block ends.

    A cancel passes through; it never closes the client.

    Raises:
        ConfigurationError: the endpoint's transport does not work on this kind of event loop.
    """
    loop = anyio.lowlevel.current_token().native_token
    if endpoint.transport == "aiohttp" and not isinstance(loop, asyncio.AbstractEventLoop):
        raise ConfigurationError("transport='aiohttp' works on asyncio's event loops only; leave it out here")
    clients, unused = _of_this_loop().clients(endpoint)
    shard = clients.take()
    try:
        for other in unused:
            await other.aclose()
        yield shard.client
    finally:
        shard.streams -= 1


async def close_clients(endpoint: Endpoint | None = None) -> None:
    """Close the running loop's clients of an endpoint, or all of them. Requests under way on them fail.

    A cancel does not interrupt it; it takes a second at most for each endpoint.
    """
    of_loop = _loops.get(anyio.lowlevel.current_token().native_token)
    for clients in of_loop.forget(endpoint) if of_loop is not None else ():
        await clients.aclose()


def check_transport(transport: Transport) -> None:
    """Refuse a transport that is unknown or not installed.

    Raises:
        ConfigurationError: it is.
    """
    if transport not in get_args(Transport):
        raise ConfigurationError(
            f"transport={transport!r}: it is one of {', '.join(map(repr, get_args(Transport)))}"
        )
    if transport == "aiohttp" and importlib.util.find_spec("aiohttp") is None:
        raise ConfigurationError("transport='aiohttp' needs a package: pip install 'kern-async[aiohttp]'")


@cache
def tls_context() -> ssl.SSLContext:
    """The one TLS context of the process: reading the trust store takes up to 0.2 s, with the loop blocked."""
    return httpx2.create_ssl_context()


class _Shard:
    def __init__(self, endpoint: Endpoint) -> None:
        kind = (
            openai.DefaultAioHttpClient if endpoint.transport == "aiohttp" else openai.DefaultAsyncHttpxClient
        )
        self.http = kind(
            verify=tls_context(),
            timeout=_TIMEOUT,
            limits=httpx2.Limits(max_connections=_UNLIMITED, max_keepalive_connections=_KEPT_ALIVE),
        )
        self.client = endpoint.client(self.http)
        self.streams = 0


class _Clients:
    """The clients of one endpoint on one loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._shards: list[_Shard] = []

    @property
    def idle(self) -> bool:
        return not any(shard.streams for shard in self._shards)

    def take(self) -> _Shard:
        for shard in self._shards:  # the lowest with room, so that few connections serve many requests
            if shard.streams < _STREAMS_PER_CLIENT[self._endpoint.transport]:
                break
        else:
            shard = _Shard(self._endpoint)
            self._shards.append(shard)
        shard.streams += 1
        return shard

    async def aclose(self) -> None:
        shards, self._shards = self._shards, []
        with anyio.move_on_after(_CLOSE_TIMEOUT, shield=True):
            for shard in shards:
                await shard.http.aclose()


class _LoopClients:
    """All clients of one loop, by endpoint, the least recently used first."""

    def __init__(self, token: object) -> None:
        self._token = token
        self._by_endpoint: dict[Endpoint, _Clients] = {}
        # A suspended async generator is closed by the loop itself at its end, on every backend, and unlike a
        # sleeping task nobody finds it among the tasks of the loop.
        self._keeper = self._close_when_the_loop_ends()
        try:
            self._keeper.__anext__().send(None)
        except StopIteration:
            pass

    def clients(self, endpoint: Endpoint) -> tuple[_Clients, list[_Clients]]:
        """The endpoint's clients, and those of other endpoints that are to be closed to make room."""
        clients = self._by_endpoint.pop(endpoint, None)
        unused: list[_Clients] = []
        if clients is None:
            clients = _Clients(endpoint)
            surplus = len(self._by_endpoint) + 1 - _ENDPOINTS_PER_LOOP
            idle = [other for other, theirs in self._by_endpoint.items() if theirs.idle]
            unused = [self._by_endpoint.pop(other) for other in idle[: max(0, surplus)]]
        self._by_endpoint[endpoint] = clients
        return clients, unused

    def forget(self, endpoint: Endpoint | None = None) -> list[_Clients]:
        """Let go of an endpoint's clients, or of all; the caller closes them."""
        if endpoint is None:
            forgotten = list(self._by_endpoint.values())
            self._by_endpoint.clear()
            return forgotten
        clients = self._by_endpoint.pop(endpoint, None)
        return [] if clients is None else [clients]

    async def _close_when_the_loop_ends(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            _loops.pop(self._token, None)
            for clients in self.forget():
                await clients.aclose()


_loops: dict[object, _LoopClients] = {}  # a loop's entry is only touched in the loop's thread


def _of_this_loop() -> _LoopClients:
    token = anyio.lowlevel.current_token().native_token
    found = _loops.get(token)
    if found is None:
        # A loop that was closed without `shutdown_asyncgens()` never closed its clients: let go of them.
        for other in list(_loops):
            if isinstance(other, asyncio.AbstractEventLoop) and other.is_closed():
                _loops.pop(other, None)
        found = _loops[token] = _LoopClients(token)
    return found
