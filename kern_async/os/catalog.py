"""What the server is and has: itself, its agents, teams and models."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, cast

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

import kern_async
from kern_async.agent.runnable import Runnable
from kern_async.db.database import BaseDb
from kern_async.models.base import Model
from kern_async.team import Team
from kern_async.tools.toolkit import collect

from .auth import requires
from .caller import caller_of
from .databases import databases_of, id_of
from .problems import answers, unguarded

if TYPE_CHECKING:
    from .agent_os import AgentOS

API_VERSION = "3.1.10"
"""The release of the reference whose clients are served."""

_SESSIONS = "kern_sessions"

Databases = Mapping[str, BaseDb]


class Home(BaseModel):
    """Where to go on from here."""

    name: str
    health: str = "/health"
    info: str = "/info"
    docs: str = "/docs"


class Health(BaseModel):
    """The server answers."""

    status: Literal["ok"] = "ok"
    instantiated_at: datetime


class Info(BaseModel):
    """What anybody may know of the server. There are no workflows here."""

    os_id: str
    name: str | None = None
    os_version: str = Field(description="The version of kern_async.")
    agno_version: str = API_VERSION
    """The release of Agno whose clients work with this server."""
    agent_count: int
    team_count: int
    workflow_count: int = 0
    auth_mode: Literal["none", "security_key", "jwt"]
    user_isolation: bool
    """Whether users see and touch only what is theirs."""


class ModelInfo(BaseModel):
    """A model: `id` and `model` are what its provider calls it, `name` is the class that speaks to it."""

    id: str
    name: str
    model: str
    provider: str


class ToolInfo(BaseModel):
    """A tool as the model is told of it, and what a call of it waits for."""

    name: str
    description: str
    parameters: dict[str, Any]
    requires_confirmation: bool
    requires_user_input: bool
    external_execution: bool


class ToolsInfo(BaseModel):
    """The tools, without those of MCP servers, which only a run learns of."""

    tools: list[ToolInfo]
    tool_call_limit: int | None = None
    tool_choice: str | dict[str, Any] | None = None


class AgentSummary(BaseModel):
    """An agent in short."""

    id: str
    name: str | None = None
    description: str | None = None
    db_id: str | None = None
    model: ModelInfo | None = None


class TeamSummary(AgentSummary):
    """A team in short."""

    mode: str


class AgentInfo(AgentSummary):
    """An agent."""

    role: str | None = None
    tools: ToolsInfo | None = None


class TeamInfo(AgentInfo):
    """A team and its members."""

    mode: str
    members: list[TeamInfo | AgentInfo]


class Named(BaseModel):
    """What to call it."""

    display_name: str


class DatabaseInfo(BaseModel):
    """A database, and the table in it that is meant."""

    db_id: str
    domain_config: Named
    tables: list[str]


class SessionsInfo(BaseModel):
    """Where sessions are."""

    dbs: list[DatabaseInfo]


class Queue(BaseModel):
    """How background runs wait: here in memory, in the order in which they came."""

    durable: bool = False
    queue_per_session: bool = False


class Config(BaseModel):
    """All that the server has. There are no workflows and interfaces here."""

    os_id: str
    name: str | None = None
    description: str | None = None
    available_models: list[ModelInfo]
    os_database: str | None = None
    databases: list[str]
    session: SessionsInfo
    queue: Queue = Queue()
    agents: list[AgentSummary]
    teams: list[TeamSummary]
    workflows: list[Any] = []
    interfaces: list[Any] = []


def router(agent_os: AgentOS) -> APIRouter:
    """`/`, `/health`, `/info`, `/config`, `/models`, and the agents and teams."""
    routes = APIRouter()
    started_at = datetime.now(UTC)

    @routes.get("/", include_in_schema=False)
    async def home() -> Home:
        return Home(name=agent_os.name or "AgentOS")

    @routes.get("/health", tags=["server"], summary="Whether the server answers", responses=unguarded())
    async def health() -> Health:
        return Health(instantiated_at=started_at)

    @routes.get(
        "/info",
        tags=["server"],
        summary="What the server is",
        response_model_exclude_none=True,
        responses=unguarded(),
    )
    async def info() -> Info:
        return Info(
            os_id=agent_os.id,
            name=agent_os.name,
            os_version=kern_async.__version__,
            agent_count=len(agent_os.agents),
            team_count=len(agent_os.teams),
            auth_mode=agent_os.security.mode,
            user_isolation=agent_os.security.isolated,
        )

    @routes.get(
        "/config",
        tags=["server"],
        summary="What the server has",
        response_model_exclude_none=True,
        responses=answers(),
        dependencies=[Depends(requires("config:read"))],
    )
    async def config(request: Request) -> Config:
        caller, known = caller_of(request), databases_of(agent_os)
        return Config(
            os_id=agent_os.id,
            name=agent_os.name,
            description=agent_os.description,
            available_models=_models(agent_os),
            os_database=id_of(known, agent_os.db),
            databases=list(known),
            session=SessionsInfo(
                dbs=[
                    DatabaseInfo(db_id=db_id, domain_config=Named(display_name=db_id), tables=[_SESSIONS])
                    for db_id in known
                ]
            ),
            agents=[
                AgentSummary(**_summary(known, agent))
                for agent in agent_os.agents.values()
                if caller.may("agents:read", agent.id)
            ],
            teams=[
                TeamSummary(**_summary(known, team), mode=str(team.mode))
                for team in agent_os.teams.values()
                if caller.may("teams:read", team.id)
            ],
        )

    @routes.get(
        "/models",
        tags=["server"],
        summary="The models that its agents and teams use",
        responses=answers(),
        dependencies=[Depends(requires("config:read"))],
    )
    async def models() -> list[ModelInfo]:
        return _models(agent_os)

    @routes.get(
        "/teams",
        tags=["teams"],
        summary="All teams",
        response_model_exclude_none=True,
        responses=answers(),
        dependencies=[Depends(requires("teams:read", some=True))],
    )
    async def teams(request: Request) -> list[TeamInfo]:
        caller, known = caller_of(request), databases_of(agent_os)
        return [
            _team_info(known, team) for team in agent_os.teams.values() if caller.may("teams:read", team.id)
        ]

    @routes.get(
        "/teams/{team_id}",
        tags=["teams"],
        summary="A team and its members",
        response_model_exclude_none=True,
        responses=answers(404),
        dependencies=[Depends(requires("teams:read"))],
    )
    async def team(team_id: str) -> TeamInfo:
        return _team_info(databases_of(agent_os), cast(Team, agent_os.find_target("team", team_id)))

    @routes.get(
        "/agents",
        tags=["agents"],
        summary="All agents",
        response_model_exclude_none=True,
        responses=answers(),
        dependencies=[Depends(requires("agents:read", some=True))],
    )
    async def agents(request: Request) -> list[AgentInfo]:
        caller, known = caller_of(request), databases_of(agent_os)
        return [
            _agent_info(known, agent)
            for agent in agent_os.agents.values()
            if caller.may("agents:read", agent.id)
        ]

    @routes.get(
        "/agents/{agent_id}",
        tags=["agents"],
        summary="An agent",
        response_model_exclude_none=True,
        responses=answers(404),
        dependencies=[Depends(requires("agents:read"))],
    )
    async def agent(agent_id: str) -> AgentInfo:
        return _agent_info(databases_of(agent_os), agent_os.find_target("agent", agent_id))

    return routes


def _model_of(target: Runnable[Any, Any]) -> Model | None:
    """Its own, or, of a team that has none, its first member's."""
    if target.model is None and isinstance(target, Team):
        return _model_of(target.members[0])
    return target.model


def _model_info(model: Model) -> ModelInfo:
    return ModelInfo(id=model.id, name=type(model).__name__, model=model.id, provider=model.provider)


def _models(agent_os: AgentOS) -> list[ModelInfo]:
    targets = (*agent_os.teams.values(), *agent_os.agents.values())
    used = (_model_of(each) for target in targets for each in target.everybody())
    found = {(model.provider, model.id): model for model in used if model is not None}
    return [_model_info(model) for model in found.values()]


def _summary(known: Databases, target: Runnable[Any, Any]) -> dict[str, Any]:
    model = _model_of(target)
    return {
        "id": target.id,
        "name": target.name,
        "description": target.description,
        "db_id": id_of(known, target.db),
        "model": None if model is None else _model_info(model),
    }


def _info(known: Databases, target: Runnable[Any, Any]) -> dict[str, Any]:
    tools = [
        ToolInfo(
            name=tool.name,
            description=tool.description,
            parameters=tool.parameters,
            requires_confirmation=tool.requires_confirmation,
            requires_user_input=tool.requires_user_input,
            external_execution=tool.external_execution,
        )
        for tool in collect(target.tools).values()
    ]
    about = ToolsInfo(tools=tools, tool_call_limit=target.tool_call_limit, tool_choice=target.tool_choice)
    return _summary(known, target) | {"role": target.role, "tools": about if tools else None}


def _agent_info(known: Databases, agent: Runnable[Any, Any]) -> AgentInfo:
    return AgentInfo(**_info(known, agent))


def _team_info(known: Databases, team: Team) -> TeamInfo:
    members = [
        _team_info(known, member) if isinstance(member, Team) else _agent_info(known, member)
        for member in team.members
    ]
    return TeamInfo(**_info(known, team), mode=str(team.mode), members=members)
