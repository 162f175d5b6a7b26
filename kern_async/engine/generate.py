"""One model request of a run: streamed, timed, retried, counted, and kept whatever happens to it."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import anyio

from kern_async.exceptions import ModelError, ModelTimeout
from kern_async.models.base import DeltaKind, Model, ModelReply, ModelRequest, ToolSpec, Usage
from kern_async.run.base import Work
from kern_async.run.message import Message, text_message
from kern_async.run.trusted import trusted

from .budget import LimitReached, count_tokens, end_at_limit, spend
from .calls import noting
from .ending import CUT, words_of
from .plan import Plan
from .run import Run
from .tokens import chars_of, tokens_in


async def generate(run: Run, plan: Plan) -> ModelReply:
    """Ask the model with the run's messages; its answer is appended to them, a cut one too.

    A request that failed before it streamed anything is sent again, at most `model.max_retries` times, when its
    fault may pass.

    Raises:
        ModelError: the model gave no whole answer. What it streamed is kept.
        LimitReached: the request was not begun, since the run has used up what it may.
    """
    model = plan.model
    attempt = 0
    while True:
        hears(run)
        generation = _Generation(run, plan)
        try:
            return await generation.run_to_end()
        except ModelError as exc:
            if run.halted or not exc.retryable or generation.streamed or attempt >= model.max_retries:
                raise
            delay = exc.retry_after
        if delay is None:
            # Jitter, so that the members of a team do not come back to a busy provider in step.
            delay = model.retry_delay * 2**attempt * random.uniform(0.75, 1)  # noqa: S311 - no secret
        attempt += 1
        run.progress.phase = None  # no answer is under way that a graceful cancel would wait for
        await back_off(run, model, delay)
        run.progress.phase = "model"


def hears(run: Run, *, last: bool = False) -> bool:
    """Put what was sent to the run into its conversation; say whether there was anything.

    `last`: if there is nothing the run ends, and takes no more.
    """
    texts = run.inbox.close() if last else run.inbox.take()
    if not texts:
        return False
    run.inbox.reopen()
    run.messages.extend(text_message("user", text) for text in texts)
    return True


async def back_off(run: Run, model: Model, seconds: float) -> None:
    """Wait before another try; a cancel interrupts it at once."""
    with noting(run, Work(kind="backoff", name=model.id, run_id=run.id)):
        await anyio.sleep(seconds)


class _Generation:
    """One request to the provider, and what has come of it so far."""

    __slots__ = (
        "_argument_chars",
        "_began",
        "_first",
        "_model",
        "_patience",
        "_reasoning",
        "_reasoning_open",
        "_request",
        "_run",
        "_text",
    )

    def __init__(self, run: Run, plan: Plan) -> None:
        self._run = run
        self._model = plan.model
        self._request = ModelRequest(
            messages=tuple(run.messages),
            tools=tuple(
                ToolSpec(
                    name=tool.name,
                    description=tool.description,
                    parameters=tool.parameters,
                    strict=tool.strict,
                )
                for tool in plan.tools.values()
            ),
            # A forced call is forced once: forced for every answer, the run could never come to an end.
            tool_choice=plan.tool_choice if not run.tools or plan.tool_choice == "none" else None,
            output_schema=plan.output_schema,
        )
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._reasoning_open = False
        self._argument_chars = 0
        self._began = time.monotonic()
        self._first: float | None = None
        model = plan.model
        timed = model.first_token_timeout is not None or model.idle_timeout is not None
        self._patience = anyio.CancelScope(deadline=_from_now(model.first_token_timeout)) if timed else None

    @property
    def streamed(self) -> bool:
        """Whether anything of this answer has reached the run's readers."""
        return bool(self._text or self._reasoning)

    async def run_to_end(self) -> ModelReply:
        run, model = self._run, self._model
        await run.checkpoint()
        if run.halted or spend(run, "model_requests") is not None:
            end_at_limit(run)
            raise LimitReached
        run.metrics.model_requests += 1
        run.emit("ModelRequestStarted", model=model.id, model_provider=model.provider)
        reply: ModelReply | None = None
        error: Exception | None = None
        run.opened[self] = self._cut
        try:
            with self._patience or nullcontext():
                reply = await model.respond(self._request, self._receive)
                return reply
            raise self._timeout()  # only the patience scope swallows a cancel
        except Exception as exc:
            error = exc
            raise
        finally:
            self._close(reply, error)

    def _cut(self) -> None:
        self._close(None, None)

    def _timeout(self) -> ModelTimeout:
        if self._first is None:
            return ModelTimeout(
                f"{self._model.id} gave no first token within first_token_timeout={self._model.first_token_timeout} s"
            )
        return ModelTimeout(
            f"{self._model.id} went silent: no further content for idle_timeout={self._model.idle_timeout} s"
        )

    async def _receive(self, kind: DeltaKind, piece: str) -> None:
        if not piece:
            return
        if self._first is None:
            self._first = time.monotonic() - self._began
        if self._patience is not None:
            self._patience.deadline = math.inf  # the reader's pace is not the provider's fault
        run = self._run
        if kind == "text":
            self._close_reasoning()
            self._text.append(piece)
            await run.say(piece)
        elif kind == "reasoning":
            if not self._reasoning_open:
                self._reasoning_open = True
                run.emit("ReasoningStarted")
            self._reasoning.append(piece)
            run.emit("ReasoningContentDelta", reasoning_content=piece)
            if run.log.full:
                await run.log.wait_for_room()
        else:
            self._argument_chars += len(piece)
        if self._patience is not None:
            self._patience.deadline = _from_now(self._model.idle_timeout)

    def _close_reasoning(self) -> None:
        if self._reasoning_open:
            self._reasoning_open = False
            self._run.emit("ReasoningCompleted", reasoning_content="".join(self._reasoning))

    def _close(self, reply: ModelReply | None, error: Exception | None) -> None:
        """Keep what there is and close the request in the log; without an await, whatever the end."""
        run = self._run
        if run.opened.pop(self, None) is None:
            return
        self._close_reasoning()
        cut = reply is None and error is None
        if cut:
            run.feel_cut()
            run.interrupted[Work(kind="model", name=self._model.id, run_id=run.id)] = None
        usage = reply.usage if reply is not None else None
        estimated = usage is None and (reply is not None or error is None or self.streamed)
        if usage is None:
            usage = self._estimate() if estimated else Usage()
        self._count(usage, estimated=estimated)
        run.emit(
            "ModelRequestCompleted",
            model=self._model.id,
            model_provider=self._model.provider,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            total_tokens=usage.total_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            cache_read_tokens=usage.cache_read_tokens,
            time_to_first_token=self._first,
            estimated=estimated,
            error=words_of(error) if error is not None else CUT if cut else None,
        )
        run.reasoning.extend(self._reasoning)
        run.progress.spoken = len(run.text)
        if self._text or (reply is not None and (reply.tool_calls or reply.provider_data)):
            run.messages.append(
                trusted(
                    Message,
                    {
                        "role": "assistant",
                        "content": "".join(self._text) or None,
                        "reasoning_content": "".join(self._reasoning) or None,
                        "tool_calls": reply.tool_calls if reply is not None else [],
                        "provider_data": reply.provider_data if reply is not None else None,
                    },
                )
            )

    def _count(self, usage: Usage, *, estimated: bool) -> None:
        metrics = self._run.metrics
        metrics.input_tokens += usage.input_tokens
        metrics.output_tokens += usage.output_tokens
        metrics.total_tokens += usage.total_tokens
        count_tokens(self._run, usage.total_tokens)
        metrics.reasoning_tokens += usage.reasoning_tokens
        metrics.cache_read_tokens += usage.cache_read_tokens
        metrics.estimated = metrics.estimated or estimated
        if metrics.time_to_first_token is None:
            metrics.time_to_first_token = self._first

    def _estimate(self) -> Usage:
        asked = _chars(self._request.messages, self._request.tools)
        heard = sum(map(len, self._text)) + sum(map(len, self._reasoning)) + self._argument_chars
        given, made = tokens_in(asked), tokens_in(heard)
        return Usage(input_tokens=given, output_tokens=made, total_tokens=given + made)


def _from_now(seconds: float | None) -> float:
    return math.inf if seconds is None else anyio.current_time() + seconds


def _chars(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> int:
    total = chars_of(messages)
    for tool in tools:
        parameters: Any = tool.parameters
        total += len(tool.name) + len(tool.description) + len(json.dumps(parameters))
    return total
