"""What must hold of every cancelled run, whatever it was doing and whoever cancelled it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from kern_async import RunStatus, cancel_run
from kern_async.run.base import BaseEvent, BaseOutput
from kern_async.run.cancel import get_active_runs

from .situations import Situation
from .stage import REASON, Stage

PROMPT = 1.0
"""Seconds; a cancel takes a few milliseconds, a loaded machine may need more."""
FINISHED_TOOL = "nothing there"
Event = Any
"""An event of any kind: what it has beyond `BaseEvent` depends on its name."""


def check_end(
    stage: Stage, situation: Situation, output: BaseOutput, streamed: list[BaseEvent] | None
) -> None:
    """`streamed` is what the consumer saw; an awaited run is judged by the events in its outputs."""
    outputs = {out.run_id: out for out in outputs_of(output)}
    log = logged(outputs.values())
    if streamed is not None:
        assert streamed == log, "the outputs list the very events that were streamed"

    assert stage.answers == [True], "cancel said True, once"
    assert not [run_id for run_id in outputs if cancel_run(run_id)], "cancel says False after the end"
    assert not outputs.keys() & get_active_runs().keys()

    check_ends(log, outputs, root=stage.run_id)
    check_everything_is_closed(log)
    check_text(log, outputs, situation)
    for out in outputs.values():
        check_conversation(out)
    check_statuses(outputs, situation, root=stage.run_id)
    check_what_was_cut(outputs, situation)


def outputs_of(output: Any) -> Iterator[Any]:
    yield output
    for member in getattr(output, "member_responses", ()):
        yield from outputs_of(member)


def logged(outputs: Iterable[Any]) -> list[Event]:
    """The whole log of a run tree, from the events that each output lists."""
    return sorted((event for out in outputs for event in out.events), key=lambda event: event.event_index)


def check_ends(log: list[Event], outputs: dict[str, Any], *, root: str) -> None:
    assert [event.event_index for event in log] == list(range(len(log)))
    by_run: dict[str, list[Event]] = defaultdict(list)
    for event in log:
        by_run[event.run_id].append(event)
    assert by_run.keys() == outputs.keys()
    for run_id, events in by_run.items():
        parent = outputs[run_id].parent_run_id
        assert (parent is None) == (run_id == root)
        assert events[0].event.removeprefix("Team") == "RunStarted"
        ends = [event for event in events if hasattr(event, "status")]
        assert ends == [events[-1]], "one terminal event, the last of its run"
        if parent is not None:
            assert ends[0].event_index < by_run[parent][-1].event_index, "a member ends before its team"
    assert log[-1].run_id == root


def check_everything_is_closed(log: list[Event]) -> None:
    open_calls: Counter[tuple[str, str]] = Counter()
    open_requests: Counter[str] = Counter()
    for event in log:
        match event.event.removeprefix("Team"):
            case "ToolCallStarted":
                open_calls[event.run_id, event.tool.tool_call_id] += 1
            case "ToolCallCompleted" | "ToolCallError":
                open_calls[event.run_id, event.tool.tool_call_id] -= 1
            case "ModelRequestStarted":
                open_requests[event.run_id] += 1
            case "ModelRequestCompleted":
                open_requests[event.run_id] -= 1
            case _:
                pass
        assert open_calls.total() == sum(map(abs, open_calls.values())), "nothing is closed twice"
        assert all(0 <= count <= 1 for count in open_requests.values())
    assert not +open_calls
    assert not +open_requests


def check_text(log: list[Event], outputs: dict[str, Any], situation: Situation) -> None:
    seen: dict[str, str] = defaultdict(str)
    for event in log:
        if event.event.removeprefix("Team") == "RunContent":
            seen[event.run_id] += event.content
    terminals = {event.run_id: event for event in log if hasattr(event, "status")}
    for run_id, out in outputs.items():
        text = seen[run_id] or None
        assert terminals[run_id].content == text
        assert out.content == text
        assert re.fullmatch(situation.said.get(name_of(out), ""), text or "")


def check_conversation(output: Any) -> None:
    """Every tool call is answered once, after it was made; what was finished keeps its result."""
    owed: list[str] = []
    for message in output.messages:
        if message.role == "tool":
            owed.remove(message.tool_call_id)
        else:
            assert not owed, "no turn comes between a tool call and its answer"
            owed += [call.id for call in message.tool_calls]
    assert not owed
    assert any(message.role == "user" for message in output.messages)
    answers = {message.tool_name: message for message in output.messages if message.role == "tool"}
    results = {tool.tool_name: tool.result for tool in output.tools}
    assert answers.keys() == results.keys()
    for name, message in answers.items():
        expected = FINISHED_TOOL if name == "look" else "cancelled"
        assert (message.content, results[name]) == (expected, expected)
        assert message.tool_call_error == (expected == "cancelled")


def check_statuses(outputs: dict[str, Any], situation: Situation, *, root: str) -> None:
    for run_id, out in outputs.items():
        end = out.events[-1]
        assert end.event == out.event
        assert end.status is out.status
        if name_of(out) in situation.completed:
            assert out.status is RunStatus.completed
            continue
        assert out.status is RunStatus.cancelled
        assert (out.cancelled_by, out.reason) == (("request", REASON) if run_id == root else ("parent", None))
        for name in ("cancelled_by", "reason", "requested_at", "settled_at", "interrupted", "abandoned"):
            assert getattr(end, name) == getattr(out, name)
        assert out.cancellation_stage == end.cancellation_stage == "EXECUTING"
    settled_in = outputs[root].settled_at - outputs[root].requested_at
    assert 0 <= settled_in < PROMPT, "the grace is for code that refuses to end, and none did"


def check_what_was_cut(outputs: dict[str, Any], situation: Situation) -> None:
    cut = {(work.kind, work.name) for out in outputs.values() for work in out.interrupted}
    cut_by_harness = {
        ("tool", "stop"),
        ("member", "accomplice"),
        ("member", "subject"),
        ("model", "accomplice"),
    }
    assert situation.cut <= cut <= situation.cut | cut_by_harness
    for out in outputs.values():
        assert all(work.kind == "thread" for work in out.abandoned)
    root = next(iter(outputs.values()))
    assert {work.name for work in root.abandoned} == situation.threads


def check_provider(stage: Stage, situation: Situation) -> list[float]:
    """After a later run has completed on the same model; gives the seconds from cancel to each disconnect."""
    asked = [request.model for request in stage.provider.requests[stage.requests_at_cancel :]]
    assert asked == [request.model for request in stage.provider.requests[-1:]], "only the later run asked"
    assert stage.started == stage.started_at_cancel, "no tool or hook started after the cancel"
    left = [request for request in stage.provider.requests if request.disconnected_at is not None]
    assert {request.model for request in left} == situation.hung
    assert stage.provider.open_requests == 0
    took = [request.disconnected_at - stage.cancelled_at for request in left if request.disconnected_at]
    assert all(0 <= seconds < PROMPT for seconds in took)
    return took


def name_of(output: Any) -> str:
    return getattr(output, "agent_name", None) or output.team_name
