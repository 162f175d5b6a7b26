"""A message into a run: before its next model request, and promised exactly when it is kept (SPEC §4)."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from pydantic import BaseModel

from kern_async import (
    Agent,
    RunContext,
    RunLimits,
    RunStatus,
    TeamMode,
    asend_message,
    cancel_run,
    send_message,
    tool,
)
from kern_async.exceptions import ConfigurationError
from kern_async.testing import Call, Cut, Gate, Request, Status, Text, ToolCall
from kern_async.testing.scripted import ScriptedModel

from ..agent.crew import Crew, delegate
from ..engine.invariants import check_messages
from .racing import racing
from .stage import RUN, Held, Stage, answers, by_name, is_cancelled, still_live

HURRY = "Hurry up."


def said(output: Any, role: str = "user") -> list[str]:
    return [message.content for message in output.messages if message.role == role]


def roles(output: Any) -> list[str]:
    return [message.role for message in output.messages]


def heard(request: Request) -> list[str]:
    """The texts of the user that a request carries, in their order."""
    texts: list[str] = []
    for item in request.input:
        if item.get("role") == "user":
            content = item["content"]
            texts.append(content if isinstance(content, str) else "".join(part["text"] for part in content))
    return texts


async def test_it_stands_behind_all_tool_results_in_the_next_request(any_crew: Crew) -> None:
    for streamed in (True, False):
        any_crew.provider.reset()
        stage, helds = Stage(any_crew, streamed), (Held("one"), Held("two", "sync"))
        agent = any_crew.agent(
            "Solo",
            [ToolCall("one"), ToolCall("two")],
            Text("I see."),
            tools=[held.tool for held in helds],
        )

        async def act(stage: Stage = stage, helds: Any = helds) -> None:
            for held in helds:
                await stage.until(held.begun.is_set)
            assert send_message(RUN, HURRY)
            helds[0].released.set()
            await still_live()
            helds[1].released.set()

        output = await stage.run(agent, act)
        assert (output.status, output.content) == (RunStatus.completed, "I see.")
        assert any_crew.requests()[1].last_text == HURRY
        assert any_crew.told() == ["done", "done"]
        assert roles(output) == ["user", "assistant", "tool", "tool", "user", "assistant"]
        assert said(output) == ["Go.", HURRY]


async def test_a_run_whose_answer_would_have_been_the_last_goes_on(any_crew: Crew) -> None:
    for streamed in (True, False):
        any_crew.provider.reset()
        stage, gate = Stage(any_crew, streamed), Gate()
        agent = any_crew.agent("Solo", [Text(["one "]), gate, Text("two. ")], Text("Done."))

        async def act(stage: Stage = stage, gate: Gate = gate) -> None:
            await stage.answering("Solo")
            assert send_message(RUN, HURRY)
            gate.open()

        output = await stage.run(agent, act)
        assert (output.status, output.content) == (RunStatus.completed, "one two. Done.")
        assert len(any_crew.requests()) == 2
        assert any_crew.requests()[1].last_text == HURRY
        assert roles(output) == ["user", "assistant", "user", "assistant"]


async def test_messages_come_in_their_order_each_on_its_own(stage: Stage) -> None:
    held, texts = Held(), [f"Number {n}." for n in range(5)]
    agent = stage.crew.agent("Solo", ToolCall("held"), Text("I see."), tools=[held.tool])

    async def act() -> None:
        await stage.until(held.begun.is_set)
        assert all(send_message(RUN, text) for text in texts)
        held.released.set()

    output = await stage.run(agent, act)
    assert said(output) == ["Go.", *texts]
    assert heard(stage.crew.requests()[1]) == ["Go.", *texts]
    assert len(stage.crew.requests()) == 2


@pytest.mark.parametrize("whose", ["member", "deep"])
async def test_a_members_id_means_the_members_own_conversation(read_stage: Stage, whose: str) -> None:
    stage, held = read_stage, Held()
    deep = stage.crew.agent("Deep", ToolCall("held"), Text("Deep says so."), tools=[held.tool])
    inner = stage.crew.team(delegate("deep"), Text("Inner says so."), members=[deep], name="Inner")
    team = stage.crew.team(delegate("inner"), Text("All told."), members=[inner])

    async def act() -> None:
        await stage.until(held.begun.is_set)
        assert send_message(stage.run_of("Inner" if whose == "member" else "Deep"), HURRY)
        held.released.set()

    output = await stage.run(team, act)
    name = "Inner" if whose == "member" else "Deep"
    assert stage.crew.requests(name)[1].last_text == HURRY
    for other, each in by_name(output).items():
        assert (HURRY in said(each)) == (other == name)
    others = [r for r in stage.crew.provider.requests if r.model != name]
    assert not any(HURRY in request.text for request in others)


async def test_a_pending_stream_hears_it_before_its_first_request(crew: Crew) -> None:
    stream = crew.agent("Solo", Text("I see.")).arun("Go.", stream=True, run_id=RUN)
    assert send_message(RUN, HURRY)
    assert send_message(RUN, "Now.")
    assert [event.event async for event in stream][-1] == "RunCompleted"
    assert len(crew.requests()) == 1
    assert heard(crew.requests()[0]) == ["Go.", HURRY, "Now."]
    assert said(stream.output) == ["Go.", HURRY, "Now."]


async def test_a_pending_stream_that_is_cancelled_keeps_it(crew: Crew) -> None:
    stream = crew.agent("Solo", Text("I see.")).arun("Go.", stream=True, run_id=RUN)
    assert send_message(RUN, HURRY)
    assert stream.cancel()
    assert not send_message(RUN, "Too late.")
    assert said(stream.output) == ["Go.", HURRY]
    await stream.aclose()
    assert crew.requests() == []


@pytest.mark.parametrize("way", ["thread", "async", "instance", "tool", "members tool"])
async def test_it_may_come_from_anywhere(stage: Stage, way: str) -> None:
    held, answered = Held(), list[bool]()

    async def tell() -> str:
        answered.append(send_message(RUN, HURRY))
        await anyio.lowlevel.checkpoint()
        return "told"

    worker = stage.crew.agent("Worker", ToolCall("tell"), Text("Found."), tools=[tell])
    calls = {"tool": [ToolCall("tell")], "members tool": [delegate("worker")]}.get(way, [ToolCall("held")])
    team = stage.crew.team(calls, Text("All told."), members=[worker], tools=[held.tool, tell])

    async def act() -> None:
        if "tool" in way:
            return
        await stage.until(held.begun.is_set)
        match way:
            case "thread":
                answered.append(await anyio.to_thread.run_sync(send_message, RUN, HURRY))
            case "async":
                answered.append(await asend_message(RUN, HURRY))
            case _:
                answered.append(Agent.send_message(RUN, HURRY))
        held.released.set()

    output = await stage.run(team, act)
    assert answered == [True]
    assert said(output) == ["Go.", HURRY]
    assert stage.crew.requests("Leader")[1].last_text == HURRY


@pytest.mark.parametrize("whose", ["run", "model"])
@pytest.mark.parametrize("fault", ["500", "cut"])
async def test_a_request_that_is_tried_again_has_it_too(stage: Stage, whose: str, fault: str) -> None:
    """It came while the request that failed was open: the next try is the next request."""
    answered: list[bool] = []
    options: dict[str, Any] = (
        {"retries": 2, "delay_between_retries": 0}
        if whose == "run"
        else {"model": stage.crew.model("Solo", max_retries=2)}
    )

    def send(_request: Request) -> None:
        answered.append(send_message(RUN, HURRY))

    failing = [Call(send), Status(500) if fault == "500" else Cut()]
    agent = stage.crew.agent("Solo", failing, Text("I see."), **options)
    output = await stage.run(agent, anyio.lowlevel.checkpoint)
    assert answered == [True]
    assert (output.status, output.content) == (RunStatus.completed, "I see.")
    assert stage.crew.requests()[1].last_text == HURRY
    assert len(stage.crew.requests()) == 2


async def test_the_next_try_after_a_broken_answer_has_it_and_knows_where_to_go_on(stage: Stage) -> None:
    gate = Gate()
    agent = stage.crew.agent(
        "Solo", [Text(["one "]), gate, Cut()], Text("two"), retries=1, delay_between_retries=0
    )

    async def act() -> None:
        await stage.answering("Solo")
        assert send_message(RUN, HURRY)
        gate.open()

    output = await stage.run(agent, act)
    assert output.status is RunStatus.completed
    assert HURRY in said(output)
    assert HURRY in heard(stage.crew.requests()[1])
    assert any("cut off" in text for text in heard(stage.crew.requests()[1]))
    assert output.content == "one two"


async def test_a_run_that_hears_it_in_its_pre_hook_sends_it_with_the_first_request(stage: Stage) -> None:
    def hook(run_context: RunContext) -> None:
        assert send_message(run_context.run_id, HURRY)

    agent = stage.crew.agent("Solo", Text("I see."), pre_hooks=[hook])
    output = await stage.run(agent, anyio.lowlevel.checkpoint)
    assert heard(stage.crew.requests()[0]) == ["Go.", HURRY]
    assert len(stage.crew.requests()) == 1
    assert said(output) == ["Go.", HURRY]


async def test_a_run_that_only_has_its_post_hooks_left_hears_nothing_more(stage: Stage) -> None:
    answered: list[bool] = []

    def hook(run_context: RunContext) -> None:
        answered.append(send_message(run_context.run_id, HURRY))

    agent = stage.crew.agent("Solo", Text("I see."), post_hooks=[hook])
    output = await stage.run(agent, anyio.lowlevel.checkpoint)
    assert answered == [False]
    assert said(output) == ["Go."]


async def test_a_tool_that_ends_the_loop_does_not_end_it_before_a_message_is_answered(stage: Stage) -> None:
    held = Held()
    finish = tool(stop_after_tool_call=True, show_result=False, name="held")(held.tool.entrypoint)
    agent = stage.crew.agent("Solo", ToolCall("held"), Text("I see."), tools=[finish])

    async def act() -> None:
        await stage.until(held.begun.is_set)
        assert send_message(RUN, HURRY)
        held.released.set()

    output = await stage.run(agent, act)
    assert output.status is RunStatus.completed
    assert stage.crew.requests()[1].last_text == HURRY
    assert output.content == "I see."


async def test_the_object_is_that_of_the_last_answer(stage: Stage) -> None:
    class Answer(BaseModel):
        n: int

    gate = Gate()
    agent = stage.crew.agent(
        "Solo", [Text(['{"n": ']), gate, Text("1}")], Text('{"n": 2}'), output_schema=Answer
    )

    async def act() -> None:
        await stage.answering("Solo")
        assert send_message(RUN, "Two, please.")
        gate.open()

    stage.streamed = False  # the content is no text
    output = await stage.run(agent, act)
    assert output.status is RunStatus.completed, output.error
    assert output.content == Answer(n=2)


@pytest.mark.parametrize("mode", [TeamMode.broadcast, TeamMode.tasks])
async def test_leaders_of_every_mode_hear_it(stage: Stage, mode: TeamMode) -> None:
    gate = Gate()
    replies: list[Any] = [[Text(["one "]), gate, Text("two. ")]]
    if mode is TeamMode.tasks:
        replies += [ToolCall("mark_all_complete", {"summary": "Done."})]
    team = stage.crew.team(*replies, Text("Done."), members=[stage.crew.agent("A")], mode=mode)

    async def act() -> None:
        await stage.answering("Leader")
        assert send_message(RUN, HURRY)
        gate.open()

    output = await stage.run(team, act)
    assert output.status is RunStatus.completed
    assert stage.crew.requests("Leader")[1].last_text == HURRY
    assert said(output).count(HURRY) == 1


@pytest.mark.parametrize("mode", ["now", "after_tools", "after_turn"])
async def test_a_cancelled_run_keeps_what_it_had_promised_and_promises_nothing_more(
    stage: Stage, mode: Any
) -> None:
    held = Held()
    agent = stage.crew.agent("Solo", ToolCall("held"), tools=[held.tool])

    async def act() -> None:
        await stage.until(held.begun.is_set)
        assert send_message(RUN, HURRY)
        assert cancel_run(RUN, mode=mode)
        assert not send_message(RUN, "Too late.")
        held.released.set()

    output = await stage.run(agent, act)
    assert is_cancelled(output)
    assert said(output) == ["Go.", HURRY]
    assert roles(output) == ["user", "assistant", "tool", "user"]
    assert len(stage.crew.requests()) == 1


@pytest.mark.parametrize("mode", ["now", "after_turn"])
async def test_a_cut_answer_comes_before_the_message_that_was_to_follow_it(stage: Stage, mode: Any) -> None:
    gate = Gate()
    agent = stage.crew.agent("Solo", [Text(["one "]), gate, Text("two")])

    async def act() -> None:
        await stage.answering("Solo")
        assert send_message(RUN, HURRY)
        assert cancel_run(RUN, mode=mode)
        gate.open()

    output = await stage.run(agent, act)
    assert is_cancelled(output)
    assert said(output) == ["Go.", HURRY]
    assert len(stage.crew.requests()) == 1


async def test_a_failed_run_keeps_it(stage: Stage) -> None:
    answered: list[bool] = []
    agent = stage.crew.agent(
        "Solo", [Call(lambda _request: answered.append(send_message(RUN, HURRY))), Status(400)]
    )
    output = await stage.run(agent, anyio.lowlevel.checkpoint)
    assert output.status is RunStatus.error
    assert answered == [True]
    assert said(output) == ["Go.", HURRY]


async def test_a_run_at_its_limit_keeps_it(stage: Stage) -> None:
    held = Held()
    agent = stage.crew.agent("Solo", ToolCall("held"), tools=[held.tool])

    async def act() -> None:
        await stage.until(held.begun.is_set)
        assert send_message(RUN, HURRY)
        held.released.set()

    output = await stage.run(agent, act, limits=RunLimits(model_requests=1))
    assert is_cancelled(output, by="limit", reason="limit of 1 model requests")
    assert said(output) == ["Go.", HURRY]


async def test_a_paused_run_hears_it_when_it_goes_on(crew: Crew) -> None:
    @tool(requires_confirmation=True)
    def dangerous() -> str:
        return "boom"

    agent = crew.agent("Solo", ToolCall("dangerous"), Text("I see."), tools=[dangerous])
    paused = await agent.arun("Go.", run_id=RUN)
    assert send_message(RUN, HURRY)
    assert paused.requirements is not None
    paused.requirements[0].confirm()
    output = await agent.acontinue_run(paused)
    assert output.status is RunStatus.completed
    assert crew.requests()[1].last_text == HURRY
    assert answers(output) == ["boom"]
    assert said(output) == ["Go.", HURRY]


async def test_a_paused_run_that_is_cancelled_keeps_it(crew: Crew) -> None:
    @tool(requires_confirmation=True)
    def dangerous() -> str:
        return "boom"

    agent = crew.agent("Solo", ToolCall("dangerous"), tools=[dangerous])
    async with agent.arun("Go.", stream=True, run_id=RUN) as events:
        assert [event.event async for event in events][-1] == "RunPaused"
    assert send_message(RUN, HURRY)
    from kern_async.engine import registry

    run = registry.find(RUN)
    assert run is not None
    assert cancel_run(RUN)
    assert not send_message(RUN, "Too late.")
    await run.wait_ended()
    assert said(run.output) == ["Go.", HURRY]
    assert run.output is not None
    check_messages(run.output.messages)


async def test_who_is_not_there_hears_nothing(crew: Crew) -> None:
    assert not send_message("unknown", HURRY)
    output = await crew.agent("Solo", Text("I see.")).arun("Go.", run_id=RUN)
    assert not send_message(RUN, HURRY)
    assert said(output) == ["Go."]
    again = await crew.agent("Solo", Text("I see.")).arun("Go.", run_id=RUN)
    assert said(again) == ["Go."], "nothing waits for a later run of this id"


@pytest.mark.parametrize("text", ["", None, 3, b"bytes", ["text"]])
async def test_what_is_no_text_is_refused(crew: Crew, text: Any) -> None:
    stream = crew.agent("Solo", Text("I see.")).arun("Go.", stream=True, run_id=RUN)
    for run_id in (RUN, "unknown"):
        with pytest.raises(ConfigurationError, match="not empty"):
            send_message(run_id, text)
    assert [event.event async for event in stream][-1] == "RunCompleted"
    assert said(stream.output) == ["Go."]


RACES = 400


def racer_agent(go: Any) -> Agent:
    async def start(_request: object) -> None:
        go()

    turn: list[Any] = [start, *(f"{n} " for n in range(12))]
    return Agent(name="racer", model=ScriptedModel("racer", [turn], repeat=True))


@pytest.mark.parametrize("streamed", [True, False])
async def test_messages_that_race_the_end_are_promised_exactly_when_they_are_kept(streamed: bool) -> None:
    seen: Counter[bool] = Counter()
    with racing(lambda run_id: send_message(run_id, HURRY)) as racer:
        agent = racer_agent(racer.go)
        for number in range(RACES):
            racer.aim(f"race-{number}")
            if streamed:
                async with agent.arun("go", stream=True, run_id=f"race-{number}") as events:
                    async for _ in events:
                        pass
                output: Any = events.output
            else:
                output = await agent.arun("go", run_id=f"race-{number}")
            kept = said(output).count(HURRY)
            answer = await racer.answer(late=kept == 0)
            seen[answer] += 1
            assert kept == answer, f"race {number}: {answer}, kept {kept}"
            assert output.status is RunStatus.completed
            # A run that goes on for it answers it.
            assert roles(output) == (["user", "assistant"] * 2 if answer else ["user", "assistant"])
    assert seen[True] > RACES / 50, seen
    assert seen[False] > RACES / 50, seen


async def test_many_messages_that_race_a_cancel_and_the_end_are_promised_truly() -> None:
    """Two threads write, and one of them cancels now and then."""
    together = threading.Barrier(2)
    second: list[tuple[str, bool]] = []

    def write(run_id: str, name: str) -> list[tuple[str, bool]]:
        return [(text, send_message(run_id, text)) for text in (f"{name}{n}" for n in range(4))]

    def act(run_id: str) -> list[tuple[str, bool]]:
        def beside() -> None:
            together.wait()
            second[:] = write(run_id, "b")

        thread = threading.Thread(target=beside)
        thread.start()
        together.wait()
        answered = write(run_id, "a")
        if int(run_id.rpartition("-")[2]) % 3 == 0:
            cancel_run(run_id)
        thread.join()
        return answered + second

    statuses: Counter[RunStatus] = Counter()
    with racing(act) as racer:
        agent = racer_agent(racer.go)
        for number in range(RACES // 2):
            racer.aim(f"race-{number}")
            output: Any = await agent.arun("go", run_id=f"race-{number}")
            answered = await racer.answer(late=len(said(output)) == 1)
            statuses[output.status] += 1
            assert sorted(said(output)[1:]) == sorted(text for text, answer in answered if answer), number
            for name in "ab":
                own = [text for text in said(output) if text.startswith(name)]
                assert own == sorted(own), "the messages of one thread keep their order"
            assert all(message.content for message in output.messages)
            check_messages(output.messages)
    assert statuses[RunStatus.completed] > 0
    assert statuses[RunStatus.cancelled] > 0
