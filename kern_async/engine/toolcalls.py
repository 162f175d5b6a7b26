"""The tool calls of one model turn: side by side, each answered, whatever happens."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from typing import Any, cast

import anyio

from kern_async.exceptions import ToolError
from kern_async.run.base import Work
from kern_async.run.message import Message, ToolCall
from kern_async.run.tool import ToolExecution
from kern_async.tools.result import render

from .calls import call_user, noting
from .ending import words_of
from .plan import Plan
from .run import Run

CUT = "cancelled"
"""What a call that a cancel cut is answered with, in its event and in the conversation."""


async def call_tools(run: Run, plan: Plan, calls: list[ToolCall]) -> bool:
    """Run the calls of one turn, several at once in parallel; say whether one of them ends the run's loop.

    Every call gets its tool message: its result, its error, or that it was cancelled. A cancel of the run keeps
    the results that are there.
    """
    answers: list[Message | None] = [None] * len(calls)
    limit = math.inf if plan.tool_call_limit is None else plan.tool_call_limit - len(run.tools)
    stops: list[bool] = []

    async def answer(index: int, call: ToolCall) -> None:
        message = answers[index] = await _call_tool(run, plan, call, allowed=index < limit)
        function = plan.tools.get(call.name)
        if function is not None and not message.tool_call_error:
            stops.append(function.stop_after_tool_call)
            if function.show_result:
                await run.say(message.content or "")

    def seal() -> None:
        if run.opened.pop(seal, None):
            run.messages.extend(
                message or _message(call, CUT, error=True)
                for call, message in zip(calls, answers, strict=True)
            )

    run.opened[seal] = seal
    try:
        if len(calls) == 1:
            await answer(0, calls[0])
        else:
            async with anyio.create_task_group() as group:
                for index, call in enumerate(calls):
                    group.start_soon(answer, index, call, name=f"kern-call {call.name}")
    finally:
        seal()
    return any(stops)


def _message(call: ToolCall, text: str, *, error: bool = False) -> Message:
    return Message(
        role="tool", content=text, tool_call_id=call.id, tool_name=call.name, tool_call_error=error
    )


async def _call_tool(run: Run, plan: Plan, call: ToolCall, *, allowed: bool) -> Message:
    await run.checkpoint()
    function = plan.tools.get(call.name)
    execution = ToolExecution(
        tool_call_id=call.id,
        tool_name=call.name,
        tool_args=_arguments(call.arguments),
        stop_after_tool_call=function is not None and function.stop_after_tool_call,
    )
    run.tools.append(execution)
    run.metrics.tool_calls += 1
    began = time.monotonic()
    run.emit("ToolCallStarted", tool=execution.model_copy())

    def close(text: str, *, error: bool) -> Message:
        if run.opened.pop(call_key, None):
            execution.result = text
            execution.tool_call_error = error
            execution.duration = time.monotonic() - began
            tool = execution.model_copy()
            if error:
                run.emit("ToolCallError", tool=tool, error=text)
            else:
                run.emit("ToolCallCompleted", tool=tool, content=text)
        return _message(call, text, error=error)

    def cut() -> None:
        close(CUT, error=True)

    call_key = object()
    run.opened[call_key] = cut
    try:
        if function is None:
            known = ", ".join(sorted(plan.tools)) or "none"
            raise ToolError(f"There is no tool {call.name!r}. Available tools: {known}.")
        if not allowed:
            raise ToolError(
                f"Not called: this run may make {plan.tool_call_limit} tool calls. Answer without it."
            )
        bound = function.bind(call.arguments, replace(run.context, tool_call_id=call.id))
        execution.tool_args = bound.args
        work = Work(kind="tool", name=function.name, run_id=run.id, tool_call_id=call.id)
        if function.name in plan.inner:
            with noting(run, work):
                result = await bound.call()
        else:
            result = await call_user(run, work, bound.call, is_async=function.is_async)
        return close(render(result), error=False)
    except Exception as exc:  # noqa: BLE001 - a tool's failure is the model's to deal with
        return close(words_of(exc), error=True)
    except BaseException:
        cut()
        raise


def _arguments(raw: str) -> dict[str, Any]:
    """The arguments for the record; text that is no JSON object is recorded as it came."""
    try:
        parsed: Any = json.loads(raw or "{}")
    except (ValueError, RecursionError):
        return {"": raw}
    return cast("dict[str, Any]", parsed) if isinstance(parsed, dict) else {"": raw}
