"""What holds of the log of a run tree that paused, over all its attempts (SPEC P2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

TERMINAL = ("RunCompleted", "RunError", "RunCancelled")


def check_attempts(events: Sequence[Any]) -> None:  # noqa: C901 - one rule after the other
    """One terminal or paused event an attempt, its last; what an attempt opens it closes; indexes go on."""
    assert [event.event_index for event in events] == list(range(len(events)))
    state: dict[str, str] = {}
    parents: dict[str, str | None] = {}
    open_things: dict[str, set[Any]] = {}
    for event in events:
        run, name = event.run_id, event.event.removeprefix("Team")
        parents[run] = event.parent_run_id
        before = state.get(run)
        if name == "RunStarted":
            assert before is None
            state[run] = "live"
        elif name == "RunContinued":
            assert before == "paused"
            state[run] = "live"
        elif name == "RunCancelled" and before == "paused":
            state[run] = "ended"
        else:
            assert before == "live", f"{event.event} of a run that is {before}"
        opened = open_things.setdefault(run, set())
        if name == "ToolCallStarted":
            assert event.tool.tool_call_id not in opened
            opened.add(event.tool.tool_call_id)
        elif name in ("ToolCallCompleted", "ToolCallError"):
            opened.remove(event.tool.tool_call_id)
        elif name == "ModelRequestStarted":
            opened.add("request")
        elif name == "ModelRequestCompleted":
            opened.remove("request")
        elif name in (*TERMINAL, "RunPaused"):
            assert not opened, f"open at {event.event}: {opened}"
            state[run] = "paused" if name == "RunPaused" else "ended"
            below = [child for child, parent in parents.items() if parent == run]
            assert all(state[child] != "live" for child in below), "a team came to rest before its member"
            if name in TERMINAL:
                assert all(state[child] == "ended" for child in below), "a team ended before its member"
            said = [
                e.content
                for e in events[: event.event_index]
                if e.run_id == run and e.event[-10:] == "RunContent"
            ]
            assert (event.content or "") == "".join(said)
