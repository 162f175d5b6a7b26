"""What one user gets of another's, over every route there is: nothing."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import anyio
import httpx2
import jwt
import pytest
from fastapi.routing import iter_route_contexts

from kern_async import Agent, Team, tool
from kern_async.db.database import BaseDb
from kern_async.db.in_memory import InMemoryDb
from kern_async.models.base import Emit, Model, ModelReply, ModelRequest
from kern_async.os import AgentOS, JWTConfig
from kern_async.run.cancel import cancel_run, get_active_runs
from kern_async.testing.scripted import call

from .guarding import KEY, bearer, client_of

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)

SECRET = "a-secret-that-signs-tokens-" * 3
THEIRS = "sentinel-of-the-owner"


@tool(requires_confirmation=True)
def pay() -> str:
    return "paid"


@dataclass(kw_only=True, eq=False)
class ByWord(Model):
    """Does what the last message says: hands on, waits for ever, asks to pay, or says something."""

    provider: ClassVar[str] = "scripted"
    id: str = field(default="by-word", kw_only=False)
    waiting: list[object] = field(default_factory=list[object])
    all_wait: anyio.Event = field(default_factory=anyio.Event)

    async def respond(self, request: ModelRequest, emit: Emit) -> ModelReply:
        last = request.messages[-1]
        text = str(last.content)
        await emit("text", THEIRS)
        if last.role == "user" and "wait" in text:
            if not any(function.name == "delegate_task_to_member" for function in request.tools):
                self.waiting.append(request)
                if len(self.waiting) == 2:
                    self.all_wait.set()
                await anyio.sleep_forever()
            return ModelReply(tool_calls=[call("delegate_task_to_member", member_id="writer", task="wait")])
        if last.role == "user" and "pay" in text:
            return ModelReply(tool_calls=[call("pay")])
        return ModelReply(tool_calls=[])


def an_os(model: ByWord, db: BaseDb | None = None) -> AgentOS:
    writer = Agent(name="Writer", model=model, tools=[pay])
    crew = Team(name="Crew", members=[writer], model=model, tools=[pay])
    return AgentOS(
        agents=[writer],
        teams=[crew],
        db=db or InMemoryDb(),
        os_security_key=KEY,
        authorization=True,
        authorization_config=JWTConfig(verification_keys=[SECRET], algorithm="HS256", user_isolation=True),
    )


SCOPES = [
    "teams:read",
    "teams:run",
    "agents:read",
    "agents:run",
    "sessions:read",
    "sessions:write",
    "sessions:delete",
    "config:read",
]


def user(name: str) -> dict[str, str]:
    claims = {"sub": name, "exp": time.time() + 600, "scopes": SCOPES}
    return bearer(jwt.encode(claims, SECRET, algorithm="HS256"))


TARGETS = {"team": "crew", "agent": "writer"}


@dataclass
class World:
    """An owner with a live, a paused and a completed run of a team and of an agent, each in its own session."""

    client: httpx2.AsyncClient
    elsewhere: httpx2.AsyncClient
    """Of another server with the same database, which has none of the runs in memory that have ended."""
    owner: dict[str, str]
    runs: dict[tuple[str, str], str]
    """(kind, live | paused | done | member) -> run id"""

    def session(self, kind: str, which: str) -> str:
        return f"session-{kind}-{'live' if which == 'member' else which}"

    async def state(self) -> object:
        """What the owner sees of what is theirs and would change if somebody changed it."""

        async def see(path: str, **query: str) -> Any:
            answer = await self.client.get(path, headers=self.owner, params=query)
            assert answer.status_code == 200, answer.text
            return answer.json()

        runs = [await see(f"/{k}s/{TARGETS[k]}/runs/{run_id}") for (k, _), run_id in self.runs.items()]
        named = ("session_id", "session_name", "session_state", "metadata", "user_id")
        whole = [await see(f"/sessions/{self.session(*key)}") for key in self.runs]
        sessions = [{name: session.get(name) for name in named} for session in whole]
        live = [(tree["run_id"], tree["status"], tree["cancelling"]) for tree in await see("/runs")]
        page = (await see("/sessions"))["data"]
        ids = sorted(each["session_id"] for each in page)
        return [(run["run_id"], run["status"], run.get("content")) for run in runs], sessions, live, ids


@asynccontextmanager
async def world_of(owner: dict[str, str]) -> AsyncGenerator[World]:
    model = ByWord()
    agent_os = an_os(model)
    other = an_os(ByWord(), agent_os.db)
    async with client_of(agent_os.get_app()) as client, client_of(other.get_app()) as elsewhere:
        world = World(client, elsewhere, owner, {})
        try:
            for kind, target in TARGETS.items():
                for which, word in (("live", "wait"), ("paused", "pay"), ("done", "talk")):
                    form = {"message": f"{THEIRS}: {word}", "session_id": world.session(kind, which)}
                    form |= {"background": "true"} if which == "live" else {}
                    form["stream"] = "false"
                    answer = await client.post(f"/{kind}s/{target}/runs", headers=owner, data=form)
                    assert answer.status_code in (200, 202), answer.text
                    world.runs[kind, which] = answer.json()["run_id"]
            await model.all_wait.wait()  # the agent, and the team's member
            world.runs["team", "member"] = await _member(world)
            yield world
        finally:
            for run_id in get_active_runs():
                cancel_run(run_id)  # a shutdown leaves paused runs to the database
            await agent_os.shutdown(0)
            assert agent_os.db is not None
            await agent_os.db.aclose()


async def _member(world: World) -> str:
    trees = (await world.client.get("/runs", headers=world.owner, params={"team_id": "crew"})).json()
    [member] = [member for tree in trees for member in tree["members"]]
    assert member["content"] == THEIRS
    return member["run_id"]


@dataclass(frozen=True)
class Case:
    """One request to a route, about somebody's run or session where the path has one.

    `form`, `data` (JSON) and `query` may have {session}, {run} and {owner}. `hidden`: it is about what is another's, so
    it is 404; else it is answered with `status`, and has nothing of theirs.
    """

    form: dict[str, str] | None = None
    data: Any = None
    query: dict[str, str] | None = None
    hidden: bool = True
    status: tuple[int, ...] = (200,)
    whose: str = "done"
    """Which run the owner's own request is about, that must be answered."""


READ = [Case(), Case(query={"user_id": "{owner}"})]
LISTED = [
    Case(query={}, hidden=False),
    Case(query={"user_id": "{owner}"}, hidden=False),
    Case(query={"session_id": "{session}"}, hidden=False),
]
RUN_ROUTES: dict[tuple[str, str], list[Case]] = {
    ("POST", "/{kind}s/{{kind}_id}/runs"): [
        Case({"message": "talk", "stream": "false", "session_id": "{session}"}),
        Case({"message": "talk", "stream": "true", "session_id": "{session}", "user_id": "{owner}"}),
        Case(
            {"message": "talk", "stream": "false", "background": "true", "session_id": "{session}"},
            status=(202,),
        ),
        Case({"message": "talk", "stream": "false", "run_id": "{run}"}, hidden=False, status=(409,)),
    ],
    ("GET", "/{kind}s/{{kind}_id}/runs"): [Case(query={"session_id": "{session}"})],
    ("POST", "/{kind}s/{{kind}_id}/runs/{run_id}/continue"): [
        Case({"stream": "false", "session_id": "{session}"}, whose="paused"),
        Case({"stream": "false", "input": "talk"}, whose="paused"),
        Case({"stream": "false", "background": "true", "user_id": "{owner}"}, whose="paused", status=(202,)),
    ],
    ("POST", "/{kind}s/{{kind}_id}/runs/{run_id}/cancel"): [
        Case(whose="live"),
        Case(query={"wait": "true", "session_id": "{session}"}, whose="paused"),
    ],
    ("POST", "/{kind}s/{{kind}_id}/runs/{run_id}/resume"): [Case({}), Case({"session_id": "{session}"})],
    ("GET", "/{kind}s/{{kind}_id}/runs/{run_id}/events"): [Case(), Case(query={"session_id": "{session}"})],
    ("GET", "/{kind}s/{{kind}_id}/runs/{run_id}"): [Case(), Case(query={"session_id": "{session}"})],
    ("POST", "/{kind}s/{{kind}_id}/sessions/{session_id}/fork"): [Case()],
}
NEW = {"session_id": "{session}", "user_id": "{owner}", "agent_id": "writer"}
CASES: dict[tuple[str, str], list[Case]] = {
    ("GET", "/sessions"): LISTED,
    ("POST", "/sessions"): [Case(data=NEW, hidden=False, status=(409,))],
    ("DELETE", "/sessions"): [
        Case(data={"session_ids": ["{session}"]}, hidden=False, status=(204,)),
        Case(data={"session_ids": ["{session}"]}, query={"user_id": "{owner}"}, hidden=False, status=(204,)),
    ],
    ("GET", "/sessions/{session_id}"): READ,
    ("PATCH", "/sessions/{session_id}"): [Case(data={"session_name": "mine"})],
    ("DELETE", "/sessions/{session_id}"): [Case(status=(204,))],
    ("POST", "/sessions/{session_id}/rename"): [Case(data={"session_name": "mine"})],
    ("GET", "/sessions/{session_id}/runs"): READ,
    ("GET", "/sessions/{session_id}/run-previews"): READ,
    ("GET", "/sessions/{session_id}/runs/{run_id}"): READ,
    ("GET", "/runs"): LISTED,
    ("POST", "/runs/cancel"): [
        Case(data=filter_, hidden=False)
        for filter_ in (
            {"run_ids": ["{run}"]},
            {"session_id": "{session}"},
            {"user_id": "{owner}"},
            {"status": "RUNNING"},
            {"team_id": "crew"},
        )
    ],
} | {
    (method, path.replace("{kind}", kind)): cases
    for kind in TARGETS
    for (method, path), cases in RUN_ROUTES.items()
}
OF_NOBODY = {
    ("GET", path)
    for path in (
        *("/", "/health", "/info", "/config", "/models", "/console"),
        *("/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"),
        *("/teams", "/agents", "/teams/{team_id}", "/agents/{agent_id}"),
    )
}


def routes() -> Iterator[tuple[str, str]]:
    app = an_os(ByWord()).get_app()
    for route in iter_route_contexts(app.routes):
        for method in route.methods or ():
            if method != "HEAD":
                assert route.path is not None
                yield method, route.path


async def test_every_route_has_its_case() -> None:
    found = set(routes())
    assert len(found) > 30
    assert not found - CASES.keys() - OF_NOBODY
    assert not CASES.keys() - found


def filled(value: Any, given: dict[str, str]) -> Any:
    text = json.dumps(value)
    for name, each in given.items():
        text = text.replace(f"{{{name}}}", each)
    return json.loads(text)


async def ask(
    world: World,
    headers: dict[str, str],
    method: str,
    path: str,
    case: Case,
    key: tuple[str, str],
    *,
    elsewhere: bool = False,
) -> httpx2.Response:
    given = {
        "team_id": "crew",
        "agent_id": "writer",
        "session_id": world.session(*key),
        "session": world.session(*key),
        "run_id": world.runs[key],
        "run": world.runs[key],
        "owner": "ann",
    }
    with anyio.fail_after(5):  # the stream of a live run never ends
        return await (world.elsewhere if elsewhere else world.client).request(
            method,
            filled(path, given),
            headers=headers,
            params=filled(case.query, given),
            data=filled(case.form, given),
            json=filled(case.data, given),
        )


def kinds_of(path: str) -> list[str]:
    return [kind for kind in TARGETS if path.startswith(f"/{kind}s/")] or list(TARGETS)


@pytest.mark.parametrize(("owner", "elsewhere"), [("ann", False), ("ann", True), ("a service", False)])
async def test_what_is_anothers_is_as_if_it_did_not_exist(owner: str, elsewhere: bool) -> None:
    async with world_of(user("ann") if owner == "ann" else bearer(KEY)) as world:
        before = await world.state()
        for (method, path), cases in CASES.items():
            for case, key in itertools.product(cases, world.runs):
                if key[0] not in kinds_of(path):
                    continue
                answer = await ask(world, user("bob"), method, path, case, key, elsewhere=elsewhere)
                said = (method, path, key, case, answer.text)
                assert THEIRS not in answer.text, said
                if case.hidden:
                    assert answer.status_code == 404, said
                    assert answer.json()["detail"] in ("Run not found", "Session not found"), said
                    continue
                assert answer.status_code in case.status, said
                if answer.status_code != 409:  # which says again what was asked for
                    assert not any(
                        name in answer.text for name in ("session-", "ann", *world.runs.values())
                    ), said
            assert await world.state() == before, (method, path)


CHANGING = [
    (method, path, case)
    for (method, path), cases in CASES.items()
    for case in cases
    if method == "DELETE" or case.whose != "done" or path == "/runs/cancel"
]


async def test_the_owner_is_answered() -> None:
    async with world_of(user("ann")) as world:
        for (method, path), cases in CASES.items():
            for case, kind in itertools.product(cases, kinds_of(path)):
                if case.status != (409,) and (method, path, case) not in CHANGING:
                    answer = await ask(world, user("ann"), method, path, case, (kind, case.whose))
                    assert answer.status_code in case.status, (method, path, case, answer.text)


@pytest.mark.parametrize(("method", "path", "case"), CHANGING)
async def test_the_owner_may_change_it(method: str, path: str, case: Case) -> None:
    async with world_of(user("ann")) as world:
        for kind in kinds_of(path):
            answer = await ask(world, user("ann"), method, path, case, (kind, case.whose))
            assert answer.status_code in case.status, (method, path, case, answer.text)


async def test_what_is_nobodys_has_nothing_of_anybodys() -> None:
    async with world_of(user("ann")) as world:
        for (method, path), headers in itertools.product(sorted(OF_NOBODY), ({}, user("bob"))):
            answer = await ask(world, headers, method, path, Case(), ("team", "live"))
            assert answer.status_code in (200, 401, 404)
            for name in (THEIRS, "session-", *world.runs.values()):
                assert name not in answer.text, path


async def test_a_user_cannot_say_that_they_are_another() -> None:
    async with world_of(user("ann")) as world:
        for kind, target in TARGETS.items():
            form = {"message": "talk", "stream": "false", "user_id": "ann", "session_id": f"bobs-{kind}"}
            answer = await world.client.post(f"/{kind}s/{target}/runs", headers=user("bob"), data=form)
            assert answer.status_code == 200
            run = f"/{kind}s/{target}/runs/{answer.json()['run_id']}"
            assert (await world.client.get(run, headers=user("bob"))).status_code == 200
            assert (await world.client.get(run, headers=user("ann"))).status_code == 404
            assert (await world.client.get(run, headers=bearer(KEY))).status_code == 200


async def test_without_a_key_or_token_every_route_but_the_public_is_401() -> None:
    async with world_of(user("ann")) as world:
        for method, path in routes():
            answer = await ask(world, {}, method, path, Case(), ("team", "live"))
            public = path in ("/", "/health", "/info", "/console")
            assert (answer.status_code != 401) is public, (method, path)


SCOPE_OF = {
    "/sessions": {
        "GET": "sessions:read",
        "POST": "sessions:write",
        "PATCH": "sessions:write",
        "DELETE": "sessions:delete",
    },
    "/teams": {"GET": "teams:read", "POST": "teams:run"},
    "/agents": {"GET": "agents:read", "POST": "agents:run"},
    "/config": {"GET": "config:read"},
    "/models": {"GET": "config:read"},
}


async def test_every_route_states_its_scope() -> None:
    async with world_of(user("ann")) as world:
        for method, path in sorted(routes()):
            needed = SCOPE_OF.get("/" + path.split("/")[1], {}).get(method)
            if needed is None:
                assert (method, path) in OF_NOBODY or path in ("/runs", "/runs/cancel"), (method, path)
                continue
            claims = {"sub": "ann", "exp": time.time() + 600, "scopes": [s for s in SCOPES if s != needed]}
            headers = bearer(jwt.encode(claims, SECRET, algorithm="HS256"))
            form, data = ({}, None) if path.startswith(("/teams", "/agents")) else (None, {})
            answer = await ask(world, headers, method, path, Case(form, data), ("team", "done"))
            if answer.status_code == 422:  # the body is looked at first
                data = {"session_ids": ["x"], "session_name": "x"}
                answer = await ask(world, headers, method, path, Case(form, data), ("team", "done"))
            assert answer.status_code == 403, (method, path, answer.text)
            assert needed in answer.json()["detail"]
