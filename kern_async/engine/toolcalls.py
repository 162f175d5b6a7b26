"""The tool calls of one model turn: side by side, each answered, whatever happens."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import anyio

from kern_async.exceptions import CheckError, ToolError
from kern_async.run.base import Work
from kern_async.run.message import Message, ToolCall
from kern_async.run.tool import ToolExecution
from kern_async.tools import Function
from kern_async.tools.function import BoundCall
from kern_async.tools.result import render

from .active import ActiveCall
from .budget import end_at_limit, refused, spend
from .calls import call_user, noting
from .ending import CUT, answer_to, words_of
from .link import Link
from .pausing import Pausing, ask_person
from .plan import Plan
from .run import Run
from .toolhooks import call_through

PAUSED = "paused"
"""How the event that ends a call for a while reads, whose member waits for a person."""


async def call_tools(run: Run, plan: Plan) -> bool:
    """Run the calls that are due, several at once in parallel; say whether one of them ends the run's loop.

    Every call gets its tool message: its result, its error, or that it was cancelled. A cancel of the run keeps
    the results that are there.

    Raises:
        Pausing: some of them wait for a person; they stay due, and the others are answered.
    """
    turn = _Turn(run, plan)
    run.opened[turn] = turn.keep
    try:
        await turn.answer_all()
    finally:
        turn.keep()
    end_at_limit(run)
    if turn.failures:
        raise turn.failures[0]
    if run.due:
        raise Pausing
    stops, run.progress.stops = run.progress.stops, False
    return stops


class _Turn:
    """The calls that are due, and what has come of them."""

    def __init__(self, run: Run, plan: Plan) -> None:
        self._run = run
        self._calls = _admitted(run, plan)
        self._answers: dict[int, Message] = {}
        self.failures: list[Exception] = []

    async def answer_all(self) -> None:
        """Make the calls, side by side; whatever one of them raises waits for the others, which have begun."""
        if len(self._calls) == 1:
            await self._answer(0, self._calls[0])
            return
        async with anyio.create_task_group() as group:
            for index, call in enumerate(self._calls):
                group.start_soon(self._answer, index, call, name=f"kern-call {call.asked.name}")

    async def _answer(self, index: int, call: _Call) -> None:
        run, function = self._run, call.function
        try:
            message = self._answers[index] = await call.run_to_end()
            if function is not None and not message.tool_call_error:
                run.progress.stops = run.progress.stops or function.stop_after_tool_call
                if function.show_result:
                    await run.say(message.content or "")
        except Pausing:
            return
        except Exception as exc:  # noqa: BLE001 - raised when the turn is over
            self.failures.append(exc)
            if call.refusal is not None:
                self._answers[index] = call.refusal

    def keep(self) -> None:
        """Put the answers into the conversation, in the order of the calls; the other calls stay due."""
        run, answers = self._run, self._answers
        if not run.opened.pop(self, None):
            return
        run.messages.extend(answers[index] for index in sorted(answers))
        run.due = [call.asked for index, call in enumerate(self._calls) if index not in answers]
        # A later call may have the id of one that is answered, and nobody was asked about that one.
        due = {call.id for call in run.due}
        for call_id in run.requirements.keys() - due:
            del run.requirements[call_id]


@dataclass(frozen=True, kw_only=True)
class _Admission:
    """Whether a call may be made, decided in the order of the turn; without `execution` nothing is recorded of it."""

    execution: ToolExecution | None
    refusal: str | None = None


def _admitted(run: Run, plan: Plan) -> list[_Call]:
    seen: set[str] = set()
    calls: list[_Call] = []
    for call in run.due:
        if call.id in seen:  # one person's word, one cancel: an id must say which call is meant
            admission = _Admission(execution=None, refusal="Not called: two calls of this turn have one id.")
        else:
            admission = _admit(run, plan, call)
        seen.add(call.id)
        calls.append(_Call(run, plan, call, admission))
    return calls


def _admit(run: Run, plan: Plan, call: ToolCall) -> _Admission:
    for execution in run.tools:
        if execution.tool_call_id == call.id and execution.result is None:
            return _Admission(execution=execution)  # it, or its member, has waited for a person
    if (limit := spend(run, "tool_calls")) is not None:
        return _Admission(execution=None, refusal=refused(limit))
    function = plan.tools.get(call.name)
    execution = ToolExecution(
        tool_call_id=call.id,
        tool_name=call.name,
        tool_args=_arguments(call.arguments),
        stop_after_tool_call=function is not None and function.stop_after_tool_call,
    )
    refusal = None
    if plan.tool_call_limit is not None and len(run.tools) >= plan.tool_call_limit:
        refusal = f"Not called: this run may make {plan.tool_call_limit} tool calls. Answer without it."
    run.tools.append(execution)
    run.metrics.tool_calls += 1
    return _Admission(execution=execution, refusal=refusal)


class _Call:
    """One call of the turn."""

    def __init__(self, run: Run, plan: Plan, asked: ToolCall, admission: _Admission) -> None:
        self._run = run
        self._plan = plan
        self.asked = asked
        self._admission = admission
        self.function = plan.tools.get(asked.name)
        self.refusal: Message | None = None
        """The answer, if a check refused the call and with it the run."""
        self._elsewhere: str | None = None
        """The result of a call that was executed elsewhere."""
        self._began = 0.0

    async def run_to_end(self) -> Message:
        """Make the call; what comes back is its answer to the model.

        Raises:
            Pausing: it waits for a person.
            CheckError: a hook stops the run.
        """
        run, execution = self._run, self._admission.execution
        await run.checkpoint()
        if execution is None:
            return answer_to(self.asked, self._admission.refusal or CUT, error=True)
        if run.drained:  # it has not begun, and nothing does any more
            execution.result, execution.tool_call_error = CUT, True
            return answer_to(self.asked, CUT, error=True)
        wrong = self._before(execution)
        active = ActiveCall(execution, inner=self.asked.name in self._plan.inner)
        self._began = time.monotonic()
        run.emit("ToolCallStarted", tool=execution.model_copy())
        run.opened[self] = self._cut
        run.calls[self.asked.id] = active
        try:
            with active.scope:
                result = wrong if wrong is not None else await self._make(execution, active)
                if isinstance(result, Exception):
                    raise result
                if active.ends_by_itself():
                    return self._close(render(result), error=False)
            return self._close(CUT, error=True)
        except Pausing:
            self._pause()
            raise
        except CheckError as exc:
            self.refusal = self._close(words_of(exc), error=True)
            raise
        except Exception as exc:  # noqa: BLE001 - a tool's failure is the model's to deal with
            return self._close(words_of(exc) if active.ends_by_itself() else CUT, error=True)
        except BaseException:
            self._cut()
            raise
        finally:
            active.over = True
            if run.calls.get(self.asked.id) is active:
                del run.calls[self.asked.id]

    def _before(self, execution: ToolExecution) -> Exception | None:
        """What is wrong with the call before it is made.

        Raises:
            Pausing: it waits for a person's word.
        """
        function = self.function
        if function is None:
            known = ", ".join(sorted(self._plan.tools)) or "none"
            return ToolError(f"There is no tool {self.asked.name!r}. Available tools: {known}.")
        if self._admission.refusal is not None:
            return ToolError(self._admission.refusal)
        if not _needs_person(function):
            return None
        if self.asked.id not in self._run.requirements:
            try:
                arguments = function.check(self.asked.arguments)
            except ToolError as exc:
                return exc
            ask_person(self._run, function, execution, arguments)
        requirement = self._run.requirements[self.asked.id]
        if not requirement.is_resolved():
            raise Pausing
        decided = requirement.tool_execution
        for name in ("confirmed", "confirmation_note", "answered", "user_input_schema"):
            setattr(execution, name, getattr(decided, name))
        self._elsewhere = decided.result
        if execution.requires_confirmation and not execution.confirmed:
            note = execution.confirmation_note
            return ToolError("The user rejected this call." + (f" Note: {note}" if note else ""))
        return None

    async def _make(self, execution: ToolExecution, active: ActiveCall) -> Any:
        run, function = self._run, self.function
        if function is None or execution.external_execution_required:
            return self._elsewhere
        form = execution.user_input_schema
        given = {field.name: field.value for field in form} if form is not None else None

        def bind(arguments: Mapping[str, Any] | None = None) -> tuple[BoundCall, Link]:
            """The call, ready to be made once; its context has a way to the run of its own."""
            link = Link(run, active)
            context = replace(run.context, tool_call_id=self.asked.id, link=link)
            if arguments is None or arguments == execution.tool_args:
                return function.bind(self.asked.arguments, context, given), link
            return function.bind(arguments, context), link

        bound, _ = bind()
        execution.tool_args = bound.args
        work = Work(kind="tool", name=function.name, run_id=run.id, tool_call_id=self.asked.id)

        async def perform(arguments: Mapping[str, Any]) -> Any:
            if active.inner:
                with noting(run, work, active):
                    return await bind(arguments)[0].call()
            return await self._try(work, partial(bind, arguments), function, active)

        hooks = [*self._plan.tool_hooks, *function.tool_hooks]
        if not hooks and function.pre_hook is None and function.post_hook is None:
            return await perform(bound.args)
        return await call_through(
            run,
            work,
            hooks,
            function=function,
            owner=self._plan.owner,
            arguments=dict(bound.args),
            call=perform,
            within=active,
        )

    async def _try(
        self, work: Work, bind: Callable[[], tuple[BoundCall, Link]], function: Function, active: ActiveCall
    ) -> Any:
        run = self._run
        left = function.retries
        while True:
            bound, link = bind()
            timed = active.patience(function.timeout) if function.timeout is not None else None
            try:
                with timed or nullcontext():
                    return await call_user(run, work, bound.call, is_async=function.is_async, within=active)
                raise ToolError(f"{function.name} timed out after {function.timeout:g} s")
            except CheckError:
                raise
            except Exception:
                if not left or active.cancelled or run.halted:
                    raise
            finally:
                link.close()  # a thread that was left goes on
            left -= 1
            await run.checkpoint()

    def _close(self, text: str, *, error: bool) -> Message:
        """Close the call in the log, whatever its end; without an await."""
        execution = self._admission.execution
        if execution is not None and self._run.opened.pop(self, None):
            execution.result = text
            execution.tool_call_error = error
            self._emit_end(execution, text, error=error)
        return answer_to(self.asked, text, error=error)

    def _cut(self) -> None:
        self._close(CUT, error=True)

    def _pause(self) -> None:
        """Close the call in the log for now: it begins again when its member has its answer."""
        execution = self._admission.execution
        if execution is not None and self._run.opened.pop(self, None):
            self._emit_end(execution, PAUSED, error=False)

    def _emit_end(self, execution: ToolExecution, text: str, *, error: bool) -> None:
        execution.duration = (execution.duration or 0) + time.monotonic() - self._began
        tool = execution.model_copy()
        if error:
            self._run.emit("ToolCallError", tool=tool, error=text)
        else:
            self._run.emit("ToolCallCompleted", tool=tool, content=text)


def _needs_person(function: Function) -> bool:
    return function.requires_confirmation or function.requires_user_input or function.external_execution


def _arguments(raw: str) -> dict[str, Any]:
    """The arguments for the record; text that is no JSON object is recorded as it came."""
    try:
        parsed: Any = json.loads(raw or "{}")
    except (ValueError, RecursionError):
        return {"": raw}
    return cast("dict[str, Any]", parsed) if isinstance(parsed, dict) else {"": raw}
