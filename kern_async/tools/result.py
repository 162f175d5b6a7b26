"""A tool's result as text for the model."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator, Iterable
from contextlib import aclosing, closing
from typing import Any

from pydantic_core import PydanticSerializationError, to_jsonable_python


def render(result: object) -> str:
    """The text that the model is given for a result.

    A string is taken as it is, None is the empty string, everything else is JSON; dates, enums and the like
    are not quoted. What cannot be JSON is `str(result)`.
    """
    if isinstance(result, str):
        return str(result)
    if result is None:
        return ""
    try:
        data = to_jsonable_python(result, fallback=str, inf_nan_mode="strings")
    except (PydanticSerializationError, ValueError, TypeError, RecursionError):
        return str(result)
    return data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)


def drain(pieces: Generator[Any, Any, Any]) -> str:
    """Run a generator to its end; pieces of text are concatenated, others stand on lines of their own."""
    with closing(pieces):
        return _join(list(pieces))


async def drain_async(pieces: AsyncGenerator[Any, Any]) -> str:
    """`drain` for an async generator. A cancel arrives in the generator, which is closed."""
    async with aclosing(pieces):
        return _join([piece async for piece in pieces])


def _join(pieces: Iterable[object]) -> str:
    said = [piece for piece in pieces if piece is not None]
    return ("" if all(isinstance(piece, str) for piece in said) else "\n").join(map(render, said))
