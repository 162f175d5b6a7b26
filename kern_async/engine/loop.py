"""The agent loop: hooks, model, tools, model, ... until there is an answer. Teams run the same one."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from kern_async.exceptions import ConfigurationError, ModelKeyMissing, OutputSchemaError, ToolError
from kern_async.models.base import ModelReply
from kern_async.run.base import RunStatus, Work
from kern_async.run.message import text_message
from kern_async.tools import Toolkit
from kern_async.tools.toolkit import load_remote

from .budget import LimitReached, end_at_limit
from .calls import call_async
from .ending import waiting_for, words_of
from .execute import Body
from .generate import back_off, generate, hears
from .history import told
from .hooks import run_hooks
from .observe import log
from .pausing import Pausing
from .plan import Plan
from .recall import recall
from .resume import GO_ON
from .run import Run
from .toolcalls import call_tools


def body_of(make_plan: Callable[[Run], Plan]) -> Body:
    """The body, for `execute`, of a run that works on the plan that `make_plan` gives for it."""
    plan: Plan | None = None  # further attempts go on with what the first has made of it

    def body(run: Run) -> Awaitable[None]:
        nonlocal plan
        plan = plan or make_plan(run)
        return work(run, plan)

    return body


async def work(run: Run, plan: Plan) -> None:
    """Do what the plan says, from where the run has come to; return when its content is complete, or it pauses.

    A cancel interrupts any of it, or, a graceful one, has it return at the next boundary.
    """
    await _remember(run, plan)
    answer = run.progress.answer
    while answer is None:
        gone = _gone(run)
        try:
            await _open(run, plan)
            answer = await _converse(run, plan)
            while _another_round(run, plan):
                answer = await _converse(run, plan)
        except Pausing:
            # Whom it waited for may have been cancelled in the meantime: then it need not pause.
            if any(waiting_for(run)) or _gone(run) == gone:
                run.claim(RunStatus.paused)
                return
        finally:
            run.progress.phase = None
    if run.halted:
        run.claim(RunStatus.cancelled, "parent")  # unless it was cancelled itself
        return
    if plan.output_schema is not None:
        run.final = _parse("".join(run.text[answer:]), plan.output_schema)
    run.progress.answer = answer
    run.emit("RunContentCompleted")
    if plan.post_hooks:
        await _post_hooks(run, plan)


def _gone(run: Run) -> int:
    """How many members below have been cancelled, or gone on to their end, since they paused."""
    return sum(bool(member.attempt.number) and (member.ended or member.cancelling) for member in run.below())


async def _open(run: Run, plan: Plan) -> None:
    """Do what comes before the first model request, as far as that is not done."""
    progress = run.progress
    if not progress.prepared:
        if plan.pre_hooks:
            await run_hooks(run, plan, plan.pre_hooks, "Pre", run_input=run.input)
            run.messages[:] = run.input.messages()
        if plan.remote:
            await _fetch_tools(run, plan)
        run.messages[:] = plan.messages(run, await told(run, plan.trim_history))
        progress.history_at = _history_at(run)
        progress.prepared = True
    if plan.open is not None and not progress.opened:
        progress.phase = "tools"
        try:
            await plan.open(run)
        finally:
            end_at_limit(run)
    progress.opened = True


async def _remember(run: Run, plan: Plan) -> None:
    """Learn what the session knows, and have the database know of the run: in this order, for that is quicker."""
    progress = run.progress
    if not progress.recalled:
        await recall(run, plan)
        if progress.prepared and progress.history_at is not None:
            at = progress.history_at
            run.messages[at:at] = await told(run, plan.trim_history)
    if run.keeper is not None and run.parent is None:
        run.keeper.begin(run)


def _history_at(run: Run) -> int:
    """Where earlier turns stand in the conversation that begins, or would: before the input."""
    places = (place for place, message in enumerate(run.messages) if message.from_history)
    return next(places, max(0, len(run.messages) - run.input.message_count))


async def _fetch_tools(run: Run, plan: Plan) -> None:
    """Add the tools of remote toolkits; one that cannot be had is left out, and said in the log."""

    def missing(kit: Toolkit, error: ToolError) -> None:
        log("warning", "tools.unavailable", **run.names(), toolkit=kit.name, error=words_of(error))

    work = Work(kind="tool", name=", ".join(kit.name for kit in plan.remote), run_id=run.id)
    plan.tools = await call_async(
        run, work, partial(load_remote, plan.remote, plan.tools, on_failure=missing)
    )


def _another_round(run: Run, plan: Plan) -> bool:
    """Whether the conversation goes on, with what the model is told for another round."""
    if run.halted or plan.next_round is None:
        return False
    run.progress.rounds += 1
    again = plan.next_round(run, run.progress.rounds)
    if again is None:
        return False
    run.messages.append(text_message("user", again))
    return True


async def _converse(run: Run, plan: Plan) -> int:
    """Tools and model in turn, until the model calls none or a tool ends the loop.

    It ends, too, at a boundary where the run may not go on. What comes back is where in the run's text its answer
    begins.
    """
    progress = run.progress
    answer = len(run.text)
    run.inbox.reopen()
    while True:
        if run.due:
            answer = len(run.text)
            progress.phase = "tools"
            stops = await call_tools(run, plan)
            progress.phase = None
            if stops and not hears(run, last=True):
                return answer
        if run.halted:
            await run.checkpoint()  # an urgent cancel is on its way here
            return answer
        answer = len(run.text) if progress.goes_on is None else progress.goes_on
        progress.goes_on = None
        try:
            reply = await _ask(run, plan)
        except LimitReached:
            return answer
        run.due = list(reply.tool_calls)
        if run.drained or (not run.due and not hears(run, last=True)):
            return answer


async def _ask(run: Run, plan: Plan) -> ModelReply:
    """The model's next answer. After a failed request the run goes on, as often as the plan says."""
    progress = run.progress
    attempts = 0
    while True:
        before = len(run.messages)
        progress.phase = "model"
        try:
            reply = await generate(run, plan)
        except (LimitReached, ConfigurationError, ModelKeyMissing, NotImplementedError):
            raise  # it would fail the same way again
        except Exception:
            progress.phase = None
            # What is finished stays: the next try goes on from the messages as they are now.
            if attempts >= plan.retries or run.halted:
                raise
            delay = plan.delay_between_retries * (2**attempts if plan.exponential_backoff else 1)
            attempts += 1
            await back_off(run, plan.model, delay)
            if len(run.messages) > before and run.messages[-1].role == "assistant":
                run.messages.append(text_message("user", GO_ON))
        else:
            progress.phase = None
            return reply


def _parse(text: str, schema: type[BaseModel] | dict[str, Any]) -> Any:
    """The object that the final text is.

    Raises:
        OutputSchemaError: it does not fit.
    """
    bare = text.strip()
    if bare.startswith("```"):  # models without a JSON mode like to fence it
        bare = bare.partition("\n")[2].rpartition("```")[0]
    try:
        if isinstance(schema, dict):
            return json.loads(bare)
        return schema.model_validate_json(bare)
    except ValidationError as exc:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'text'}: {e['msg']}" for e in exc.errors())
        raise OutputSchemaError(f"the answer does not fit {cast(Any, schema).__name__}: {problems}") from exc
    except ValueError as exc:
        raise OutputSchemaError(f"the answer is no JSON: {exc}") from exc


async def _post_hooks(run: Run, plan: Plan) -> None:
    """Show the hooks the output as it would be; what they make of its content is the run's content."""
    draft = run.draft(RunStatus.running)
    shown = draft.content
    await run_hooks(run, plan, plan.post_hooks, "Post", run_output=draft)
    if draft.content is not shown:
        run.final = draft.content
