"""The table of the docs, kind of tool by what stops it: how fast, what is kept, what is left behind; a test a cell."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from kern_async import RunStatus, abandoned
from kern_async.run.base import Work
from kern_async.run.cancel import get_active_runs
from kern_async.run.message import Message
from kern_async.testing import ProviderServer

from ..agent.crew import results
from ..engine.invariants import check_log, check_messages
from ..hitl.attempts import check_attempts
from .kinds import CALL, HALF, KINDS, Kind, Scene
from .ways import REASON, RUN, WAYS, Performance, Way

GRACE = 2.0
PROMPT = 0.9
"""Seconds; less than half of the grace, when what has not ended is cut again, or killed."""
SHORT_GRACE, LATE = 0.3, 0.6
"""The grace of code that refuses to end, and how much later its run may end on a busy machine."""
DOCS = Path(__file__).parents[2] / "docs" / "tools.md"
PROCESS_TIMEOUT = 1.0


def is_a_cell(kind: Kind, way: Way) -> bool:
    if way.tool_timeout is not None:
        return kind.has_timeout
    return not (kind.paused and way.stops == "call")


CELLS = [
    pytest.param(
        kind,
        way,
        id=f"{kind.name}-{way.name}",
        marks=[pytest.mark.slow] if kind.slow_start and way.act is None else [],
    )
    for kind in KINDS
    for way in WAYS
    if is_a_cell(kind, way)
]


@pytest.mark.parametrize(("kind", "way"), CELLS)
async def test_what_stops_a_tool_how_fast_and_what_is_left(
    kind: Kind,
    way: Way,
    provider: ProviderServer,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    timeout = way.tool_timeout and (PROCESS_TIMEOUT if kind.slow_start else way.tool_timeout)
    grace = SHORT_GRACE if kind.refuses else GRACE
    scene = Scene(provider, tmp_path, grace, timeout=timeout, can_finish=way.lets_finish)
    if kind.warm_up is not None and way.act is None:
        await kind.warm_up(scene)
    with closing(scene):
        async with kind.open(scene) as subject:
            shown = await way.perform(scene, kind, subject)
            try:
                if kind.paused and not way.ends_a_pause:
                    await stays_paused(shown, way)
                else:
                    record_property("stopped in", how_fast(shown, way))
                    what_is_kept(shown, way)
                    await what_is_left(shown, way)
            finally:
                scene.release()
            await a_later_run_works(shown)


def expected(shown: Performance, way: Way) -> tuple[str, bool]:
    """What answers the call, and whether that is an error."""
    kind = shown.kind
    if way.lets_finish and kind.finishes:
        return kind.result, False
    if way.tool_timeout is not None:
        return kind.timed_out.format(f"{shown.scene.timeout:g}"), True
    if way.stops == "call":
        return kind.cut_alone, True
    return "cancelled", True


def is_cut(shown: Performance, way: Way) -> bool:
    return not (way.lets_finish and shown.kind.finishes)


def how_fast(shown: Performance, way: Way) -> float:
    if way.stops == "run":
        took = shown.output.settled_at - shown.output.requested_at
    elif way.tool_timeout is None:
        took = shown.closed_at - shown.stopped_at
    else:
        (work,) = (each for each in shown.output.tools if each.tool_call_id == CALL)
        assert shown.scene.timeout is not None
        took = work.duration - shown.scene.timeout
    if shown.kind.refuses and is_cut(shown, way):
        assert SHORT_GRACE <= took < SHORT_GRACE + LATE
    else:
        assert -0.01 <= took < PROMPT
    return took


def what_is_kept(shown: Performance, way: Way) -> None:
    output, kind = shown.output, shown.kind
    if way.stops == "run":
        assert (output.status, output.cancelled_by) == (RunStatus.cancelled, way.cancelled_by)
        assert output.reason == (REASON if way.cancelled_by == "request" else output.reason)
        assert output.content == "Let me see. "
        cut = {(work.kind, work.name) for work in output.interrupted}
        assert cut == (kind.cut if is_cut(shown, way) else set())
    else:
        assert (output.status, output.cancelled_by) == (RunStatus.completed, None)
        assert output.content == "Let me see. Fine."
        assert shown.live() is None

    said, error = expected(shown, way)
    answers = {m.tool_call_id: (m.content, m.tool_call_error) for m in output.messages if m.role == "tool"}
    assert answers == {"call-of-look": ("nothing there", False), CALL: (said, error)}
    assert {t.tool_call_id: (t.result, t.tool_call_error) for t in output.tools} == answers
    check_messages(output.messages)

    (check_attempts if kind.paused else check_log)(shown.events)
    assert shown.events[-1].status is output.status
    assert shown.looked()
    assert kind.paused or shown.said_half()
    if kind.name == "member":
        (member,) = output.member_responses
        by = "parent" if way.stops == "run" else "request"
        assert (member.status, member.cancelled_by, member.content) == (RunStatus.cancelled, by, HALF)

    requests = [request for request in shown.scene.provider.requests if request.model == "subject"]
    if way.stops == "run":
        assert len(requests) == 1, "a cancelled run asks nothing more"
    else:
        assert sorted(results(requests[1])) == sorted(["nothing there", said])


async def what_is_left(shown: Performance, way: Way) -> None:
    output, kind = shown.output, shown.kind
    if kind.processes and is_cut(shown, way):
        assert shown.pids
        assert not [pid for pid in shown.pids if runs(pid)]
    straggler = kind.straggler if is_cut(shown, way) else None
    if kind.leaves_soon:
        await until(lambda: not abandoned())
    elif straggler is None:
        assert abandoned() == []
        assert output.abandoned == []
    else:
        work = Work(kind=straggler, name="work", run_id=RUN, tool_call_id=CALL)
        assert abandoned() == [work]
        assert output.abandoned == [work], "also of a run that went on without it"
    if is_cut(shown, way) and kind.then is not None:
        await kind.then(shown.scene)

    before, events = output.model_dump(), len(shown.events)
    shown.scene.release()
    await until(lambda: not abandoned())
    await anyio.wait_all_tasks_blocked()
    assert output.model_dump() == before
    assert len(shown.events) == events, "what came late went nowhere"
    assert not get_active_runs()


async def stays_paused(shown: Performance, way: Way) -> None:
    """Nobody's task and no deadline is there while a run waits for a person: it goes on waiting."""
    assert shown.output.status is RunStatus.paused
    if way.run_timeout is not None:
        await anyio.sleep(way.run_timeout)
    assert shown.live() is not None
    shown.scene.release()
    (requirement,) = shown.output.active_requirements
    requirement.confirm()
    shown.output = await shown.subject.acontinue_run(shown.output)
    assert (shown.output.status, shown.output.content) == (RunStatus.completed, "Let me see. Fine.")
    assert {tool.result for tool in shown.output.tools} == {"nothing there", "done"}


async def a_later_run_works(shown: Performance) -> None:
    """With the whole conversation, which the provider looks at."""
    asked = len(shown.scene.provider.requests)
    conversation = [*shown.output.messages, Message(role="user", content="And now?")]
    later = await shown.subject.arun(conversation)
    assert (later.status, later.content) == (RunStatus.completed, "Fine.")
    assert len(shown.scene.provider.requests) == asked + 1
    await shown.scene.provider.await_until(lambda: shown.scene.provider.open_requests == 0, timeout=2)


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def until(condition: Callable[[], Any]) -> None:
    with anyio.fail_after(5):
        while not condition():  # noqa: ASYNC110 - nobody is told when a straggler is struck off
            await anyio.sleep(0.001)


def test_the_table_in_the_docs_has_these_rows() -> None:
    if not DOCS.exists():
        pytest.skip("docs/tools.md is not there yet")
    first_cells = [
        [row.strip().strip("|").split("|")[0].strip() for row in table.strip().splitlines()[2:]]
        for table in re.findall(r"(?m)(?:^\|.*\n?)+", DOCS.read_text())
    ]
    assert sorted(kind.name for kind in KINDS) in [sorted(cells) for cells in first_cells]
