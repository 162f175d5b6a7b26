"""What was kept of a run tree, in a database or in an output: enough to show it, and to go on with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from kern_async.db.base import DIED, INTERRUPTED, RunRecord
from kern_async.run.agent import RunOutput
from kern_async.run.base import BaseOutput, RunMetrics, RunStatus
from kern_async.run.message import Message
from kern_async.run.team import TeamRunOutput

from .attempt import Attempt
from .ending import CUT, RunOutputs
from .owner import EVENTS
from .resume import past_of
from .tokens import estimate_tokens, tokens_in

NOT_FINISHED = "interrupted: it is not known whether it took effect"
"""What a call is answered with that was under way when the process died."""


@dataclass(eq=False, kw_only=True)
class Kept:
    """One run and those below it. `term` is the store's count of attempts, `number` its place in the session."""

    output: RunOutputs
    resume: dict[str, Any]
    children: list[Kept] = field(default_factory=list["Kept"])
    owner: tuple[str, str] = ("agent", "")
    """Kind and id of whose run it is."""
    term: int | None = None
    number: int | None = None
    attempt: Attempt | None = None
    """The attempt that left it, if that was in this process and it comes from an output."""
    next_index: int = 0
    """The index of the next event, as far as this run knows."""

    @property
    def interrupted(self) -> bool:
        """Whether its process died in the middle of it."""
        return self.output.error_type == INTERRUPTED

    def tree(self) -> list[Kept]:
        """It and all below it."""
        return [self, *(each for child in self.children for each in child.tree())]


def kept_from_output(output: RunOutputs) -> Kept:
    """What an output keeps of its run, in this process or another."""
    past = past_of(output)
    resume = past.resume or _guess(output)
    is_team = isinstance(output, TeamRunOutput)
    children = [kept_from_output(each) for each in output.member_responses] if is_team else []
    for index, child in enumerate(children):
        child.resume.setdefault("index", index)
        child.resume.setdefault("place", _guess_place(output, child))
    return Kept(
        output=output,
        resume=resume,
        children=children,
        owner=("team", output.team_id) if is_team else ("agent", output.agent_id),
        next_index=resume["log"] + 1,
        attempt=past.attempt,
    )


def _guess_place(output: RunOutputs, child: Kept) -> tuple[int, str]:
    """For which call a member was begun: the one that names it, else, as in `broadcast`, for none."""
    for place, tool in enumerate(output.tools):
        if tool.child_run_id == child.output.run_id:
            return place, str(tool.tool_args.get("task_id", ""))
    return -1, child.owner[1]


def _guess(output: BaseOutput) -> dict[str, Any]:
    """The same for an output that has been through JSON."""
    asked = output.input.messages() if output.input is not None else []
    indices = [event.event_index for event in cast("Any", output).events or ()]
    return {
        "prepared": len(output.messages) > len(asked) or any(m.role == "assistant" for m in output.messages),
        "opened": any(message.role == "assistant" for message in output.messages),
        "requirements": {
            requirement.tool_execution.tool_call_id: requirement.to_dict()
            for requirement in output.requirements or []
            if requirement.run_id == output.run_id
        },
        "log": output.event_index if output.event_index is not None else max(indices, default=-1),
    }


def kept_from_records(
    records: Sequence[RunRecord], events: Mapping[str, Sequence[dict[str, Any]]] | None = None
) -> list[Kept]:
    """What a database keeps of runs, each with those below it that are among the records.

    `events` are the stored events of runs, as data: where they are given, the outputs have them.
    """
    made: dict[str, Kept] = {}
    roots: list[Kept] = []
    for record in records:
        resume: dict[str, Any] = json.loads(record.resume) if record.resume else {}
        own = None if events is None else list(events.get(record.key.run_id, ()))
        made[record.key.run_id] = Kept(
            output=output_of_record(record, resume, own),
            resume=resume,
            owner=(record.key.kind, record.key.entity_id),
            term=record.attempt,
            number=record.number,
            next_index=max([resume.get("log", -1), *(event["event_index"] for event in own or ())]) + 1,
        )
    for record in records:
        kept = made[record.key.run_id]
        above = made.get(record.key.parent_run_id or "")
        (above.children if above is not None else roots).append(kept)
    for kept in made.values():
        kept.children.sort(key=lambda child: child.resume.get("index", 0))
        if isinstance(kept.output, TeamRunOutput):
            kept.output.member_responses = [child.output for child in kept.children]
    return roots


def output_of_record(
    record: RunRecord, resume: Mapping[str, Any], events: Sequence[dict[str, Any]] | None
) -> RunOutputs:
    """The output that a run's row tells of; of a run that lives, what it has come to."""
    key, status = record.key, RunStatus(record.status)
    data: dict[str, Any] = json.loads(record.output) if record.output else {}
    data |= {
        "run_id": key.run_id,
        "parent_run_id": key.parent_run_id,
        "session_id": key.session_id,
        "user_id": key.user_id,
        f"{key.kind}_id": key.entity_id,
        "created_at": key.created_at,
        "status": status,
        "error_type": record.error_type or data.get("error_type"),
        "error": record.error or data.get("error"),
        "messages": [json.loads(message) for message in record.messages],
        "tools": [json.loads(tool) for tool in record.tools],
        "stored": True,
    }
    partly = status in (RunStatus.running, RunStatus.pending) or record.error_type == INTERRUPTED
    if partly:
        _add_what_it_came_to(data, key.kind, resume, events)
    if record.error_type == INTERRUPTED:
        data["error"] = data["error"] or DIED
        data["event"] = EVENTS[key.kind]["RunError"].model_fields["event"].default
    elif not partly and key.parent_run_id is None:
        data["event_index"] = resume.get("log")
    if events:
        data["events"] = events
    cls = RunOutput if key.kind == "agent" else TeamRunOutput
    output = cls.model_validate(data)
    if record.error_type == INTERRUPTED:
        _add_cut_answer(output, resume)
    return output


def _add_what_it_came_to(
    data: dict[str, Any],
    kind: str,
    resume: Mapping[str, Any],
    events: Sequence[dict[str, Any]] | None,
) -> None:
    said = str(EVENTS[kind]["RunContent"].model_fields["event"].default)
    told = "".join(event.get("content", "") for event in events or () if event["event"] == said)
    data["content"] = max(told, resume.get("text") or "", data.get("content") or "", key=len) or None
    if "metrics" in resume:
        data["metrics"] = resume["metrics"]


def _add_cut_answer(output: RunOutputs, resume: Mapping[str, Any]) -> None:
    """The answer that was being given when the process died, and an estimate of what it cost."""
    text = output.content if isinstance(output.content, str) else ""
    cut = text[resume.get("covered", 0) :]
    if resume.get("phase") != "model" or not cut:
        return
    asked, heard = estimate_tokens(output.messages), tokens_in(len(cut))
    output.messages.append(Message(role="assistant", content=cut))
    output.metrics.add(
        RunMetrics(input_tokens=asked, output_tokens=heard, total_tokens=asked + heard, estimated=True)
    )


def open_calls(kept: Kept) -> tuple[list[Message], list[str]]:
    """The conversation without the answers that are to come anew, and the ids of the calls that they are for.

    A run that paused has calls without an answer. Of a run that was cut, those go on whose members were cut with it:
    their answer says just that, and no model has heard it. All its other calls are answered.
    """
    messages = [message.model_copy() for message in kept.output.messages]
    last = next((i for i in reversed(range(len(messages))) if messages[i].tool_calls), None)
    if last is None or any(message.role == "assistant" for message in messages[last + 1 :]):
        return messages, []
    delegated = _calls_of(kept, lambda output: output.status is not RunStatus.completed)
    cut = _calls_of(kept, lambda output: output.cancelled_by == "parent")
    waited_for = kept.resume.get("requirements", {})
    answers = {m.tool_call_id: i for i, m in enumerate(messages) if i > last and m.role == "tool"}
    due: list[str] = []
    gone: set[int] = set()
    missing: list[Message] = []
    for call in messages[last].tool_calls:
        at = answers.get(call.id)
        if at is None:
            if kept.output.status is RunStatus.paused or call.id in delegated or call.id in waited_for:
                due.append(call.id)
            else:
                missing.append(
                    Message(
                        role="tool",
                        content=NOT_FINISHED,
                        tool_call_id=call.id,
                        tool_name=call.name,
                        tool_call_error=True,
                    )
                )
        elif call.id in cut or (call.id in delegated and messages[at].content == CUT):
            due.append(call.id)
            gone.add(at)
    kept_messages = [message for i, message in enumerate(messages) if i not in gone]
    after = last + 1
    kept_messages[after:after] = missing
    return kept_messages, due


def _calls_of(kept: Kept, chosen: Callable[[BaseOutput], bool]) -> set[str]:
    """The ids of the calls for which members were begun that left such an output."""
    tools = kept.output.tools
    places: set[int] = {
        child.resume["place"][0]
        for child in kept.children
        if child.resume.get("place") and chosen(child.output)
    }
    return {tools[place].tool_call_id for place in places if 0 <= place < len(tools)}
