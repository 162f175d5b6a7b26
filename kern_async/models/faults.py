"""What goes wrong between us and a provider, as the errors of `kern_async.exceptions`."""

from __future__ import annotations

import math
import ssl
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from email.utils import mktime_tz, parsedate_tz
from typing import Any, cast

import anyio
import httpx2
import openai

from kern_async.exceptions import (
    ModelConnectionError,
    ModelError,
    ModelProtocolError,
    ModelResponseError,
    ModelStatusError,
    ModelTimeout,
)

# httpx2 lets these two through when a TLS connection breaks.
TRANSPORT_ERRORS = (httpx2.RequestError, ssl.SSLError, anyio.EndOfStream)

_SNIPPET = 200
# Sending the same request again cannot change these.
_FINAL_CODES = frozenset(
    {
        "bio_policy",
        "billing_hard_limit_reached",
        "content_filter",
        "context_length_exceeded",
        "data_residency_mismatch",
        "insufficient_quota",
        "invalid_prompt",
        "misalignment_policy_violation",
    }
)


@contextmanager
def provider_faults() -> Generator[None]:
    """Raise what the client and the connection raise in the block as a `ModelError`."""
    try:
        yield
    except openai.APIStatusError as error:
        raise _status_error(error) from error
    except openai.APIConnectionError as error:
        raise connection_fault(error.__cause__ or error) from error
    except TRANSPORT_ERRORS as error:
        raise connection_fault(error) from error


def connection_fault(error: BaseException) -> ModelError:
    """A fault of the connection: refused, cut, too slow, or not HTTP."""
    text = str(error) or type(error).__name__
    error = _as_it_was(error)
    if isinstance(error, httpx2.ConnectTimeout | httpx2.PoolTimeout):
        return ModelConnectionError(f"no connection to the provider within the model's timeout ({text})")
    if isinstance(error, httpx2.TimeoutException):
        return ModelTimeout(f"the provider was silent for longer than the model's timeout ({text})")
    if isinstance(error, httpx2.DecodingError):
        return ModelProtocolError(f"the provider's answer cannot be decoded: {text}")
    if isinstance(error, httpx2.ConnectError):
        return ModelConnectionError(f"the provider cannot be reached: {text}")
    return ModelConnectionError(f"the connection to the provider was cut: {text}")


def _as_it_was(error: BaseException) -> BaseException:
    """The SDK's aiohttp transport takes every connection that is not made, or lost, for one that took too long."""
    cause = error.__cause__
    if not isinstance(error, httpx2.ConnectTimeout) or not type(cause).__module__.startswith("aiohttp."):
        return error
    import aiohttp

    if isinstance(cause, TimeoutError):
        return error
    refused = isinstance(cause, aiohttp.ClientConnectorError)
    return httpx2.ConnectError(str(cause)) if refused else httpx2.ReadError(str(cause))


def reported_fault(error: object, fallback: str) -> ModelResponseError:
    """The fault that an answer reports of itself: an object with `code` and `message`, or a text."""
    code: str | None = None
    if isinstance(error, Mapping):
        fields = cast("Mapping[str, Any]", error)
        code = _text(fields.get("code")) or _text(fields.get("type"))
        error = _text(fields.get("message")) or code
    message = _text(error) or fallback
    retryable = code is None or not (
        code in _FINAL_CODES or code == "invalid_request_error" or "image" in code
    )
    return ModelResponseError(f"the provider reported: {message}", code=code, retryable=retryable)


def malformed(event: bytes, error: Exception) -> ModelProtocolError:
    """The fault of an event that is not JSON, or not what the protocol says of its kind."""
    return ModelProtocolError(
        f"the provider sent a malformed event: {snippet(event.decode(errors='replace'))} "
        f"({type(error).__name__}: {error})"
    )


def snippet(text: str) -> str:
    """The beginning of a text, for an error message."""
    return repr(text if len(text) <= _SNIPPET else text[:_SNIPPET] + "...")


def _status_error(error: openai.APIStatusError) -> ModelStatusError:
    body: object = error.body
    fields: Mapping[str, Any] = cast("Mapping[str, Any]", body) if isinstance(body, Mapping) else {}
    code = _text(fields.get("code")) or _text(fields.get("type"))
    message = _text(fields.get("message")) or _text(fields.get("detail"))
    if message is None:
        message = snippet(str(error.body).strip()) if body else error.response.reason_phrase
    status = error.status_code
    fault = ModelStatusError(
        f"the provider answered with status {status}: {message}",
        status_code=status,
        code=code,
        retry_after=_retry_after(error.response.headers),
    )
    wish = error.response.headers.get("x-should-retry")
    if wish in ("true", "false"):
        fault.retryable = wish == "true"
    elif code in _FINAL_CODES:
        fault.retryable = False
    return fault


def _retry_after(headers: Mapping[str, str]) -> float | None:
    for name, per_second in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) / per_second
        except (KeyError, ValueError):
            continue
        return seconds if math.isfinite(seconds) and seconds >= 0 else None
    date = parsedate_tz(headers.get("retry-after", ""))
    return None if date is None else max(0.0, mktime_tz(date) - time.time())


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
