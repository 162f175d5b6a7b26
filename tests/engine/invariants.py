"""What holds for the log of every run tree, whatever ended it (I1, I2 and SPEC P2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kern_async.run.message import Message

STARTS = ("RunStarted", "TeamRunStarted")
ENDS = ("RunCompleted", "RunError", "RunCancelled", "TeamRunCompleted", "TeamRunError", "TeamRunCancelled")


def check_log(events: Sequence[Any]) -> None:
    """One start and one end a run, nothing after the end, members before their team, everything opened is closed."""
    root = events[0]
    assert root.event in STARTS
    assert [event.event_index for event in events] == list(range(len(events)))
    started: dict[str, Any] = {}
    ended: dict[str, Any] = {}
    open_calls: set[tuple[str, str]] = set()
    open_requests: set[str] = set()
    for event in events:
        run = event.run_id
        assert run not in ended, f"{event.event} after the end of its run"
        name = event.event.removeprefix("Team")
        if event.event in STARTS:
            assert run not in started
            started[run] = event
        assert run in started
        if name == "ToolCallStarted":
            open_calls.add((run, event.tool.tool_call_id))
        elif name in ("ToolCallCompleted", "ToolCallError"):
            open_calls.remove((run, event.tool.tool_call_id))
        elif name == "ModelRequestStarted":
            assert run not in open_requests
            open_requests.add(run)
        elif name == "ModelRequestCompleted":
            open_requests.remove(run)
        if event.event in ENDS:
            ended[run] = event
            assert not [call for call in open_calls if call[0] == run]
            assert run not in open_requests
            members = [start for start in started.values() if start.parent_run_id == run]
            assert all(member.run_id in ended for member in members), "a team ended before its member"
            said = "".join(
                e.content for e in events if e.run_id == run and e.event.removeprefix("Team") == "RunContent"
            )
            assert (event.content or "") == said
    assert started.keys() == ended.keys()
    assert events[-1].run_id == root.run_id
    assert events[-1].event in ENDS


def check_messages(messages: Sequence[Message]) -> None:
    """Every tool call is answered once, right behind the turn that made it: what any provider accepts."""
    waiting: list[str] = []
    for message in messages:
        if message.role == "tool":
            assert message.tool_call_id in waiting
            waiting.remove(message.tool_call_id)
            continue
        assert not waiting, "a turn went on before its calls were answered"
        assert message.content or message.tool_calls, "an empty turn"
        waiting = [call.id for call in message.tool_calls]
    assert not waiting
