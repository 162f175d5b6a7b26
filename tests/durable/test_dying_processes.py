"""Processes that are killed, that are stopped for too long, and that live, with runs in one database."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import anyio

from kern_async import Agent, RunStatus, Team
from kern_async.db.database import BaseDb

from .child import QUICK, STORY, a_team
from .children import Process, processes
from .places import ONE_LOOP, Place
from .whole import WholeModel

pytestmark = ONE_LOOP

LEASE = 1.0


async def until(condition: Callable[[], object], seconds: float) -> None:
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - it is another process's doing
            await anyio.sleep(0.02)


async def reaper(db: BaseDb) -> Agent:
    """An agent of this process, whose database has been used: from now on it looks for the dead."""
    agent = Agent(model=WholeModel("reader"), db=db)
    assert await agent.alist_sessions() is not None
    return agent


def requests(team: Team) -> dict[str, int]:
    models = [(member.name or "", member.model) for member in team.members]
    return {name: len(model.requests) for name, model in models if isinstance(model, WholeModel)}


async def test_a_process_that_is_killed_with_fifty_runs_leaves_none_of_them_running(place: Place) -> None:
    runs = [f"run-{number}" for number in range(50)]
    with processes(place, lease_seconds=LEASE) as [other]:
        await other.acall("crowd", runs, "s")
        assert place.statuses() == dict.fromkeys(runs, "RUNNING")
        seen = place.events()
        assert {run_id for run_id, _ in seen} == set(runs)
        other.kill()
    died = time.monotonic()
    place.check_whole()
    db = place.database(lease_seconds=LEASE, store_timeout=30)
    agent = await reaper(db)
    await until(lambda: "RUNNING" not in place.statuses(roots=False).values(), 4 * LEASE)
    assert time.monotonic() - died < 4 * LEASE
    assert place.statuses() == dict.fromkeys(runs, "ERROR")
    assert place.events() >= seen

    session = await agent.aget_session("s")
    assert session is not None
    for run in session.runs:
        quick = getattr(run, "agent_name", None) == "quick"
        assert (run.status, run.error_type) == (
            (RunStatus.completed, None) if quick else (RunStatus.error, "Interrupted")
        )
        assert run.content == QUICK if quick else (run.content or "I ask. ")
    for run_id in runs[:3]:
        await check_goes_on(db, run_id)
    place.check_whole()
    await db.aclose()


async def check_goes_on(db: BaseDb, run_id: str) -> None:
    """Who had finished is not run again, who was cut goes on, and the log has no gap."""
    team = a_team(db)
    interrupted: Any = await team.aget_run_output(run_id)
    assert interrupted is not None
    cut = interrupted.member_responses[1].content
    assert cut
    assert STORY.startswith(cut)
    assert cut != STORY
    done = await team.acontinue_run(run_id=run_id)
    assert (done.status, done.content) == (RunStatus.completed, "I ask. All are done.")
    assert (done.stored, done.store_error) == (True, None)
    assert [member.content for member in done.member_responses] == [QUICK, STORY]
    assert requests(team) == {"quick": 0, "slow": 1}
    slow: Any = team.members[1].model
    assert cut in [message.content for message in slow.requests[0].messages]
    indices = [event.event_index async for event in team.run_events(run_id)]
    assert indices == list(range(len(indices)))


async def test_who_lives_keeps_its_runs_and_who_was_stopped_too_long_comes_back_or_is_fenced(
    place: Place,
) -> None:
    lease = 2 * LEASE
    db = place.database(lease_seconds=lease, store_timeout=30)
    with processes(place, lease_seconds=lease) as [other]:
        await other.acall("crowd", ["back", "taken"], "s")
        agent = await reaper(db)
        await anyio.sleep(1.5 * lease)  # the reaper has looked at them four times
        assert set(place.statuses().values()) == {"RUNNING"}

        await stop(other, agent)
        try:
            await until(lambda: set(place.statuses().values()) == {"ERROR"}, 3 * lease)
            ours = await a_team(db).acontinue_run(run_id="taken")
            assert (ours.status, ours.stored) == (RunStatus.completed, True)
        finally:
            other.signal(signal.SIGCONT)
        back, taken = await other.acall("finish", ["back", "taken"])
    assert back == ["COMPLETED", "I ask. All are done.", True, None]
    assert taken[:3] == ["COMPLETED", "I ask. All are done.", False]
    assert "attempt" in taken[3]
    assert place.statuses() == {"back": "COMPLETED", "taken": "COMPLETED"}
    assert place.statuses(roots=False).keys() - {"back", "taken"} != set()
    assert set(place.statuses(roots=False).values()) == {"COMPLETED"}
    stored: Any = await agent.aget_run_output("taken")
    assert stored is not None
    assert stored.to_dict() == ours.to_dict()
    stored = await agent.aget_run_output("back")
    assert stored is not None
    assert [member.content for member in stored.member_responses] == [QUICK, STORY]
    assert (stored.error, stored.error_type) == (None, None)
    await db.aclose()


async def stop(other: Process, agent: Agent) -> None:
    """Stop the process while it holds no lock of the database."""
    while True:
        other.signal(signal.SIGSTOP)
        with anyio.move_on_after(0.5):
            await agent.adelete_session("there is none")  # a write
            return
        other.signal(signal.SIGCONT)
