"""How much a request may be, how often one may come, and how many runs may be at once."""

from __future__ import annotations

import codecs
import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from urllib.parse import unquote_to_bytes

from fastapi import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kern_async.engine.registry import live_runs
from kern_async.exceptions import ConfigurationError

from .refusal import refuse

PERIODS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
MOST_CALLERS = 10_000
"""How many callers a rate limit knows; the one that was not heard of for the longest is forgotten."""


class RequestLimits:
    """Middleware that refuses requests which are too large, or whose text is no text.

    The body is measured by what the client says of it, and as it comes: nothing larger is ever read. The path, the
    query, headers (but cookies, which nobody here reads) and forms are UTF-8 without NUL, which no database keeps.
    """

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, max_header_bytes: int) -> None:
        self._app = app
        self._max_body = max_body_bytes
        self._max_header = max_header_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        try:
            self._check_head(scope)
        except HTTPException as error:
            await refuse(error, scope, receive, send)
            return
        if scope["type"] == "http":
            await _Body(self._app, self._max_body, _content_type(scope))(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _check_head(self, scope: Scope) -> None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        raw_path: bytes = scope.get("raw_path") or scope["path"].encode("utf-8", "replace")
        query: bytes = scope.get("query_string", b"")
        size = len(raw_path) + len(query) + sum(len(name) + len(value) + 4 for name, value in headers)
        if size > self._max_header:
            raise HTTPException(
                431, f"the request's address and headers are larger than {self._max_header} bytes"
            )
        for what, raw in (("path", raw_path), ("query", query)):
            if not _is_text(unquote_to_bytes(raw)):
                raise HTTPException(400, f"the request's {what} is not UTF-8 text without NUL")
        for name, value in headers:
            if name != b"cookie" and not _is_text(value):
                raise HTTPException(400, f"the header {name.decode('latin-1')} is not UTF-8 text")
            # A server sees to it that it is a number.
            if (
                name == b"content-length"
                and value.isdigit()
                and (len(value) > 18 or int(value) > self._max_body)
            ):
                raise _too_large(self._max_body)


def _too_large(most: int) -> HTTPException:
    return HTTPException(413, f"the request's body is larger than {most} bytes")


def _is_text(raw: bytes) -> bool:
    try:
        return "\0" not in raw.decode()
    except UnicodeDecodeError:
        return False


def _content_type(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"content-type":
            return bytes(value).partition(b";")[0].strip().lower()
    return b""


class _Body:
    """One request whose body is looked at as the application reads it.

    When it is refused, that is the answer, and for the application the client has gone.
    """

    def __init__(self, app: ASGIApp, most: int, content_type: bytes) -> None:
        self._app = app
        self._most = most
        self._size = 0
        self._form = _FormText(content_type) if content_type in FORMS else None
        self._began = self._refused = self._gone = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def read() -> Message:
            if self._gone:
                return {"type": "http.disconnect"}
            message = await receive()
            error = self._look_at(message)
            if error is None:
                return message
            self._gone = True
            if not self._began:
                self._refused = True
                await refuse(error, scope, receive, send)
            return {"type": "http.disconnect"}

        async def answer(message: Message) -> None:
            if not self._refused:
                self._began = True
                await send(message)

        try:
            await self._app(scope, read, answer)
        except ClientDisconnect:
            if not self._refused:
                raise

    def _look_at(self, message: Message) -> HTTPException | None:
        if message["type"] != "http.request":
            return None
        piece: bytes = message.get("body", b"")
        self._size += len(piece)
        if self._size > self._most:
            return _too_large(self._most)
        if self._form is not None and not self._form.goes_on(piece, last=not message.get("more_body", False)):
            return HTTPException(400, "the form is not UTF-8 text without NUL")
        return None


URLENCODED = b"application/x-www-form-urlencoded"
FORMS = (URLENCODED, b"multipart/form-data")


class _FormText:
    """Whether a form is text, as it comes in pieces. One with files may have anything in them.

    The parsers cannot be asked: they read what is no UTF-8 as another text, without a word.
    """

    def __init__(self, content_type: bytes) -> None:
        self._escaped = content_type == URLENCODED
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text = True
        self._files = False
        self._kept = b""

    def goes_on(self, piece: bytes, *, last: bool) -> bool:
        """Whether it may still be, or with its `last` piece is, a form of text."""
        data = self._kept + piece
        if self._escaped:
            # An escape, %C3, may be cut anywhere.
            cut = len(data) if last else data.rfind(b"%", max(0, len(data) - 2))
            data, self._kept = (data, b"") if cut < 0 else (data[:cut], data[cut:])
            data = unquote_to_bytes(data)
        else:
            self._files = self._files or b"filename" in data.lower()
            data, self._kept = piece, data[-7:]
        self._text = self._text and self._decodes(data, last)
        return self._text or self._files or not (last or self._escaped)

    def _decodes(self, data: bytes, last: bool) -> bool:
        try:
            return "\0" not in self._decoder.decode(data, last)
        except UnicodeDecodeError:
            return False


class RateLimit:
    """So many requests of one caller in a period, all at once or spread over it.

    Args:
        rate: such as `60/minute`; the periods are second, minute, hour and day.
        clock: what time it is, in seconds.

    Raises:
        ConfigurationError: `rate` is something else.
    """

    def __init__(self, rate: str, clock: Callable[[], float] = time.monotonic) -> None:
        match = re.fullmatch(r"([1-9][0-9]{0,8})/(\w+)", rate)
        period = PERIODS.get(match[2]) if match else None
        if match is None or period is None:
            raise ConfigurationError(
                f"rate_limit is {rate!r}; it is a number of requests and a period, such as '60/minute': "
                f"the periods are {', '.join(PERIODS)}"
            )
        self._most = int(match[1])
        self._rate = self._most / period
        self._says = f"{match[1]} requests a {match[2]}"
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = (
            OrderedDict()
        )  # caller -> (how many, at what time)

    def spend(self, caller: str) -> None:
        """Count a request of this caller.

        Raises:
            HTTPException: 429, it is one too many; `Retry-After` says in how many seconds it would not be.
        """
        now = self._clock()
        left, at = self._left.pop(caller, (float(self._most), now))
        left = min(float(self._most), left + (now - at) * self._rate)
        enough = left >= 1
        self._left[caller] = (left - 1 if enough else left, now)
        if len(self._left) > MOST_CALLERS:
            self._left.popitem(last=False)
        if not enough:
            seconds = math.ceil((1 - left) / self._rate)
            raise too_many(f"more than {self._says}; try again in {seconds} s", seconds)


def check_room_for_a_run(most: int | None, coming: Iterable[str] = ()) -> None:
    """See that this process has fewer than `most` live runs; members and paused runs do not count.

    `coming` are the ids of those that are live in a moment. A run counts from its creation on: between this and the
    creation there must be no `await`.

    Raises:
        HTTPException: 429, it has as many.
    """
    if most is None:
        return
    live = {
        run.id
        for run in live_runs()
        if run.parent is None and (not run.resting or run.attempt.taken("continue"))
    }
    if len(live.union(coming)) >= most:
        raise too_many(
            f"{most} runs are live, as many as this server runs at once; try again when one has ended", 1
        )


def too_many(detail: str, seconds: int) -> HTTPException:
    """429, and when to try again."""
    return HTTPException(429, detail, {"Retry-After": str(seconds)})
