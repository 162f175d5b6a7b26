"""What the two provider protocols have in common: pieces of an answer in, bytes out."""

from __future__ import annotations

import json
import secrets
from abc import ABC, abstractmethod
from json.encoder import encode_basestring
from typing import Any

from .replies import End, Usage
from .request import Json, Request

quote = encode_basestring
"""A string as JSON, with non-ASCII characters as they are, as the real provider sends them."""


def dumps(value: Any) -> str:
    """A value as compact JSON, with non-ASCII characters as they are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def new_id(prefix: str) -> str:
    """A fresh id in the provider's style."""
    return f"{prefix}_{secrets.token_hex(24)}"


def error_body(message: str, *, code: str | None, kind: str = "server_error") -> Json:
    """The body that goes with an HTTP status of 400 or more."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


class Wire(ABC):
    """One answer in one protocol. Every method returns the events to send, which may be none.

    Pieces of the same kind that follow each other belong to one output item.
    """

    def __init__(self, request: Request) -> None:
        self._request = request

    @abstractmethod
    def begin(self) -> bytes:
        """The first events, once."""

    @abstractmethod
    def text(self, delta: str) -> bytes:
        """A piece of the answer's text."""

    @abstractmethod
    def refusal(self, delta: str) -> bytes:
        """A piece of a refusal."""

    @abstractmethod
    def reasoning(self, delta: str) -> bytes:
        """A piece of the reasoning summary."""

    @abstractmethod
    def call(self, name: str, call_id: str) -> bytes:
        """The start of a function call."""

    @abstractmethod
    def arguments(self, delta: str) -> bytes:
        """A piece of the arguments of the call that was started last."""

    @abstractmethod
    def malformed(self, data: str) -> bytes:
        """An event with this data."""

    @abstractmethod
    def end(self, end: End, usage: Usage) -> bytes:
        """The last events."""

    @abstractmethod
    def document(self, end: End, usage: Usage) -> tuple[int, Json]:
        """HTTP status and body of the same answer when it is not streamed; called instead of `end`."""
