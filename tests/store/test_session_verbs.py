"""Looking at sessions, and deleting, copying and moving them."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest

from kern_async import Agent, RunStatus, Team, tool
from kern_async.db.base import FindSession
from kern_async.db.database import BaseDb
from kern_async.db.in_memory import InMemoryDb
from kern_async.exceptions import ConfigurationError, NotTheirs
from kern_async.testing.scripted import call

from .parts import agent, asked, cancel_at, delegate, forever, model, new_process, read, rows


@tool(requires_confirmation=True)
def pay(amount: int) -> str:
    """Pay."""
    return f"paid {amount}"


def team_of(db: BaseDb | None) -> Team:
    return Team(
        [agent("One", "First.", "Second one.")],
        name="T",
        model=model(delegate("one"), "All.", delegate("one"), "Again."),
        db=db,
        store_events=True,
    )


def without_ids(session: Any) -> list[Any]:
    return [
        (run.status, run.content, [m.content for m in run.messages], len(run.events or ()))
        for run in session.runs
    ]


async def test_each_verb_has_a_twin_that_says_the_same(db: BaseDb) -> None:
    team = team_of(db)
    output = await team.arun("Go.", session_id="s", user_id="ada", session_state={"n": 1})
    assert team.get_session("s") == await team.aget_session("s")
    assert team.list_sessions() == await team.alist_sessions()
    assert team.export_session("s") == await team.aexport_session("s")
    assert team.get_run_output(output.run_id) == await team.aget_run_output(output.run_id)
    assert team.get_run_output(output.run_id, "s") == await team.aget_run_output(output.run_id, "s")
    assert team.fork_session("s", "fork 1") == "fork 1"
    assert await team.afork_session("s", "fork 2") == "fork 2"
    assert without_ids(team.get_session("fork 1")) == without_ids(team.get_session("fork 2"))
    assert team.delete_session("fork 1") is True
    assert await team.adelete_session("fork 2") is True
    assert [each.session_id for each in team.list_sessions()] == ["s"]


def test_threads_look_too(db: BaseDb) -> None:
    solo = agent("Solo", "Done.", db=db)
    output = solo.run("Go.", session_id="s")
    got: list[Any] = []

    def look() -> None:
        got.extend([solo.get_session("s"), solo.get_run_output(output.run_id), solo.list_sessions()])

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert got[0].runs[0].to_dict() == got[1].to_dict() == output.to_dict()
    assert got[2][0].session_id == "s"


async def test_what_is_unknown_is_none(db: BaseDb) -> None:
    solo = agent("Solo", "Done.", db=db)
    output = await solo.arun("Go.", session_id="s")
    assert await solo.aget_session("nope") is None
    assert await solo.aget_run_output("nope") is None
    assert await solo.aget_run_output(output.run_id, "other") is None
    assert await solo.aexport_session("nope") is None
    assert await solo.afork_session("nope", "new") is None
    assert await solo.adelete_session("nope") is False
    assert solo.get_session("nope") is None
    assert solo.get_run_output("nope") is None
    assert solo.export_session("nope") is None
    assert solo.fork_session("nope") is None
    assert solo.delete_session("nope") is False


@pytest.mark.parametrize(
    "verb", ["get_session", "list_sessions", "delete_session", "fork_session", "export_session"]
)
async def test_without_a_database_each_says_what_to_do(verb: str) -> None:
    solo = agent("Solo")
    args = () if verb == "list_sessions" else ("s",)
    with pytest.raises(ConfigurationError, match="give db="):
        getattr(solo, verb)(*args)
    with pytest.raises(ConfigurationError, match="give db="):
        await getattr(solo, f"a{verb}")(*args)


async def test_an_agent_s_own_session_needs_no_id(db: BaseDb) -> None:
    solo = agent("Solo", "Done.", db=db, session_id="mine")
    await solo.arun("Go.")
    session = await solo.aget_session()
    assert session is not None
    assert session.session_id == "mine"
    with pytest.raises(ConfigurationError, match="session_id="):
        await agent("Other", db=db).aget_session()


async def test_lists_are_of_one_user_and_in_pages(db: BaseDb) -> None:
    solo = agent("Solo", db=db)
    solo.model = model("Done.", repeat=True)
    for n in range(4):
        await solo.arun("Go.", session_id=f"s{n}", user_id="ada" if n % 2 else "bob")
    ids = [each.session_id for each in await solo.alist_sessions()]
    assert ids == ["s3", "s2", "s1", "s0"]
    assert [each.session_id for each in await solo.alist_sessions(user_id="ada")] == ["s3", "s1"]
    assert [each.session_id for each in await solo.alist_sessions(limit=2, offset=1)] == ["s2", "s1"]
    await solo.arun("Go.", session_id="s0", user_id="bob")
    assert [each.session_id for each in await solo.alist_sessions(limit=1)] == ["s0"]


# Deleting.


async def test_a_deleted_session_is_gone_with_all_of_it(db: BaseDb) -> None:
    team = team_of(db)
    output = await team.arun("Go.", session_id="s", session_state={"n": 1})
    assert await team.adelete_session("s")
    assert await team.aget_session("s") is None
    assert await team.aget_run_output(output.run_id) is None
    assert await team.aget_run_output(output.member_responses[0].run_id) is None
    assert [event async for event in team.run_events(output.run_id)] == []
    assert rows(db) == []
    again = await team.arun("Go.", session_id="s", run_id=output.run_id)
    assert again.stored
    assert "n" not in (again.session_state or {})


async def test_a_session_with_a_live_run_is_not_deleted(db: BaseDb) -> None:
    solo = agent("Solo", ["The lo", forever], db=db)
    refused: list[str] = []

    async with solo.arun("Go.", session_id="s", stream=True) as stream:
        async for event in stream:
            if event.event == "RunContent":
                with pytest.raises(ConfigurationError, match="cancel its runs first") as info:
                    await solo.adelete_session("s")
                refused.append(str(info.value))
                stream.cancel()
    assert stream.run_id in refused[0]
    assert await solo.adelete_session("s")


async def test_a_session_with_a_paused_run_is_deleted_and_the_run_cannot_go_on_elsewhere(db: BaseDb) -> None:
    solo = agent("Solo", call("pay", amount=1), db=db, tools=[pay])
    output = await solo.arun("Go.", session_id="s")
    new_process()
    assert await solo.adelete_session("s")
    with pytest.raises(ConfigurationError):
        await solo.acontinue_run(run_id=output.run_id)
    assert await solo.acancel_run(output.run_id) is False


# Copies.


async def test_a_fork_lives_its_own_life(db: BaseDb) -> None:
    solo = agent(
        "Solo", "A.", ["Tw", forever], "In the fork.", "In the first.", db=db, add_history_to_context=True
    )
    await solo.arun("One?", session_id="s", session_state={"n": 1})
    await read(solo, "Two?", on=cancel_at("Tw"), session_id="s")
    fork = await solo.afork_session("s")
    assert fork is not None
    await solo.arun("Fork?", session_id=fork, session_state={"n": 2})
    assert asked(solo)[-1] == ["One?", "A.", "Two?", "Tw", "Fork?"]
    await solo.arun("First?", session_id="s")
    assert asked(solo)[-1] == ["One?", "A.", "Two?", "Tw", "First?"]
    first, copy = await solo.aget_session("s"), await solo.aget_session(fork)
    assert first is not None
    assert copy is not None
    assert (first.session_state, copy.session_state) == ({"n": 1}, {"n": 2})
    assert not {run.run_id for run in first.runs} & {run.run_id for run in copy.runs}
    assert [run.forked_from_run_id for run in copy.runs][:2] == [run.run_id for run in first.runs][:2]
    assert copy.runs[0].forked_from_session_id == "s"


async def test_what_a_provider_says_in_broken_unicode_can_be_copied_too(db: BaseDb) -> None:
    solo = agent("Solo", "half \ud800 a pair", db=db, store_events=True)
    output = await solo.arun("Go.", session_id="s")
    fork = await solo.afork_session("s")
    copy = await solo.aget_session(fork)
    assert copy is not None
    assert [run.content for run in copy.runs] == [output.content]


async def test_a_cut_run_s_copy_goes_on_and_the_first_does_too(db: BaseDb) -> None:
    solo = agent("Solo", ["The lo", forever], db=db)
    _, output = await read(solo, on=cancel_at("The lo"), session_id="s")
    await solo.afork_session("s", "fork")
    copy = await solo.aget_session("fork")
    assert copy is not None
    new_process()
    for run_id, turn in ((copy.runs[0].run_id, "ng fork."), (output.run_id, "ng first.")):
        solo.model = model(turn)
        again = await solo.acontinue_run(run_id=run_id)
        assert (again.status, again.content) == (RunStatus.completed, f"The lo{turn}")


async def test_a_session_moves_to_another_database_and_goes_on_there(db: BaseDb) -> None:
    team = team_of(db)
    output = await team.arun("Go.", session_id="s", user_id="ada", session_state={"n": 1})
    data = await team.aexport_session("s")
    assert data is not None
    other = InMemoryDb()
    there = team_of(other)
    assert await there.aimport_session(data) == "s"
    here, moved = await team.aget_session("s"), await there.aget_session("s")
    assert here is not None
    assert moved is not None
    assert [run.to_dict() for run in moved.runs] == [run.to_dict() for run in here.runs]
    assert moved.session_state == {"n": 1}
    got = await there.aget_run_output(output.run_id)
    assert got is not None
    assert got.to_dict() == output.to_dict()
    assert [e.to_dict() async for e in there.run_events(output.run_id)] == [
        e.to_dict() async for e in team.run_events(output.run_id)
    ]
    there.add_history_to_context = True
    more = await there.arun("More.", session_id="s")
    assert more.stored
    assert asked(there)[-1][:1] == ["Go."]
    await other.aclose()


async def test_ids_that_are_in_use_are_not_taken(db: BaseDb) -> None:
    solo = agent("Solo", "A.", "B.", db=db)
    await solo.arun("One?", session_id="s")
    await solo.arun("Two?", session_id="t")
    data = await solo.aexport_session("s")
    assert data is not None
    before = rows(db)
    for wrong in (
        lambda: solo.aimport_session(data),
        lambda: solo.aimport_session(data, "new"),
        lambda: solo.aimport_session(data, "t"),
        lambda: solo.afork_session("s", "t"),
        lambda: solo.aimport_session({"some": "thing"}),
    ):
        with pytest.raises(ConfigurationError):
            await wrong()
    assert rows(db) == before


# Whose it is.


async def test_another_user_s_session_is_refused_and_nothing_is_written(db: BaseDb) -> None:
    solo = agent("Solo", "Ada's.", db=db)
    await solo.arun("Go.", session_id="s", user_id="ada", session_state={"n": 1})
    before = rows(db)
    with pytest.raises(NotTheirs, match="another user"):
        solo.arun("Go.", session_id="s", user_id="eve", stream=True)
    with pytest.raises(NotTheirs, match="another user"):
        await solo.arun("Go.", session_id="s", user_id="eve", session_state={"n": 2})
    with pytest.raises(NotTheirs, match="another user"):
        await solo.arun("Go.", session_id="s", user_id="eve", background=True)
    with pytest.raises(NotTheirs, match="another user"):
        solo.run("Go.", session_id="s", user_id="eve")
    await db.writer.flushed().wait(5)
    assert rows(db) == before
    assert len(asked(solo)) == 1
    ticket = db.writer.ask(FindSession(session_id="s"))
    await ticket.wait(5)
    assert ticket.result.state == {"n": "1"}


async def test_an_id_that_was_refused_is_free(db: BaseDb) -> None:
    solo = agent("Solo", "Ada's.", "Eve's.", db=db)
    await solo.arun("Go.", session_id="s", user_id="ada")
    with pytest.raises(NotTheirs):
        await solo.arun("Go.", session_id="s", user_id="eve", run_id="r")
    output = await solo.arun("Go.", session_id="t", user_id="eve", run_id="r")
    assert output.stored


async def test_a_session_that_two_users_begin_at_once_is_one_s(db: BaseDb) -> None:
    inside, go_on = anyio.Event(), anyio.Event()

    async def wait(_: Any) -> None:
        inside.set()
        await go_on.wait()

    slow = agent("Slow", [wait, "Ada's."], db=db)
    outputs: list[Any] = []

    async def first() -> None:
        outputs.append(await slow.arun("Go.", session_id="s", user_id="ada"))

    async with anyio.create_task_group() as group:
        group.start_soon(first)
        await inside.wait()
        with pytest.raises(NotTheirs):
            await agent("Quick", "Eve's.", db=db).arun("Go.", session_id="s", user_id="eve")
        go_on.set()
    assert outputs[0].stored
    session = await slow.aget_session("s")
    assert session is not None
    assert (session.user_id, len(session.runs)) == ("ada", 1)


async def test_two_runs_of_a_session_at_once_lose_nothing(db: BaseDb) -> None:
    solo = Agent(name="Solo", model=model("Done.", repeat=True), db=db, store_events=True)
    async with anyio.create_task_group() as group:
        for n in range(12):
            group.start_soon(lambda n=n: solo.arun(f"Go {n}.", session_id="s", session_state={f"k{n}": n}))
    session = await solo.aget_session("s")
    assert session is not None
    assert sorted(run.messages[0].content or "" for run in session.runs) == sorted(
        f"Go {n}." for n in range(12)
    )
    assert session.session_state == {f"k{n}": n for n in range(12)}
    assert all(run.stored and run.events for run in session.runs)
