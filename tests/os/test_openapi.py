"""The whole OpenAPI document, as schemathesis reads it: what it generates is answered as the document says."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks

from kern_async import tool
from kern_async.db.sqlite import SqliteDb
from kern_async.os import AgentOS
from kern_async.testing import ProviderServer, Request, Step, Text, ToolCall

from ..agent.crew import Crew
from .conftest import Serve

EXAMPLES = 5
"""Of each operation, valid ones and invalid ones."""


@tool(requires_confirmation=True)
def pay(amount: int) -> str:
    """Pay an amount."""
    return f"paid {amount}"


def reply(request: Request) -> Step:
    if request.model == "Payer" and request.input[-1].get("role") == "user":
        return ToolCall("pay", {"amount": 7})
    return Text("At once.")


@pytest.fixture
def client(crew: Crew, provider: ProviderServer, serve: Serve, tmp_path: Path) -> httpx2.Client:
    provider.reply(reply, times=None)
    team = crew.team(members=[crew.agent("First"), crew.agent("Second")], name="Crowd", mode="broadcast")
    agents = [crew.agent("Solo"), crew.agent("Payer", tools=[pay])]
    return serve(AgentOS(agents=agents, teams=[team], db=SqliteDb(tmp_path / "runs.db")))


CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


def things(client: httpx2.Client, number: int, path: str) -> dict[str, str]:
    """The ids of a session and its run that are there for one operation, which may end or delete them."""
    kind, owner = ("team", "crowd") if path.startswith("/teams") else ("agent", "payer")
    ids = {"run_id": f"run-{number}", "session_id": f"session-{number}"}
    answer = client.post(f"/{kind}s/{owner}/runs", data={"message": "Go.", "stream": "false", **ids})
    assert answer.json()["status"] == ("COMPLETED" if kind == "team" else "PAUSED")
    return {"team_id": "crowd", "agent_id": "payer", **ids}


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_every_operation_answers_as_the_document_says(
    client: httpx2.Client, subtests: pytest.Subtests
) -> None:
    schema = schemathesis.openapi.from_url(f"{str(client.base_url).rstrip('/')}/openapi.json")
    seen: set[int] = set()
    for number, result in enumerate(schema.get_all_operations()):
        assert isinstance(result, Ok), result
        operation = result.ok()
        ids = things(client, number, operation.path)
        names = {parameter.name for parameter in operation.path_parameters}
        mine = {name: value for name, value in ids.items() if name in names}
        strategies = [
            operation.as_strategy(mode) for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        ]
        if mine:
            strategies.append(operation.as_strategy(path_parameters=mine))
        for which, strategy in enumerate(strategies):

            @settings(
                max_examples=EXAMPLES,
                phases=[Phase.generate],
                derandomize=True,
                suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
            )
            @given(case=strategy)
            def answered(case: Case[Any]) -> None:
                response = case.call()
                seen.add(response.status_code)
                assert response.status_code < 500, response.text
                case.validate_response(response, checks=CHECKS)

            # Where there is nothing to say, there is nothing wrong to say.
            with subtests.test(operation.label, strategy=which), suppress(Unsatisfiable):
                answered()
    for target in ("agent_id=payer", "team_id=crowd"):  # paused ones
        client.post(f"/runs/cancel?{target}&wait=true")
    assert seen >= {200, 204, 400, 404, 409, 422}
