from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Annotated, Any, Literal

import anyio
import pytest
from pydantic import Base64Bytes, BaseModel, Field

from kern_async.exceptions import RunCancelled, ToolError
from kern_async.run import RunContext
from kern_async.tools import Function
from kern_async.tools.function import BoundCall
from kern_async.tools.result import render

CONTEXT = RunContext(run_id="run-1", session_id="session-1")


class Point(BaseModel):
    x: int
    y: int = 0


def bind(function: Callable[..., Any], arguments: str | dict[str, Any]) -> BoundCall:
    return Function.from_callable(function).bind(arguments, CONTEXT)


def refusal(function: Callable[..., Any], arguments: str | dict[str, Any]) -> str:
    with pytest.raises(ToolError) as caught:
        bind(function, arguments)
    return str(caught.value)


def search(query: str, limit: int = 5, mode: Literal["all", "any"] = "all") -> str:
    return f"{query}/{limit}/{mode}"


@pytest.mark.parametrize("arguments", ['{"query": "q", "limit": 3}', {"query": "q", "limit": 3}])
def test_a_call_gets_what_the_model_sent(arguments: str | dict[str, Any]) -> None:
    bound = bind(search, arguments)
    assert bound.args == {"query": "q", "limit": 3}
    assert bound.call() == "q/3/all"


@pytest.mark.parametrize("arguments", ["", "  \n", "{}", {}])
def test_no_text_means_no_arguments(arguments: str | dict[str, Any]) -> None:
    assert bind(lambda_named("ping", lambda: "pong"), arguments).call() == "pong"


def lambda_named(name: str, function: Callable[..., Any]) -> Function:
    return Function(name=name, entrypoint=function)


def test_arguments_become_the_types_that_the_function_wants_and_are_recorded_as_json() -> None:
    def plan(
        at: dt.date,
        count: int,
        zipcode: str,
        points: list[Point],
        key: uuid.UUID,
        span: tuple[int, int],
    ) -> list[Any]:
        return [at, count, zipcode, points, key, span]

    key = uuid.uuid4()
    bound = bind(
        plan,
        f'{{"at": "2026-11-22", "count": "7", "zipcode": 12345, "points": [{{"x": "1"}}], "key": "{key}",'
        ' "span": [1, 2]}',
    )
    assert bound.call() == [dt.date(2026, 11, 22), 7, "12345", [Point(x=1)], key, (1, 2)]
    assert bound.args == {
        "at": "2026-11-22",
        "count": 7,
        "zipcode": "12345",
        "points": [{"x": 1}],
        "key": str(key),
        "span": [1, 2],
    }


def test_what_was_recorded_is_json_and_can_be_bound_again() -> None:
    def plan(at: dt.date, point: Point, raw: Base64Bytes, size: float, *_: int, **rest: dt.date) -> list[Any]:
        return [at, point, raw, size, rest]

    sent = {"at": "2026-11-22", "point": {"x": 1}, "raw": "/w==", "size": float("inf"), "end": "2026-11-23"}
    bound = bind(plan, sent)
    assert bound.call() == [
        dt.date(2026, 11, 22),
        Point(x=1),
        b"\xff",
        float("inf"),
        {"end": dt.date(2026, 11, 23)},
    ]
    assert json.loads(json.dumps(bound.args, allow_nan=False)) == bound.args
    assert bind(plan, bound.args).call() == bound.call()


def test_the_record_is_apart_from_what_the_function_gets() -> None:
    def tool(words: list[str]) -> list[str]:
        words.append("more")
        return words

    bound = bind(tool, '{"words": ["one"]}')
    bound.call()
    assert bound.args == {"words": ["one"]}


def test_the_functions_own_default_is_used_for_what_the_model_left_out() -> None:
    default = object()

    def tool(a: Any = default, b: Annotated[int, Field(default=4)] = Field(3, gt=1), c: str = None) -> Any:  # type: ignore[assignment]  # noqa: RUF013
        return a, b, c

    assert bind(tool, "").call() == (default, 3, None)
    assert bind(tool, '{"c": null}').call() == (default, 3, None)


def test_every_kind_of_parameter_can_be_given() -> None:
    def tool(a: int, b: int = 2, /, c: int = 3, *, d: int = 4, **rest: int) -> list[Any]:
        return [a, b, c, d, rest]

    assert bind(tool, '{"a": 1, "d": 5, "b": 0, "f": "6"}').call() == [1, 0, 3, 5, {"f": 6}]
    assert bind(tool, '{"a": 1}').call() == [1, 2, 3, 4, {}]


def test_the_context_goes_into_the_parameters_that_are_annotated_with_it() -> None:
    def tool(a: RunContext, /, x: int, *, b: RunContext | None = None) -> list[Any]:
        return [a, x, b]

    bound = bind(tool, '{"x": 1}')
    assert bound.args == {"x": 1}
    assert bound.call() == [CONTEXT, 1, CONTEXT]


def test_a_model_cannot_give_the_context() -> None:
    def tool(ctx: RunContext) -> str:
        return ctx.run_id

    assert "ctx: there is no such argument (arguments: it takes none)" in refusal(
        tool, '{"ctx": {"run_id": "x"}}'
    )


def test_a_model_cannot_change_what_is_fixed_by_way_of_var_keywords() -> None:
    def send(text: str = "", *, urgent: bool, ctx: RunContext, **rest: Any) -> dict[str, Any]:
        return {"text": text, "urgent": urgent, "ctx": ctx, **rest}

    fixed = partial(send, urgent=False)
    assert bind(fixed, '{"to": "x"}').call() == {"text": "", "urgent": False, "ctx": CONTEXT, "to": "x"}
    for name in ("urgent", "ctx", "parameter_0"):
        assert f"- {name}: there is no such argument" in refusal(fixed, {name: True})


def test_a_missing_argument_is_named_with_what_is_expected() -> None:
    assert refusal(search, "{}") == "search: wrong arguments\n- query: required, but missing, expected string"


def test_every_wrong_argument_is_named_with_what_is_wrong_and_what_came() -> None:
    def tool(count: int, points: list[Point], mode: Literal["a", "b"]) -> None: ...

    assert refusal(tool, '{"count": "many", "points": [{"x": 1}, {"y": "z"}], "mode": "c"}').splitlines() == [
        "tool: wrong arguments",
        "- count: Input should be a valid integer, unable to parse string as an integer; got 'many'",
        "- points[1].x: required, but missing",
        "- points[1].y: Input should be a valid integer, unable to parse string as an integer; got 'z'",
        "- mode: Input should be 'a' or 'b'; got 'c'",
    ]


def test_an_argument_that_the_function_does_not_have_is_refused_with_those_it_has() -> None:
    assert "- top: there is no such argument (arguments: query, limit, mode)" in refusal(
        search, '{"query": "q", "top": 3}'
    )


@pytest.mark.parametrize(
    "arguments", ['{"query": "q"', '{"query": "q"} {}', "query=q", '{"query": "\\ud800"}']
)
def test_text_that_is_no_json_is_refused(arguments: str) -> None:
    assert "the arguments are not valid JSON" in refusal(search, arguments)


@pytest.mark.parametrize("arguments", ["[1]", '"q"', "null", "3"])
def test_arguments_that_are_no_object_are_refused(arguments: str) -> None:
    assert "the arguments must be one JSON object, not" in refusal(search, arguments)


def test_a_refusal_is_short_and_without_links() -> None:
    text = refusal(search, {"query": ["x" * 10_000]})
    assert len(text) < 300
    assert "http" not in text


def test_a_sync_generators_pieces_are_joined() -> None:
    def words() -> Iterator[str]:
        yield "one "
        yield "two"

    def rows() -> Iterator[Any]:
        yield {"a": 1}
        yield None
        yield "b"

    assert bind(words, "").call() == "one two"
    assert bind(rows, "").call() == '{"a": 1}\nb'


async def test_an_async_generators_pieces_are_joined() -> None:
    async def words() -> AsyncIterator[str]:
        yield "one "
        await anyio.lowlevel.checkpoint()
        yield "two"

    assert await bind(words, "").call() == "one two"


class Listener:
    """A run, as far as a context knows it: it keeps what is reported, and is to stop after so many reports."""

    def __init__(self, patience: int) -> None:
        self.heard: list[Any] = []
        self.patience = patience

    @property
    def stopping(self) -> bool:
        return len(self.heard) >= self.patience

    def report(self, content: Any, tool_call_id: str | None) -> None:
        self.heard.append((content, tool_call_id))


def listening(patience: int = 99) -> tuple[Listener, RunContext]:
    link = Listener(patience)
    return link, dataclasses.replace(CONTEXT, tool_call_id="call", link=link)


def test_each_piece_of_a_generator_is_reported_once_as_it_comes() -> None:
    link, context = listening()
    seen: list[int] = []

    def pieces() -> Iterator[Any]:
        for piece in ("a", None, {"b": 1}):
            yield piece
            seen.append(len(link.heard))

    assert Function.from_callable(pieces).bind("", context).call() == 'a\n{"b": 1}'
    assert link.heard == [("a", "call"), ({"b": 1}, "call")]
    assert seen == [1, 1, 2]


async def test_each_piece_of_an_async_generator_is_reported_once_as_it_comes() -> None:
    link, context = listening()

    async def pieces() -> AsyncIterator[str]:
        yield "a"
        assert link.heard == [("a", "call")]
        yield "b"

    assert await Function.from_callable(pieces).bind("", context).call() == "ab"
    assert link.heard == [("a", "call"), ("b", "call")]


async def test_a_run_that_is_to_stop_stops_a_generator_after_the_piece_at_hand() -> None:
    closed: list[str] = []

    def counting() -> Iterator[int]:
        try:
            yield from range(9)
        finally:
            closed.append("sync")

    async def acounting() -> AsyncIterator[int]:
        try:
            for number in range(9):
                yield number
        finally:
            closed.append("async")

    link, context = listening(patience=2)
    with pytest.raises(RunCancelled):
        Function.from_callable(counting).bind("", context).call()
    assert (link.heard, closed) == ([(0, "call"), (1, "call")], ["sync"])
    link, context = listening(patience=2)
    with pytest.raises(RunCancelled):
        await Function.from_callable(acounting).bind("", context).call()
    assert (link.heard, closed) == ([(0, "call"), (1, "call")], ["sync", "async"])


async def test_a_cancel_reaches_into_an_async_generator_and_closes_it() -> None:
    closed: list[bool] = []

    async def words() -> AsyncIterator[str]:
        try:
            yield "one"
            scope.cancel()
            await anyio.sleep_forever()
        finally:
            closed.append(True)

    with anyio.CancelScope() as scope:
        await bind(words, "").call()
    assert scope.cancelled_caught
    assert closed == [True]


async def test_an_async_functions_call_is_awaited() -> None:
    async def double(x: int) -> int:
        await anyio.lowlevel.checkpoint()
        return 2 * x

    assert await bind(double, '{"x": 2}').call() == 4


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Range:
    start: int


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("as it is", "as it is"),
        ("", ""),
        (None, ""),
        (True, "true"),
        (3, "3"),
        (0.5, "0.5"),
        ({"a": [1, "é"]}, '{"a": [1, "é"]}'),
        ([Point(x=1), Range(2), {3}], '[{"x": 1, "y": 0}, {"start": 2}, [3]]'),
        (Point(x=1), '{"x": 1, "y": 0}'),
        (Colour.RED, "red"),
        (dt.date(2026, 11, 22), "2026-11-22"),
        (float("inf"), "Infinity"),
        (b"text", "text"),
        (b"\xff", "b'\\xff'"),
        (int, "<class 'int'>"),
        ({"kind": int}, '{"kind": "<class \'int\'>"}'),
    ],
)
def test_a_result_is_text_for_the_model(result: Any, text: str) -> None:
    assert render(result) == text


def test_a_result_that_contains_itself_is_still_text() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert render(loop) == "[[...]]"
