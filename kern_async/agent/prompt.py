"""The conversation that a run begins with: system message, what comes before the input, the input."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from kern_async.engine.run import Run
from kern_async.run.message import Message, text_message

from .runnable import Request, Runnable

_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")


def build_messages(
    who: Runnable[Any, Any],
    run: Run,
    request: Request,
    *,
    history: Sequence[Message] = (),
    extra: Sequence[str] = (),
) -> list[Message]:
    """The messages for the first model request.

    The run's own are its input until then. `history` is what the model is told of earlier runs, `extra` are further
    parts of the system message.
    """
    system = who.system_message or "\n\n".join(part for part in _parts(who, run, request, extra) if part)
    messages = [text_message("system", _fill(system, run))] if system else []
    messages += [
        item if isinstance(item, Message) else Message(role="user", content=item)
        for item in who.additional_input
    ]
    if who.introduction:
        messages.append(Message(role="assistant", content=who.introduction))
    return [*messages, *history, *run.messages]


def _parts(who: Runnable[Any, Any], run: Run, request: Request, extra: Sequence[str]) -> list[str]:
    instructions = who.instructions or ()
    points = [instructions] if isinstance(instructions, str) else list(instructions)
    if request.output_schema is None and who.markdown:
        points.append("Write your answer in Markdown.")
    if who.add_name_to_context and who.name:
        points.append(f"Your name is {who.name}.")
    if who.add_datetime_to_context:
        points.append(f"The time is {datetime.now().astimezone().isoformat(timespec='seconds')}.")
    return [
        who.description or "",
        f"Your role: {who.role}" if who.role else "",
        *extra,
        points[0] if len(points) == 1 else "\n".join(f"- {point}" for point in points),
        *(kit for tool in who.tools if (kit := getattr(tool, "instructions", None))),
        f"Expected output: {who.expected_output}" if who.expected_output else "",
        who.additional_context or "",
        f"Session state: {json.dumps(run.context.session_state, default=str, ensure_ascii=False)}"
        if who.add_session_state_to_context
        else "",
    ]


def _fill(text: str, run: Run) -> str:
    """Put values for the `{key}`s that the run has; other braces are text."""
    context = run.context
    known = {**context.metadata, **context.dependencies, **context.session_state}
    if not known:
        return text
    return _PLACEHOLDER.sub(lambda found: str(known.get(found[1], found[0])), text)
