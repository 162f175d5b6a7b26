"""What the server says of itself, its agents and its teams."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import kern_async
from kern_async import Agent, Team, TeamMode, tool
from kern_async.db.in_memory import InMemoryDb
from kern_async.db.sqlite import SqliteDb
from kern_async.os import AgentOS, JWTConfig
from kern_async.os.caller import Caller
from kern_async.testing.scripted import ScriptedModel

from .visitors import get, visit

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio", "uvloop"], indirect=True)


@tool(requires_confirmation=True)
def pay(amount: int) -> str:
    """Pay an amount."""
    return f"paid {amount}"


def an_os() -> AgentOS:
    clerk = Agent(
        name="The Clerk",
        model=ScriptedModel("small", []),
        role="keeps the books",
        tools=[pay],
        tool_call_limit=3,
    )
    poet = Agent(id="poet", description="Writes.")
    inner = Team([poet, clerk], name="Inner", model=ScriptedModel("large", []))
    team = Team([clerk, inner], name="Outer Team", mode=TeamMode.broadcast, description="All of us.")
    return AgentOS(agents=[clerk], teams=[team], db=InMemoryDb(), name="My Shop", description="Hats.")


async def test_the_bare_address_says_where_to_go_on() -> None:
    async with visit(an_os()) as client:
        home = await get(client, "/")
        assert home == {"name": "My Shop", "health": "/health", "info": "/info", "docs": "/docs"}
        for path in home.values():
            if path.startswith("/"):
                assert (await client.get(path)).status_code == 200


async def test_health_says_since_when_the_server_is_there() -> None:
    before = datetime.now(UTC)
    async with visit(an_os()) as client:
        health = await get(client, "/health")
        assert health["status"] == "ok"
        assert before <= datetime.fromisoformat(health["instantiated_at"]) <= datetime.now(UTC)
        assert await get(client, "/health") == health


async def test_info_counts_what_is_there() -> None:
    async with visit(an_os()) as client:
        info = await get(client, "/info")
    expected = {
        "os_id": "my-shop",
        "name": "My Shop",
        "os_version": kern_async.__version__,
        "agent_count": 1,
        "team_count": 1,
        "workflow_count": 0,
        "auth_mode": "none",
        "user_isolation": False,
    }
    assert info.items() >= expected.items()


async def test_info_says_how_the_server_is_guarded() -> None:
    config = JWTConfig(verification_keys=["a secret of thirty-two characters"], algorithm="HS256")
    for_users = replace(config, user_isolation=True)
    cases: list[tuple[dict[str, Any], str, bool]] = [
        ({"os_security_key": "secret"}, "security_key", False),
        ({"authorization": True, "authorization_config": config}, "jwt", False),
        ({"authorization": True, "authorization_config": config, "user_isolation": True}, "jwt", True),
        ({"authorization": True, "authorization_config": for_users}, "jwt", True),
    ]
    for options, mode, isolated in cases:
        async with visit(AgentOS(agents=[Agent(name="A")], **options)) as client:
            info = await get(client, "/info")
        assert (info["auth_mode"], info["user_isolation"]) == (mode, isolated)
        assert "secret" not in str(info)


async def test_config_lists_agents_teams_models_and_databases(tmp_path: Path) -> None:
    shared, own, same = InMemoryDb(), SqliteDb(tmp_path / "a.db"), SqliteDb(tmp_path / "a.db")
    agents = [Agent(name=name, model=ScriptedModel("m", []), db=db) for name, db in (("A", None), ("B", own))]
    team = Team([agents[0]], name="T", db=same)
    async with visit(AgentOS(agents=agents, teams=[team], db=shared)) as client:
        config = await get(client, "/config")
        models = await get(client, "/models")
    first, second = config["databases"]
    assert first != second
    assert str(tmp_path) not in str(config), "a path is nobody's business"
    assert config["os_database"] == first
    assert [each["db_id"] for each in config["session"]["dbs"]] == [first, second]
    assert [(each["id"], each["db_id"]) for each in config["agents"]] == [("a", first), ("b", second)]
    assert [(each["id"], each["mode"], each["db_id"]) for each in config["teams"]] == [
        ("t", "coordinate", second)
    ]
    assert (config["workflows"], config["interfaces"]) == ([], [])
    assert config["available_models"] == models
    assert [(each["id"], each["provider"]) for each in models] == [("m", "scripted")]


async def test_databases_of_one_name_have_two_ids() -> None:
    agents = [Agent(name=name, db=InMemoryDb()) for name in "AB"]
    async with visit(AgentOS(agents=agents)) as client:
        config = await get(client, "/config")
    assert len(set(config["databases"])) == 2
    assert "os_database" not in config
    assert [each["db_id"] for each in config["agents"]] == config["databases"]


async def test_a_team_is_described_with_all_that_are_in_it() -> None:
    async with visit(an_os()) as client:
        team = await get(client, "/teams/outer-team")
        assert await get(client, "/teams") == [team]
    assert (team["name"], team["mode"], team["description"]) == ("Outer Team", "broadcast", "All of us.")
    assert team["model"]["id"] == "small", "a team without a model uses its first member's"
    clerk, inner = team["members"]
    assert (clerk["id"], clerk["role"]) == ("the-clerk", "keeps the books")
    assert (inner["id"], inner["model"]["id"]) == ("inner", "large")
    assert [member["id"] for member in inner["members"]] == ["poet", "the-clerk"]
    assert inner["members"][0] == {"id": "poet", "description": "Writes."}


async def test_an_agent_is_described_with_its_model_and_tools() -> None:
    async with visit(an_os()) as client:
        clerk = await get(client, "/agents/the-clerk")
        assert await get(client, "/agents") == [clerk]
    assert clerk["model"] == {
        "id": "small",
        "name": "ScriptedModel",
        "model": "small",
        "provider": "scripted",
    }
    assert clerk["tools"]["tool_call_limit"] == 3
    (described,) = clerk["tools"]["tools"]
    assert (described["name"], described["description"]) == ("pay", "Pay an amount.")
    assert described["parameters"]["properties"] == {"amount": {"type": "integer"}}
    assert described["requires_confirmation"] is True


async def test_who_is_not_there_is_not_found() -> None:
    async with visit(an_os()) as client:
        for path, detail in (
            ("/teams/the-clerk", "Team not found"),
            ("/agents/outer-team", "Agent not found"),
            ("/agents/poet", "Agent not found"),
        ):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()) == (404, {"detail": detail})


async def test_a_token_shows_only_what_it_allows() -> None:
    agents = [Agent(name=name) for name in "AB"]
    teams = [Team([agents[0]], name=name) for name in ("T", "U")]
    agent_os = AgentOS(agents=agents, teams=teams)
    scopes = frozenset({"agents:a:read", "teams:u:read", "config:read"})
    async with visit(agent_os, Caller(scopes=scopes)) as client:
        assert [each["id"] for each in await get(client, "/agents")] == ["a"]
        assert [each["id"] for each in await get(client, "/teams")] == ["u"]
        config = await get(client, "/config")
        assert [each["id"] for each in (*config["agents"], *config["teams"])] == ["a", "u"]
        assert (await client.get("/agents/a")).status_code == 200
        assert (await client.get("/agents/b")).status_code == 403
        assert (await client.get("/teams/t")).status_code == 403
    async with visit(agent_os, Caller(scopes=frozenset({"sessions:read"}))) as client:
        for path in ("/config", "/models", "/agents", "/teams", "/agents/a", "/teams/t"):
            assert (await client.get(path)).status_code == 403, path
