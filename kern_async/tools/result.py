"""A tool's result as text for the model."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
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


Report = Callable[[Any], object]
Checkpoint = Callable[[], object]


def drain(
    pieces: Generator[Any, Any, Any], *, report: Report | None = None, checkpoint: Checkpoint | None = None
) -> str:
    """Run a generator to its end; pieces of text are concatenated, others stand on lines of their own.

    Each piece but None is reported as it comes. After each, `checkpoint` may raise to stop the generator, which is
    closed.
    """
    said: list[object] = []
    with closing(pieces):
        for piece in pieces:
            _take(piece, said, report, checkpoint)
    return _join(said)


async def drain_async(
    pieces: AsyncGenerator[Any, Any], *, report: Report | None = None, checkpoint: Checkpoint | None = None
) -> str:
    """`drain` for an async generator. A cancel arrives in the generator, which is closed."""
    said: list[object] = []
    async with aclosing(pieces):
        async for piece in pieces:
            _take(piece, said, report, checkpoint)
    return _join(said)


def _take(piece: object, said: list[object], report: Report | None, checkpoint: Checkpoint | None) -> None:
    if piece is not None:
        said.append(piece)
        if report is not None:
            report(piece)
    if checkpoint is not None:
        checkpoint()


def _join(said: Sequence[object]) -> str:
    return ("" if all(isinstance(piece, str) for piece in said) else "\n").join(map(render, said))
