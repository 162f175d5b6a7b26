"""The agent loop: hooks, model, tools, model, ... until there is an answer. Teams run the same one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from kern_async.exceptions import ConfigurationError, ModelKeyMissing, OutputSchemaError
from kern_async.models.base import ModelReply
from kern_async.run.message import Message

from .ending import draft_of
from .execute import Body
from .generate import GO_ON, back_off, generate
from .hooks import run_hooks
from .plan import Plan
from .run import Run
from .toolcalls import call_tools


def body_of(make_plan: Callable[[Run], Plan]) -> Body:
    """The body, for `execute`, of a run that works on the plan that `make_plan` gives for it."""

    async def body(run: Run) -> None:
        await work(run, make_plan(run))

    return body


async def work(run: Run, plan: Plan) -> None:
    """Do what the plan says; return when the run's content is complete. A cancel interrupts any of it."""
    if plan.pre_hooks:
        await run_hooks(run, plan, plan.pre_hooks, "Pre", run_input=run.input)
    run.messages[:] = await plan.messages(run)
    if plan.open is not None:
        await plan.open(run)
    answer = await _rounds(run, plan)
    if plan.output_schema is not None:
        run.final = _parse("".join(run.text[answer:]), plan.output_schema)
    run.emit("RunContentCompleted")
    if plan.post_hooks:
        await _post_hooks(run, plan)


async def _rounds(run: Run, plan: Plan) -> int:
    """Converse until no round is left; return where in the run's text the last answer begins."""
    number = 0
    while True:
        answer = await _converse(run, plan)
        number += 1
        again = plan.next_round(run, number) if plan.next_round is not None else None
        if again is None:
            return answer
        run.messages.append(Message(role="user", content=again))


async def _converse(run: Run, plan: Plan) -> int:
    """Model and tools in turn, until the model calls none or a tool ends the loop; see `_rounds`."""
    attempts = 0
    answer = len(run.text)
    while True:
        before = len(run.messages)
        try:
            reply: ModelReply = await generate(run, plan)
        except (ConfigurationError, ModelKeyMissing, NotImplementedError):
            raise  # it would fail the same way again
        except Exception:
            # What is finished stays: the next try goes on from the messages as they are now.
            if attempts >= plan.retries:
                raise
            delay = plan.delay_between_retries * (2**attempts if plan.exponential_backoff else 1)
            attempts += 1
            await back_off(run, plan.model, delay)
            if len(run.messages) > before:
                run.messages.append(Message(role="user", content=GO_ON))
            continue
        if not reply.tool_calls:
            return answer
        answer = len(run.text)
        if await call_tools(run, plan, reply.tool_calls):
            return answer
        answer = len(run.text)


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
    draft = draft_of(run)
    shown = draft.content
    await run_hooks(run, plan, plan.post_hooks, "Post", run_output=draft)
    if draft.content is not shown:
        run.final = draft.content
