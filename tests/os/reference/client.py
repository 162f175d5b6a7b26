"""What the reference's users do with its published client: `client.py URL`, in its own environment.

Prints a JSON object: each step's name, and None or what went wrong.
"""

# pyright: basic, reportMissingImports=false

import asyncio
import json
import logging
import sys
import traceback

import httpx
from agno.agent.remote import RemoteAgent
from agno.client.os import AgentOSClient
from agno.db.base import SessionType
from agno.run.base import RunStatus
from agno.team.remote import RemoteTeam

URL = sys.argv[1]
client = AgentOSClient(base_url=URL)
complaints = []


class Complaints(logging.Handler):
    """The client only logs an event that it cannot read."""

    def emit(self, record):
        complaints.append(record.getMessage())


def status_of(run):
    """The reference's own team outputs have it as plain text."""
    return RunStatus(run.status)


async def events_of(stream):
    return [event async for event in stream]


def names(events):
    return [event.event for event in events]


def text_of(events, name):
    return "".join(event.content or "" for event in events if event.event == name)


async def refused(request):
    """The status that the request is refused with."""
    try:
        await request
    except httpx.HTTPStatusError as error:
        return error.response.status_code if error.response.json()["detail"] else None
    raise AssertionError("it was not refused")


# What there is.


async def lists_agents_and_teams():
    assert {agent.id for agent in await client.list_agents()} == {"writer", "payer", "slow"}
    teams = {team.id: team for team in await client.list_teams()}
    assert set(teams) == {"authors", "buyers", "slow-team"}
    assert teams["authors"].mode == "coordinate"
    assert teams["authors"].model.provider == "OpenAI"
    assert teams["authors"].model.id == "delegates writer"


async def reads_the_config():
    for config in (client.get_config(), await client.aget_config()):
        assert config.os_id == "for-the-reference"
        assert {agent.id for agent in config.agents} == {"writer", "payer", "slow"}
        assert {team.id for team in config.teams} == {"authors", "buyers", "slow-team"}
        assert config.databases == [config.os_database]
        assert {model.id for model in config.available_models} >= {"writes", "pays", "hangs"}


async def reads_an_agent_and_a_team():
    agent = await client.aget_agent("payer")
    assert (agent.name, agent.model.model, agent.model.provider) == ("Payer", "pays", "OpenAI")
    assert [tool["name"] for tool in agent.tools["tools"]] == ["pay"]
    team = client.get_team("authors")
    assert team.name == "Authors"
    assert [member.id for member in team.members] == ["writer"]
    assert await refused(client.aget_agent("nobody")) == 404
    assert await refused(client.aget_team("nobody")) == 404


# Runs.


async def runs_an_agent():
    run = await client.run_agent(
        "writer", "A story.", session_id="run-agent", user_id="ann", metadata={"m": 1}
    )
    assert status_of(run) is RunStatus.completed
    assert (run.content, run.session_id, run.user_id) == ("Once upon a time.", "run-agent", "ann")
    assert run.metrics.total_tokens > 0
    assert [message.role for message in run.messages][-2:] == ["user", "assistant"]


async def runs_a_team():
    run = await client.run_team("authors", "A story.", session_id="run-team", session_state={"k": 1})
    assert status_of(run) is RunStatus.completed
    assert run.content == "It says: Once upon a time."
    assert run.session_state == {"k": 1}
    assert [member.content for member in run.member_responses] == ["Once upon a time."]


async def streams_an_agent():
    events = await events_of(client.run_agent_stream("writer", "A story.", session_id="stream-agent"))
    assert names(events)[0] == "RunStarted"
    assert names(events)[-1] == "RunCompleted"
    assert text_of(events, "RunContent") == events[-1].content == "Once upon a time."
    assert len({event.run_id for event in events}) == 1
    assert "ModelRequestCompleted" in names(events), "a server streams all events"


async def streams_a_team():
    events = await events_of(client.run_team_stream("authors", "A story.", session_id="stream-team"))
    assert names(events)[0] == "TeamRunStarted"
    assert names(events)[-1] == "TeamRunCompleted"
    assert text_of(events, "RunContent") == "Once upon a time."
    assert text_of(events, "TeamRunContent") == "It says: Once upon a time."
    assert names(events).index("RunCompleted") < names(events).index("TeamToolCallCompleted")
    (member,) = {event.run_id for event in events if event.event.startswith("Run")}
    assert member != events[0].run_id


# Cancelling.


async def cancels_an_agent_in_mid_stream():
    events = []
    async for event in client.run_agent_stream("slow", "A story."):
        events.append(event)
        if event.event == "RunContent" and event.content.strip() == "upon":
            await client.cancel_agent_run("slow", event.run_id)
    assert names(events)[-1] == "RunCancelled"
    assert names(events).count("RunCancelled") == 1
    assert events[-1].content == "Once upon"
    runs = await client.get_session_runs(events[-1].session_id)
    assert [(run.status, run.content) for run in runs] == [("CANCELLED", "Once upon")]


async def cancels_a_team_in_mid_stream():
    events = []
    async for event in client.run_team_stream("slow-team", "A story."):
        events.append(event)
        if event.event == "RunContent" and event.content.strip() == "upon":
            await client.cancel_team_run("slow-team", events[0].run_id)
    assert names(events)[-1] == "TeamRunCancelled"
    assert names(events).index("RunCancelled") < names(events).index("TeamRunCancelled")
    assert not {"RunCompleted", "TeamRunCompleted"} & set(names(events))
    runs = await client.get_session_runs(events[-1].session_id)
    assert [run.status for run in runs] == ["CANCELLED", "CANCELLED"]
    assert await refused(client.cancel_team_run("slow-team", "nobody")) == 404
    assert await refused(client.cancel_team_run("authors", events[0].run_id)) == 404, "it is another team's"


async def is_told_of_a_cancelled_run_that_it_awaits():
    run_id = "awaited-and-cancelled"
    waiting = asyncio.ensure_future(client.run_agent("slow", "A story.", run_id=run_id, session_id="awaited"))
    while not any(run.run_id == run_id for run in await previews("awaited")):  # noqa: ASYNC110 - it is elsewhere
        await asyncio.sleep(0.01)
    await client.cancel_agent_run("slow", run_id)
    run = await waiting
    assert status_of(run) is RunStatus.cancelled
    assert run.run_id == run_id


async def previews(session_id):
    try:
        return await client.aget_session_run_previews(session_id)
    except httpx.HTTPStatusError:
        return []


# Going on.


async def continues_an_agent():
    run = await client.run_agent("payer", "Pay.", session_id="continue-agent")
    assert run.is_paused
    (requirement,) = run.active_requirements
    requirement.confirm()
    more = await client.continue_agent_run(
        "payer", run.run_id, [requirement.tool_execution], session_id=run.session_id
    )
    assert (status_of(more), more.run_id, more.content) == (
        RunStatus.completed,
        run.run_id,
        "It says: paid 7",
    )


async def continues_an_agent_without_naming_the_session_streamed():
    events = await events_of(client.run_agent_stream("payer", "Pay."))
    assert names(events)[-1] == "RunPaused"
    (tool,) = events[-1].tools
    tool.confirmed = True
    more = await events_of(client.continue_agent_run_stream("payer", events[-1].run_id, [tool]))
    assert (names(more)[0], names(more)[-1]) == ("RunContinued", "RunCompleted")
    assert "ToolCallCompleted" in names(more)
    assert text_of(more, "RunContent") == "It says: paid 7"


async def rejects_what_an_agent_asks():
    run = await client.run_agent("payer", "Pay.")
    (requirement,) = run.active_requirements
    requirement.reject("Too much.")
    more = await client.continue_agent_run("payer", run.run_id, [requirement.tool_execution])
    assert status_of(more) is RunStatus.completed
    assert "Too much." in more.content
    assert "paid" not in more.content


async def continues_a_team():
    run = await client.run_team("buyers", "Pay.", session_id="continue-team")
    assert status_of(run) is RunStatus.paused
    (requirement,) = run.requirements
    assert requirement.member_agent_id == "payer"
    requirement.confirm()
    more = await client.continue_team_run("buyers", run.run_id, [requirement], session_id=run.session_id)
    assert status_of(more) is RunStatus.completed
    assert more.content == "It says: It says: paid 7"


async def continues_a_team_streamed():
    events = await events_of(client.run_team_stream("buyers", "Pay."))
    assert names(events)[-2:] == ["RunPaused", "TeamRunPaused"] or names(events)[-1] == "TeamRunPaused"
    (requirement,) = events[-1].requirements
    requirement.confirm()
    more = await events_of(client.continue_team_run_stream("buyers", events[0].run_id, [requirement]))
    assert (names(more)[0], names(more)[-1]) == ("TeamRunContinued", "TeamRunCompleted")
    assert text_of(more, "TeamRunContent") == "It says: It says: paid 7"


async def is_refused_a_run_that_cannot_go_on():
    run = await client.run_agent("writer", "A story.")
    assert await refused(client.continue_agent_run("writer", run.run_id, [])) == 409


# Sessions.


async def makes_and_changes_sessions():
    for kind, own in (
        (SessionType.AGENT, {"agent_id": "writer"}),
        (SessionType.TEAM, {"team_id": "authors"}),
    ):
        made = await client.create_session(
            kind,
            session_id=f"made-{kind.value}",
            user_id="ann",
            session_name="First",
            session_state={"a": 1, "b": 2},
            metadata={"m": 1},
            **own,
        )
        assert (made.session_name, made.session_state, made.metadata) == ("First", {"a": 1, "b": 2}, {"m": 1})
        renamed = await client.rename_session(made.session_id, "Second", session_type=kind)
        assert renamed.session_name == "Second"
        changed = await client.update_session(made.session_id, session_state={"b": 3}, metadata={"n": 2})
        assert type(changed) is type(made)
        assert (changed.session_name, changed.session_state, changed.metadata) == (
            "Second",
            {"b": 3},
            {"n": 2},
        )
        assert await client.get_session(made.session_id) == changed
        assert changed.created_at < changed.updated_at


async def lists_sessions():
    made = [await client.create_session(user_id="lister", agent_id="writer") for _ in range(3)]
    for page, count in ((1, 2), (2, 1)):
        found = await client.get_sessions(user_id="lister", limit=2, page=page)
        assert (found.meta.total_count, found.meta.total_pages, len(found.data)) == (3, 2, count)
    found = await client.get_sessions(SessionType.AGENT, user_id="lister", sort_order="asc")
    assert [each.session_id for each in found.data] == [each.session_id for each in made]
    assert found.data[0].created_at == made[0].created_at
    await client.run_team("authors", "A name.", session_id="named-by-its-run", user_id="lister")
    (found,) = (await client.get_sessions(SessionType.TEAM, component_id="authors", user_id="lister")).data
    assert (found.session_id, found.session_name, found.session_type) == (
        "named-by-its-run",
        "A name.",
        "team",
    )
    assert found.team_id == "authors"


async def reads_a_sessions_runs():
    run = await client.run_agent("writer", "One.", session_id="read-agent", user_id="ann")
    await client.run_agent("writer", "Two.", session_id="read-agent", user_id="ann")
    session = await client.get_session("read-agent", user_id="ann")
    assert session.agent_id == "writer"
    assert [message["content"] for message in session.chat_history][::2] == ["One.", "Two."]
    assert session.total_tokens == session.metrics["total_tokens"] > 0
    runs = await client.get_session_runs("read-agent", status=["completed"])
    assert [(each.run_input, each.content) for each in runs] == [
        ("One.", "Once upon a time."),
        ("Two.", "Once upon a time."),
    ]
    one = await client.get_session_run("read-agent", run.run_id)
    assert (one.run_id, one.status, one.metrics["total_tokens"]) == (
        run.run_id,
        "COMPLETED",
        run.metrics.total_tokens,
    )
    assert [event["event"] for event in one.events][-1] == "RunCompleted"
    for found in (client.get_session_run_previews("read-agent"), await previews("read-agent")):
        assert [each.content_preview for each in found] == ["Once upon a time."] * 2
    team = await client.run_team("authors", "Three.", session_id="read-team")
    runs = await client.get_session_runs("read-team")
    assert [(each.run_id, each.parent_run_id) for each in runs] == [
        (team.run_id, None),
        (team.member_responses[0].run_id, team.run_id),
    ]
    assert type(await client.get_session_run("read-team", team.run_id)) is type(runs[0])


async def deletes_sessions():
    for name in "abc":
        await client.run_agent("writer", "A story.", session_id=f"delete-{name}")
    await client.delete_session("delete-a")
    await client.delete_sessions(["delete-b", "delete-c"], [SessionType.AGENT] * 2)
    for name in "abc":
        assert await refused(client.get_session(f"delete-{name}")) == 404


# Remote agents and teams.


async def uses_a_remote_agent():
    agent = RemoteAgent(URL, "writer")
    assert (agent.name, agent.description, agent.role) == ("Writer", "Writes stories.", "writer")
    assert agent.db.session_table_name == "kern_sessions"
    run = await agent.arun("A story.", session_id="remote-agent", user_id="ann")
    assert (run.content, status_of(run)) == ("Once upon a time.", RunStatus.completed)
    events = await events_of(agent.arun("A story.", stream=True, stream_events=True))
    assert names(events)[-1] == "RunCompleted"


async def cancels_a_remote_agent():
    agent = RemoteAgent(URL, "slow")
    events = []
    async for event in agent.arun("A story.", stream=True):
        events.append(event)
        if event.event == "RunContent" and event.content.strip() == "upon":
            assert await agent.acancel_run(event.run_id) is True
    assert names(events)[-1] == "RunCancelled"
    assert await agent.acancel_run("nobody") is False


async def continues_a_remote_agent():
    agent = RemoteAgent(URL, "payer")
    for stream in (False, True):
        run = await agent.arun("Pay.")
        (requirement,) = run.active_requirements
        requirement.confirm()
        more = agent.acontinue_run(run.run_id, requirements=[requirement], stream=stream)
        if stream:
            events = await events_of(more)
            assert (names(events)[-1], events[-1].content) == ("RunCompleted", "It says: paid 7")
        else:
            assert (await more).content == "It says: paid 7"


async def uses_a_remote_team():
    team = RemoteTeam(URL, "authors")
    assert (team.name, team.description) == ("Authors", "They write.")
    run = await team.arun("A story.", session_id="remote-team", user_id="ann", session_state={"k": 1})
    assert (run.content, status_of(run)) == ("It says: Once upon a time.", RunStatus.completed)
    events = await events_of(team.arun("A story.", stream=True, stream_events=True))
    assert names(events)[-1] == "TeamRunCompleted"


async def cancels_a_remote_team():
    team = RemoteTeam(URL, "slow-team")
    events = []
    async for event in team.arun("A story.", stream=True):
        events.append(event)
        if event.event == "RunContent" and event.content.strip() == "upon":
            assert await team.acancel_run(events[0].run_id) is True
    assert names(events)[-1] == "TeamRunCancelled"
    assert await team.acancel_run("nobody") is False


async def continues_a_remote_team():
    team = RemoteTeam(URL, "buyers")
    for stream in (False, True):
        run = await team.arun("Pay.")
        (requirement,) = run.requirements
        requirement.confirm()
        more = team.acontinue_run(run.run_id, [requirement], stream=stream)
        if stream:
            events = await events_of(more)
            assert (names(events)[-1], events[-1].content) == ("TeamRunCompleted", "It says: It says: paid 7")
        else:
            assert (await more).content == "It says: It says: paid 7"


async def is_left_without_complaints():
    assert complaints == []


STEPS = [
    lists_agents_and_teams,
    reads_the_config,
    reads_an_agent_and_a_team,
    runs_an_agent,
    runs_a_team,
    streams_an_agent,
    streams_a_team,
    cancels_an_agent_in_mid_stream,
    cancels_a_team_in_mid_stream,
    is_told_of_a_cancelled_run_that_it_awaits,
    continues_an_agent,
    continues_an_agent_without_naming_the_session_streamed,
    rejects_what_an_agent_asks,
    continues_a_team,
    continues_a_team_streamed,
    is_refused_a_run_that_cannot_go_on,
    makes_and_changes_sessions,
    lists_sessions,
    reads_a_sessions_runs,
    deletes_sessions,
    uses_a_remote_agent,
    cancels_a_remote_agent,
    continues_a_remote_agent,
    uses_a_remote_team,
    cancels_a_remote_team,
    continues_a_remote_team,
    is_left_without_complaints,
]


async def main():
    logging.getLogger("agno").addHandler(Complaints(logging.WARNING))
    results = {}
    for step in STEPS:
        try:
            async with asyncio.timeout(30):
                await step()
        except Exception:
            results[step.__name__] = traceback.format_exc()
        else:
            results[step.__name__] = None
    print(json.dumps(results))


asyncio.run(main())
