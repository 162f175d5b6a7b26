"""Going on with runs that were cut, failed or paused: from the database or from an output, here or in a new process."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from kern_async import Agent, RunContext, RunStatus, Team, tool
from kern_async.db.database import BaseDb
from kern_async.engine.resume import GO_ON
from kern_async.exceptions import RunIdInUse, RunNotContinuable
from kern_async.run.agent import RunOutput
from kern_async.run.base import BaseOutput
from kern_async.run.team import TeamRunOutput
from kern_async.testing.scripted import ScriptedModel, call

from ..hitl.attempts import check_attempts
from .parts import (
    agent,
    asked,
    cancel_at,
    cancel_when_all_said,
    check_stored_as_seen,
    delegate,
    forever,
    model,
    new_process,
    read,
    read_stream,
    tree,
)

done: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_is_done_yet() -> None:
    done.clear()


def double(x: int) -> int:
    """Twice as much."""
    done.append(x)
    return 2 * x


@tool(requires_confirmation=True)
def pay(amount: int) -> str:
    """Pay."""
    done.append(amount)
    return f"paid {amount}"


# Ways to name the run that is to go on.


def by_id(output: BaseOutput) -> dict[str, Any]:
    return {"run_id": output.run_id}


def by_output(output: BaseOutput) -> dict[str, Any]:
    return {"run_response": output}


def by_json(output: BaseOutput) -> dict[str, Any]:
    return {"run_response": type(output).from_dict(output.to_dict())}


def by_pickle(output: BaseOutput) -> dict[str, Any]:
    return {"run_response": pickle.loads(pickle.dumps(output))}


WAYS = [
    pytest.param(
        stored,
        fresh,
        name,
        id=f"{'db' if stored else 'no-db'}-{'new' if fresh else 'same'}-{name.__name__}",
    )
    for stored, fresh, name in [
        (True, False, by_id),
        (True, True, by_id),
        (True, True, by_output),
        (True, True, by_json),
        (False, False, by_output),
        (False, True, by_json),
        (False, True, by_pickle),
    ]
]
every_way = pytest.mark.parametrize(("stored", "fresh", "name"), WAYS)


def solo_of(db: BaseDb | None, *turns: Any, **options: Any) -> Agent:
    return agent("Solo", *turns, db=db, tools=[double, pay], **options)


async def going_on(
    who: Any, name: Callable[[Any], dict[str, Any]], output: BaseOutput, **options: Any
) -> Any:
    given = name(output)
    response = given.pop("run_response", None)
    return await read_stream(who.acontinue_run(response, **given, stream=True, stream_events=True, **options))


@every_way
async def test_a_cut_answer_goes_on_where_it_stopped(
    db: BaseDb, stored: bool, fresh: bool, name: Any
) -> None:
    kept = db if stored else None
    solo = solo_of(kept, ["I look. ", call("double", x=4)], ["Eight is wh", forever], "at it is.")
    first, output = await read(solo, on=cancel_at("Eight is wh"), session_id="s")
    assert output.is_cancelled
    if fresh:
        new_process()
        solo = solo_of(kept, "at it is.")
    second, again = await going_on(solo, name, output)
    assert (again.status, again.content) == (RunStatus.completed, "I look. Eight is what it is.")
    assert again.run_id == output.run_id
    assert done == [4]
    assert asked(solo)[-1] == ["Go.", "I look. ", "8", "Eight is wh", GO_ON]
    check_attempts_of_cut([*first, *second])
    assert again.metrics.model_requests == 3
    assert again.metrics.tool_calls == 1
    assert again.metrics.output_tokens > output.metrics.output_tokens
    if stored:
        await check_stored_as_seen(solo, again)


def check_attempts_of_cut(events: list[Any]) -> None:
    """As `check_attempts`, for runs that went on after an end: to those it was a pause."""
    shown: list[Any] = []
    for place, event in enumerate(events):
        later = any(
            each.run_id == event.run_id and each.event.endswith("RunContinued") for each in events[place:]
        )
        if later and event.event.removeprefix("Team") in ("RunCancelled", "RunError"):
            prefix = "Team" if event.event.startswith("Team") else ""
            shown.append(event.model_copy(update={"event": f"{prefix}RunPaused"}))
        else:
            shown.append(event)
    check_attempts(shown)


@every_way
async def test_a_cut_call_is_answered_and_the_finished_one_kept(
    db: BaseDb, stored: bool, fresh: bool, name: Any
) -> None:
    async def hang(x: int) -> int:
        """Never."""
        done.append(-x)
        await anyio.sleep_forever()
        return x

    def made(*turns: Any) -> Agent:
        return agent("Solo", *turns, db=db if stored else None, tools=[double, hang])

    solo = made([call("double", x=1), call("hang", x=2)], "Well.")

    def on(event: Any, stream: Any) -> None:
        if event.event == "ToolCallCompleted":
            stream.cancel()

    first, output = await read(solo, on=on)
    if fresh:
        new_process()
        solo = made("Well.")
    second, again = await going_on(solo, name, output)
    assert (again.status, again.content) == (RunStatus.completed, "Well.")
    assert sorted(done) == [-2, 1]
    assert asked(solo)[-1] == ["Go.", None, "2", "cancelled"]
    check_attempts_of_cut([*first, *second])


@every_way
async def test_a_failed_run_goes_on(db: BaseDb, stored: bool, fresh: bool, name: Any) -> None:
    kept = db if stored else None
    solo = solo_of(kept, ["I look. ", call("double", x=4)], ["Eight ", ValueError("broken")], "it is.")
    first, output = await read(solo)
    assert output.status is RunStatus.error
    if fresh:
        new_process()
        solo = solo_of(kept, "it is.")
    second, again = await going_on(solo, name, output)
    assert (again.status, again.content) == (RunStatus.completed, "I look. Eight it is.")
    assert (again.error, again.error_type) == (None, None)
    assert done == [4]
    check_attempts_of_cut([*first, *second])
    if stored:
        await check_stored_as_seen(solo, again)


@every_way
async def test_a_paused_run_goes_on(db: BaseDb, stored: bool, fresh: bool, name: Any) -> None:
    kept = db if stored else None
    solo = solo_of(kept, ["I pay. ", call("double", x=1), call("pay", amount=3)], "Paid.")
    first, output = await read(solo)
    assert output.is_paused
    if fresh:
        new_process()
        solo = solo_of(kept, "Paid.")
    requirements = [each.model_copy(deep=True) for each in output.requirements]
    requirements[0].confirm()
    second, again = await going_on(solo, name, output, requirements=requirements)
    assert (again.status, again.content) == (RunStatus.completed, "I pay. Paid.")
    assert done == [1, 3]
    check_attempts([*first, *second])
    if stored:
        await check_stored_as_seen(solo, again)


@every_way
async def test_input_that_is_given_takes_the_place_of_being_asked_to_go_on(
    db: BaseDb, stored: bool, fresh: bool, name: Any
) -> None:
    kept = db if stored else None
    solo = solo_of(kept, ["Once upon", forever], " The end.")
    first, output = await read(solo, on=cancel_at("Once upon"))
    if fresh:
        new_process()
        solo = solo_of(kept, " The end.")
    second, again = await going_on(solo, name, output, input="Make it short.")
    check_attempts_of_cut([*first, *second])
    assert again.content == "Once upon The end."
    assert asked(solo)[-1] == ["Go.", "Once upon", "Make it short."]


async def test_an_output_that_has_been_json_goes_on_with_its_text_and_its_calls() -> None:
    solo = solo_of(None, ["I look. ", call("double", x=4)], ["Eight is wh", forever])
    _, output = await read(solo, on=cancel_at("Eight is wh"))
    new_process()
    solo = solo_of(None, "at it is.")
    again = await solo.acontinue_run(RunOutput.from_dict(output.to_dict()))
    assert (again.status, again.content) == (RunStatus.completed, "I look. Eight is what it is.")
    assert done == [4]
    assert asked(solo) == [["Go.", "I look. ", "8", "Eight is wh", GO_ON]]


async def test_a_run_that_was_cut_before_its_first_word_begins_anew(db: BaseDb) -> None:
    solo = solo_of(db, forever, "Here I am.")

    def on(event: Any, stream: Any) -> None:
        if event.event == "ModelRequestStarted":
            stream.cancel()

    _, output = await read(solo, on=on)
    assert output.content is None
    new_process()
    solo = solo_of(db, "Here I am.")
    again = await solo.acontinue_run(run_id=output.run_id)
    assert again.content == "Here I am."
    assert asked(solo) == [["Go."]]


async def test_a_run_that_never_began_begins_when_it_is_continued(db: BaseDb) -> None:
    solo = solo_of(db, "Here I am.", instructions="Be brief.")
    stream = solo.arun("Go.", stream=True)
    stream.cancel()
    async for _ in stream:
        pass
    new_process()
    solo = solo_of(db, "Here I am.", instructions="Be brief.")
    again = await solo.acontinue_run(run_id=stream.run_id)
    assert (again.status, again.content) == (RunStatus.completed, "Here I am.")
    assert asked(solo) == [["Go."]]
    assert [m.role for m in again.messages] == ["system", "user", "assistant"]


# Again and again.


async def test_twice_in_a_row(db: BaseDb) -> None:
    seen: list[Any] = []
    solo = solo_of(db, ["One ", forever], store_events=True)
    events, output = await read(solo, on=cancel_at("One "))
    seen += events
    for turn, text in (
        (["two ", forever], "two "),
        (["three ", ValueError("broken")], None),
        ("four.", None),
    ):
        new_process()
        solo = solo_of(db, turn, store_events=True)
        stream = solo.acontinue_run(run_id=output.run_id, stream=True, stream_events=True)
        events, output = await read_stream(stream, on=cancel_at(text) if text else None)
        seen += events
    assert (output.status, output.content) == (RunStatus.completed, "One two three four.")
    check_attempts_of_cut(seen)
    assert output.metrics.model_requests == 4
    again = [event async for event in solo.run_events(output.run_id)]
    assert [event.to_dict() for event in again] == [event.to_dict() for event in seen]
    assert [event.to_dict() for event in output.events or ()] == [event.to_dict() for event in seen]
    await check_stored_as_seen(solo, output)


async def test_twice_in_a_row_without_a_database() -> None:
    solo = solo_of(None, ["One ", forever])
    seen, output = await read(solo, on=cancel_at("One "))
    for turn, text in ((["two ", forever], "two "), ("three.", None)):
        new_process()
        solo = solo_of(None, turn)
        output = RunOutput.from_dict(output.to_dict())
        stream = solo.acontinue_run(output, stream=True, stream_events=True)
        events, output = await read_stream(stream, on=cancel_at(text) if text else None)
        seen += events
    assert output.content == "One two three."
    assert output.metrics.model_requests == 3


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_wait_for_its_claim_that_is_cancelled_leaves_the_run_to_others(
    db: BaseDb, restarted: bool
) -> None:
    for steps in range(0, 40, 2):
        solo = agent("Solo", call("pay", amount=3), "Paid.", "Paid.", db=db, tools=[pay])
        paused = await solo.arun("Pay.")
        if restarted:
            new_process()
        async with anyio.create_task_group() as group:
            group.start_soon(lambda solo=solo, paused=paused: solo.acontinue_run(run_id=paused.run_id))
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        left = await solo.aget_run_output(paused.run_id)
        assert left is not None
        assert left.status in (RunStatus.paused, RunStatus.cancelled)
        again = await solo.acontinue_run(run_id=paused.run_id)
        assert (again.stored, again.store_error) == (True, None)
        await solo.acancel_run(paused.run_id)


async def test_of_two_at_the_same_time_one_wins(db: BaseDb) -> None:
    solo = solo_of(db, ["One ", forever], ["two.", forever])
    _, output = await read(solo, on=cancel_at("One "))
    new_process()
    go_on = anyio.Event()

    async def wait(_: Any) -> None:
        await go_on.wait()

    ends: list[Any] = []

    async def go(who: Agent) -> None:
        try:
            ends.append(await who.acontinue_run(run_id=output.run_id))
        except RunNotContinuable as error:
            ends.append(error)
            go_on.set()

    async with anyio.create_task_group() as group:
        group.start_soon(go, solo_of(db, [wait, "two."]))
        group.start_soon(go, solo_of(db, [wait, "two."]))
    assert sorted(type(end).__name__ for end in ends) == ["RunNotContinuable", "RunOutput"]


async def test_streams_at_the_same_time_one_wins(db: BaseDb) -> None:
    solo = solo_of(db, ["One ", forever], "two.")
    _, output = await read(solo, on=cancel_at("One "))
    stream = solo.acontinue_run(run_id=output.run_id, stream=True)
    with pytest.raises(RunNotContinuable):
        solo.acontinue_run(run_id=output.run_id, stream=True)
    with pytest.raises(RunNotContinuable):
        await solo.acontinue_run(run_id=output.run_id)
    await stream.aclose()
    got = await solo.aget_run_output(output.run_id)
    assert got is not None
    assert got.to_dict() == output.to_dict(), "nothing was begun"
    again = await solo.acontinue_run(run_id=output.run_id)
    assert again.content == "One two."


async def test_what_cannot_go_on_says_why(db: BaseDb) -> None:
    solo = solo_of(db, "Done.", ["The lo", forever], call("pay", amount=1))
    completed = await solo.arun("Go.", run_id="completed", session_id="s", user_id="ada")
    for fresh in (False, True):
        if fresh:
            new_process()
        with pytest.raises(RunNotContinuable, match="COMPLETED"):
            await solo.acontinue_run(run_id="completed")
        with pytest.raises(RunNotContinuable, match="COMPLETED"):
            await solo.acontinue_run(completed)
        with pytest.raises(RunNotContinuable, match="COMPLETED"):
            solo.acontinue_run(run_id="completed", stream=True)
        with pytest.raises(RunNotContinuable, match="COMPLETED"):
            solo.continue_run(run_id="completed")
    with pytest.raises(RunNotContinuable, match="'nope'"):
        await solo.acontinue_run(run_id="nope")
    async with solo.arun("Go.", run_id="live", stream=True) as stream:
        async for event in stream:
            if event.event == "RunContent":
                with pytest.raises(RunNotContinuable, match="live"):
                    await solo.acontinue_run(run_id="live")
                stream.cancel()


async def test_nobody_else_goes_on_with_it(db: BaseDb) -> None:
    solo = solo_of(db, ["The lo", forever], "ng answer")
    _, output = await read(solo, on=cancel_at("The lo"), session_id="s", user_id="ada")
    new_process()
    solo = solo_of(db, "ng answer")
    with pytest.raises(RunNotContinuable, match="belongs to the agent 'solo'"):
        await agent("Other", "No.", db=db).acontinue_run(run_id=output.run_id)
    with pytest.raises(RunNotContinuable, match="belongs to the agent 'solo'"):
        await Team([agent("One")], name="Solo", db=db).acontinue_run(run_id=output.run_id)
    with pytest.raises(RunNotContinuable, match="another session than 'other'"):
        await solo.acontinue_run(run_id=output.run_id, session_id="other")
    with pytest.raises(RunNotContinuable, match="another user than 'eve'"):
        await solo.acontinue_run(run_id=output.run_id, user_id="eve")
    again = await solo.acontinue_run(run_id=output.run_id, session_id="s", user_id="ada")
    assert again.content == "The long answer"


async def test_a_stored_run_s_id_is_in_use(db: BaseDb) -> None:
    solo = solo_of(db, "Done.", ["The lo", forever])
    await solo.arun("Go.", run_id="r")
    with pytest.raises(RunIdInUse, match="continue_run"):
        await solo.arun("Go.", run_id="r")
    with pytest.raises(RunIdInUse, match="continue_run"):
        solo.arun("Go.", run_id="r", stream=True)
    with pytest.raises(RunIdInUse, match="continue_run"):
        solo.run("Go.", run_id="r")
    assert len(asked(solo)) == 1


@pytest.mark.parametrize("stored", [True, False], ids=["db", "no-db"])
@pytest.mark.parametrize("fresh", [True, False], ids=["new", "same"])
async def test_an_output_that_the_run_has_left_behind_is_refused(
    db: BaseDb, stored: bool, fresh: bool
) -> None:
    kept = db if stored else None
    solo = solo_of(kept, ["One ", forever], "two.")
    _, output = await read(solo, on=cancel_at("One "))
    again = await solo.acontinue_run(output)
    assert again.content == "One two."
    if fresh:
        if not stored:
            return  # nobody knows
        new_process()
        solo = solo_of(kept, "three.")
    with pytest.raises(RunNotContinuable):
        await solo.acontinue_run(output)


async def test_a_stale_output_of_a_run_that_was_cut_again_is_refused_in_its_process() -> None:
    solo = solo_of(None, ["One ", forever], ["two ", forever], "three.")
    _, output = await read(solo, on=cancel_at("One "))
    stream = solo.acontinue_run(output, stream=True)
    _, second = await read_stream(stream, on=cancel_at("two "))
    with pytest.raises(RunNotContinuable, match="since it left this output"):
        await solo.acontinue_run(output)
    again = await solo.acontinue_run(second)
    assert again.content == "One two three."


# What else goes on with it.


class Answer(BaseModel):
    words: list[str]


async def test_hooks_schema_state_history_and_metadata_go_on(db: BaseDb) -> None:
    hooked: list[Any] = []

    def before(run_input: Any) -> None:
        hooked.append("pre")

    def after(run_output: Any) -> None:
        hooked.append(run_output.content)

    def remember(run_context: RunContext, what: str) -> str:
        """Keep it."""
        run_context.session_state["kept"] = what
        return "ok"

    def made(*turns: Any) -> Agent:
        return agent(
            "Solo", *turns, db=db, tools=[remember], output_schema=Answer, post_hooks=[after], pre_hooks=[before],
            add_history_to_context=True,
        )  # fmt: skip

    first = made('{"words": []}')
    await first.arun("Earlier?", session_id="s")
    hooked.clear()
    solo = made([call("remember", what="it")], ['{"words": ["a",', forever])
    _, output = await read(
        solo, on=cancel_at('{"words": ["a",'), session_id="s", session_state={"n": 1}, metadata={"t": 7}
    )
    assert hooked == ["pre"]
    new_process()
    solo = made('"b"]}')
    again = await solo.acontinue_run(run_id=output.run_id)
    assert again.status is RunStatus.completed, again.error
    assert again.content == Answer(words=["a", "b"])
    assert hooked == ["pre", Answer(words=["a", "b"])]
    assert again.session_state == {"n": 1, "kept": "it"}
    assert again.metadata == {"t": 7}
    assert asked(solo)[0][:4] == ["Earlier?", '{"words": []}', "Go.", None]
    session = await solo.aget_session("s")
    assert session is not None
    assert session.session_state == {"n": 1, "kept": "it"}


@pytest.mark.parametrize("fresh", [True, False], ids=["new", "same"])
async def test_an_object_may_be_cut_more_than_once(db: BaseDb, fresh: bool) -> None:
    turns: list[Any] = [
        ["I look. ", call("double", x=1)],
        ['{"wor', forever],
        ['ds": ', '["a", ', forever],
        ['"b"]}'],
    ]
    solo = solo_of(db, *turns, output_schema=Answer)
    _, output = await read(solo, on=cancel_at('{"wor'))
    if fresh:
        new_process()
        solo = solo_of(db, *turns[2:], output_schema=Answer)
    stream = solo.acontinue_run(run_id=output.run_id, stream=True)
    await read_stream(stream, on=cancel_at('["a", '))
    if fresh:
        new_process()
        solo = solo_of(db, *turns[3:], output_schema=Answer)
    again = await solo.acontinue_run(run_id=output.run_id)
    assert again.content == Answer(words=["a", "b"]), again.error


async def test_history_of_a_run_that_goes_on_is_of_runs_before_it_only(db: BaseDb) -> None:
    def made(*turns: Any) -> Agent:
        return agent("Solo", *turns, db=db, add_history_to_context=True)

    await made("Before.").arun("One?", session_id="s")
    solo = made(["Tw", forever])
    _, output = await read(solo, "Two?", on=cancel_at("Tw"), session_id="s")
    await made("After.").arun("Three?", session_id="s")
    new_process()
    solo = made("o.")
    again = await solo.acontinue_run(run_id=output.run_id)
    assert again.content == "Two."
    assert asked(solo) == [["One?", "Before.", "Two?", "Tw", GO_ON]]


async def test_a_continued_run_is_told_of_to_the_next_as_one_turn(db: BaseDb) -> None:
    solo = agent("Solo", ["Tw", forever], "o.", "Three.", db=db, add_history_to_context=True)
    _, output = await read(solo, "Two?", on=cancel_at("Tw"), session_id="s")
    await solo.acontinue_run(run_id=output.run_id)
    await solo.arun("Three?", session_id="s")
    assert asked(solo)[-1] == ["Two?", "Tw", GO_ON, "o.", "Three?"]


def test_threads_go_on_with_what_tasks_began(db: BaseDb) -> None:
    solo = solo_of(db, ["One ", forever])
    with solo.run("Go.", stream=True) as stream:
        for event in stream:
            if event.content == "One ":
                stream.cancel()
    new_process()
    solo = solo_of(db, "two.")
    again = solo.continue_run(run_id=stream.run_id)
    assert again.content == "One two."
    assert again.stored


# Teams.


class Cast:
    """A team's parts with scripts for each attempt, which count what was asked of them."""

    def __init__(self, db: BaseDb | None, mode: str, attempt: int) -> None:
        cut = attempt == 1
        self.one = agent("One", *([[call("double", x=2)], "First."] if cut else []), tools=[double])
        self.two = agent("Two", *([["Second", forever]] if cut else [" one."]))
        leads: dict[str, tuple[list[Any], list[Any]]] = {
            "coordinate": ([["I ask. ", delegate("one"), delegate("two")]], ["All."]),
            "route": ([["I ask. ", delegate("two")]], []),
            "broadcast": ([], ["All."]),
            "tasks": (
                [
                    [
                        call("create_task", title="A", assignee="one"),
                        call("create_task", title="B", assignee="two"),
                    ],
                    [call("execute_tasks_parallel", task_ids=["1", "2"])],
                ],
                [[call("mark_all_complete", summary="ok")], "All."],
            ),
        }
        self.team = Team(
            [self.one, self.two], name="T", mode=mode, db=db, model=model(*leads[mode][0 if cut else 1]),
            store_events=True,
        )  # fmt: skip


CONTENT = {"coordinate": "I ask. All.", "route": "I ask. Second one.", "broadcast": "All.", "tasks": "All."}


@pytest.mark.parametrize("mode", CONTENT)
@every_way
async def test_a_team_goes_on_and_only_what_was_cut_is_done(
    db: BaseDb, mode: str, stored: bool, fresh: bool, name: Any
) -> None:
    if mode == "tasks" and name is by_json and not stored:
        pytest.xfail("an output as JSON does not say for which task of one call a member was begun")
    kept = db if stored else None
    cast = Cast(kept, mode, 1)
    texts = ["Second"] if mode == "route" else ["First.", "Second"]
    first, output = await read(cast.team, on=cancel_when_all_said(*texts), session_id="s")
    assert output.is_cancelled
    if fresh:
        new_process()
        cast = Cast(kept, mode, 2)
    else:
        later = Cast(kept, mode, 2)
        for old, new in ((cast.one, later.one), (cast.two, later.two), (cast.team, later.team)):
            assert isinstance(old.model, ScriptedModel)
            assert isinstance(new.model, ScriptedModel)
            old.model.turns = [*list(old.model.turns)[: len(old.model.requests)], *new.model.turns]
    second, again = await going_on(cast.team, name, output)
    assert (again.status, again.content) == (RunStatus.completed, CONTENT[mode]), again.error
    assert done == ([] if mode == "route" else [2])
    members = {each.run_id: each for each in tree(again)[1:]}
    assert members.keys() == {each.run_id for each in tree(output)[1:]}, "nobody is begun anew"
    assert {each.content for each in members.values()} == (
        {"Second one."} if mode == "route" else {"First.", "Second one."}
    )
    assert all(each.status is RunStatus.completed for each in members.values())
    assert again.metrics.model_requests == sum(
        event.event.endswith("ModelRequestStarted") for event in [*first, *second]
    )
    if mode != "route":  # there the member's words are its team's
        check_attempts_of_cut([*first, *second])
    assert [event.event_index for event in [*first, *second]] == list(range(len(first) + len(second)))
    if stored:
        await check_stored_as_seen(cast.team, again)
        events = [event async for event in cast.team.run_events(again.run_id)]
        assert [event.to_dict() for event in events] == [event.to_dict() for event in [*first, *second]]


def nested(db: BaseDb | None, attempt: int, last: Any = None) -> Team:
    cut = attempt == 1
    one = agent("One", *(["First."] if cut else []))
    two = agent("Two", *([["Second", forever]] if cut else [" one."]))
    deep = Team([one, two], name="Deep",
                model=model(*([[delegate("one"), delegate("two")]] if cut else ["Deep says."])))  # fmt: skip
    three = agent("Three", *(["Third."] if cut else []))
    top = [["I ask. ", delegate("deep"), delegate("three")]] if cut else ["Top says."]
    return Team([deep, three], name="Top", model=model(*top), db=db)


@every_way
async def test_a_nested_team_goes_on(db: BaseDb, stored: bool, fresh: bool, name: Any) -> None:
    kept = db if stored else None
    first, output = await read(nested(kept, 1), on=cancel_when_all_said("First.", "Second", "Third."))
    assert output.is_cancelled
    new_process()
    if not fresh:
        output = pickle.loads(pickle.dumps(output))  # its run is gone with its process
    top = nested(kept, 2)
    second, again = await going_on(top, name, output)
    assert (again.status, again.content) == (RunStatus.completed, "I ask. Top says."), again.error
    assert sorted(str(each.content) for each in tree(again)) == [
        "Deep says.", "First.", "I ask. Top says.", "Second one.", "Third."
    ]  # fmt: skip
    assert again.metrics.model_requests == 8
    check_attempts_of_cut([*first, *second])
    if stored:
        await check_stored_as_seen(top, again)


@pytest.mark.parametrize("fresh", [True, False], ids=["new", "same"])
async def test_a_member_s_id_names_the_run_that_can_go_on(db: BaseDb, fresh: bool) -> None:
    top = nested(db, 1)
    _, output = await read(top, on=cancel_when_all_said("First.", "Second", "Third."))
    cut = next(each for each in tree(output) if each.content == "Second")
    if fresh:
        new_process()
    with pytest.raises(RunNotContinuable, match=output.run_id):
        await top.acontinue_run(run_id=cut.run_id)
    with pytest.raises(RunNotContinuable, match=output.run_id):
        await agent("Two", db=db).acontinue_run(cut)


async def test_a_paused_team_goes_on_in_a_new_process(db: BaseDb) -> None:
    def made(attempt: int) -> Team:
        first = attempt == 1
        payer = agent("Payer", *([["I pay. ", call("pay", amount=3)]] if first else ["Paid."]), tools=[pay])
        other = agent("Other", *(["Other."] if first else []))
        inner = Team([payer, other], name="Inner",
                     model=model(*([[delegate("payer"), delegate("other")]] if first else ["In."])))  # fmt: skip
        return Team([inner], name="T", model=model(*([delegate("inner")] if first else ["All."])), db=db)

    first, output = await read(made(1))
    assert output.is_paused
    new_process()
    team = made(2)
    got = await team.aget_run_output(output.run_id)
    assert isinstance(got, TeamRunOutput)
    (requirement,) = got.active_requirements
    requirement.confirm()
    second, again = await read_stream(team.acontinue_run(got, stream=True, stream_events=True))
    assert (again.status, again.content) == (RunStatus.completed, "All."), again.error
    assert done == [3]
    check_attempts([*first, *second])
    await check_stored_as_seen(team, again)


async def test_a_run_with_unresolved_requirements_pauses_again(db: BaseDb) -> None:
    solo = solo_of(db, ["I pay. ", call("pay", amount=3), call("pay", amount=4)])
    output = await solo.arun("Go.")
    new_process()
    got = await solo.aget_run_output(output.run_id)
    assert got is not None
    assert got.requirements is not None
    got.requirements[0].confirm()
    again = await solo.acontinue_run(got)
    assert again.is_paused
    assert done == [3]
    new_process()
    solo = solo_of(db, "Paid.")
    got = await solo.aget_run_output(output.run_id)
    assert got is not None
    (left,) = got.active_requirements
    left.reject("no")
    again = await solo.acontinue_run(run_id=output.run_id, requirements=[left])
    assert (again.status, again.content) == (RunStatus.completed, "I pay. Paid.")
    assert done == [3]
    await check_stored_as_seen(solo, again)
