"""A server, as the commands talk to it: every failure is one line, and none of them shows the key."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import quote

import httpx2

from kern_async.agent.printing import printable
from kern_async.models.sse import SSESplitter

from .exits import Refused

CONNECT = 5.0
"""Seconds until a server that cannot be reached is given up."""
ANSWER = 30.0
"""Seconds until a server that says nothing is given up."""
SILENCE = 60.0
"""Seconds without a byte of a stream after which it counts as broken; the server sends one every 15."""
SETTLE = 300.0
"""Seconds that a server may take to answer when it waits for a run's end."""
_LATER = (429, 502, 503, 504)
"""What a server answers that may do it another time."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1", "[::1]")


class Broken(Exception):
    """A stream that ended before what it tells of did."""


@dataclass(frozen=True)
class Target:
    """An agent or a team of a server."""

    kind: str
    id: str
    name: str = ""

    @property
    def runs(self) -> str:
        """The path of its runs."""
        return f"/{self.kind}s/{quote(self.id, safe='')}/runs"


class Server:
    """A kern_async server; a context manager.

    Raises:
        Refused: from every method: it cannot be reached, or answers that it will not.
    """

    def __init__(self, url: str, key: str | None) -> None:
        try:
            address = httpx2.URL(url if "://" in url else f"http://{url}")
        except httpx2.InvalidURL as error:
            raise Refused(f"the URL of the server is not one: {error}") from None
        if address.scheme not in ("http", "https") or not address.host:
            raise Refused("the URL of the server is not one: http://localhost:7777 is")
        self.address = f"{address.scheme}://{address.netloc.decode()}"
        """The URL without a password in it."""
        headers = {"User-Agent": "kern-async"}
        if key:
            try:
                headers["Authorization"] = f"Bearer {key.encode('ascii').decode()}"
            except UnicodeEncodeError:
                raise Refused("the key has characters that no key has") from None
        self._client = httpx2.Client(
            base_url=address,
            headers=headers,
            timeout=httpx2.Timeout(ANSWER, connect=CONNECT),
            verify=address.scheme == "https",  # nothing is verified without TLS, and it takes long to prepare
            trust_env=address.host not in _LOOPBACK,  # no proxy reaches our loopback
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def get(self, path: str, **query: Any) -> Any:
        """The JSON that a GET answers."""
        return self._ask("GET", path, params=query)

    def list(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """The objects of the list, or of a page's, that a GET answers."""
        answer = self.get(path, **query)
        if isinstance(answer, dict):
            answer = cast("dict[str, Any]", answer).get("data")
        if not isinstance(answer, list):
            raise Refused(f"{self.address} does not answer as a kern_async server does: {path} is no list")
        return [each for each in cast("list[Any]", answer) if isinstance(each, dict)]

    def post(self, path: str, body: Any = None, *, patience: float = ANSWER, **query: Any) -> Any:
        """The JSON that a POST of JSON answers."""
        options: dict[str, Any] = {} if body is None else {"json": body}
        timeout = httpx2.Timeout(patience, connect=CONNECT)
        return self._ask("POST", path, params=query, timeout=timeout, **options)

    def delete(self, path: str) -> None:
        """Delete what is there."""
        self._ask("DELETE", path)

    def find(self, path: str, **query: Any) -> Any | None:
        """`get`, but None if there is no such thing."""
        try:
            return self.get(path, **query)
        except NotFound:
            return None

    @contextmanager
    def stream(
        self, method: str, path: str, *, form: dict[str, str] | None = None, after: int = -1
    ) -> Generator[Iterator[bytes]]:
        """The data of a stream's events as they come: those whose index is greater than `after`.

        Raises:
            Refused: the server refuses the request, or cannot be reached.
            Broken: while it is read: the connection broke.
        """
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": str(after)} if after >= 0 else {})
        try:
            with self._client.stream(
                method, path, data=form, headers=headers, timeout=httpx2.Timeout(SILENCE, connect=CONNECT)
            ) as response:
                if response.status_code >= 400:
                    response.read()
                    raise self._refusal(response)
                if not response.headers.get("content-type", "").startswith("text/event-stream"):
                    raise self._stranger(response)
                yield _events(response)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise self._unreachable(error) from None

    def targets(self) -> list[Target]:
        """The agents and teams of the server."""
        found: list[Target] = []
        for kind in ("team", "agent"):
            there = self.list(f"/{kind}s")
            found += [Target(kind, str(each.get("id")), str(each.get("name") or "")) for each in there]
        return found

    def target(self, name: str) -> Target:
        """The agent or team of this id, `team:id` or `agent:id`, or name."""
        kind, colon, wanted = name.partition(":")
        if not colon or kind not in ("team", "agent"):
            kind, wanted = "", name
        there = self.targets()
        near = [target for target in there if kind in ("", target.kind)]
        fitting = [target for target in near if target.id == wanted] or [
            target for target in near if target.name == wanted
        ]
        if len(fitting) == 1:
            return fitting[0]
        offer = ", ".join(f"{target.kind}:{target.id}" for target in fitting or there)
        if fitting:
            raise Refused(f"{name!r} is more than one at {self.address}: {offer}")
        raise Refused(f"{self.address} has no agent or team {name!r}; there is {offer or 'none'}")

    def live(self, **query: Any) -> list[dict[str, Any]]:
        """The live runs, as trees."""
        return self.list("/runs", **query)

    def _ask(self, method: str, path: str, **options: Any) -> Any:
        options["params"] = {
            name: value for name, value in options.get("params", {}).items() if value is not None
        }
        try:
            response = self._client.request(method, path, **options)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise self._unreachable(error) from None
        if response.status_code >= 400:
            raise self._refusal(response)
        if response.status_code == 204:
            return None
        try:
            return response.json()
        except ValueError:
            raise self._stranger(response) from None

    def _refusal(self, response: httpx2.Response) -> Refused:
        try:
            detail = response.json().get("detail")
        except (ValueError, AttributeError):
            return self._stranger(response)
        if isinstance(detail, list):
            detail = "; ".join(map(_complaint, cast("list[Any]", detail)))
        what = f"{self.address}: {printable(str(detail))} ({response.status_code})"
        if response.status_code == 404:
            return NotFound(what)
        if response.status_code in _LATER:
            return Unreachable(what)
        if response.status_code == 401:
            what += "; give its key with --key or in OS_SECURITY_KEY"
        return Refused(what)

    def _stranger(self, response: httpx2.Response) -> Refused:
        kind = response.headers.get("content-type", "no content type").partition(";")[0]
        return Refused(
            f"{self.address} does not answer as a kern_async server does: {response.status_code}, {kind}"
        )

    def _unreachable(self, error: Exception) -> Refused:
        if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
            return Unreachable(
                f"cannot connect to {self.address}: {_reason(error)}; is `kern-async serve` running there?"
            )
        if isinstance(error, httpx2.TimeoutException):
            return Unreachable(f"{self.address} does not answer")
        return Unreachable(f"the connection to {self.address} broke: {_reason(error)}")


class NotFound(Refused):
    """The server says that there is no such thing."""


class Unreachable(Refused):
    """The server cannot be reached, does not answer, or cannot do it now."""


def _events(response: httpx2.Response) -> Iterator[bytes]:
    splitter = SSESplitter()
    try:
        for chunk in response.iter_bytes():
            yield from splitter.feed(chunk)
    except httpx2.HTTPError as error:
        raise Broken(_reason(error)) from None
    except ValueError as error:
        raise Broken(str(error)) from None


def _complaint(error: Any) -> str:
    if not isinstance(error, dict):
        return json.dumps(error)
    about = cast("dict[str, Any]", error)
    where = ".".join(str(part) for part in about.get("loc", ()) if part not in ("body", "query", "path"))
    return f"{where}: {about.get('msg')}" if where else str(about.get("msg"))


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
