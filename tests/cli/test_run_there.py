"""`kern-async run --url`: what it asks a server for, and what it makes of broken streams."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

import pytest

from kern_async.run import agent
from kern_async.run.base import RunStatus

from .conftest import Cli, one_line
from .fake import Asked, FakeServer, Status, Stream

RUNS = "/agents/solo/runs"


def answer(asked: Asked, *, whole: bool = True, breaks: bool = False) -> Stream:
    run_id = parse_qs(asked.body)["run_id"][0]
    known: dict[str, Any] = {"run_id": run_id, "session_id": "s", "agent_id": "solo", "agent_name": "Solo"}
    lines = [
        agent.RunStartedEvent(**known, event_index=0).to_json(),
        agent.RunContentEvent(**known, event_index=1, content="It rains.").to_json(),
    ]
    if whole:
        end = agent.RunCompletedEvent(**known, event_index=2, status=RunStatus.completed, content="It rains.")
        lines.append(end.to_json())
    return Stream(*lines, breaks=breaks)


@pytest.fixture(autouse=True)
def two_targets(fake: FakeServer) -> None:
    fake.on("GET", "/agents", [{"id": "solo", "name": "Solo"}, {"id": "both", "name": "Both"}])
    fake.on("GET", "/teams", [{"id": "crew", "name": "The Crew"}, {"id": "both", "name": "Both"}])
    fake.on("POST", RUNS, answer)


@pytest.mark.parametrize("target", ["solo", "agent:solo", "Solo"])
def test_an_agent_is_found_by_kind_and_id_or_name(cli: Cli, fake: FakeServer, target: str) -> None:
    done = cli("run", target, "How is it?", "--url", fake.url)
    assert (done.code, done.out, done.err) == (0, "It rains.\n", "")


def test_the_options_are_the_fields_of_the_form(cli: Cli, fake: FakeServer) -> None:
    options = ["--session", "s", "--user", "u", "--run-id", "r", "--timeout", "2.5"]
    assert cli("run", "solo", "How is it?", "--url", fake.url, *options).code == 0
    form = {name: value[0] for name, value in parse_qs(fake.asked[-1].body).items()}
    assert form == {
        "message": "How is it?",
        "stream": "true",
        "run_id": "r",
        "session_id": "s",
        "user_id": "u",
        "timeout": "2.5",
    }


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nobody", "has no agent or team 'nobody'; there is team:crew, team:both, agent:solo, agent:both"),
        ("team:solo", "has no agent or team 'team:solo'"),
        ("both", "'both' is more than one at"),
        ("play:solo", "has no agent or team 'play:solo'"),
    ],
)
def test_a_target_that_is_not_there_is_one_line(cli: Cli, fake: FakeServer, target: str, said: str) -> None:
    done = cli("run", target, "Go.", "--url", fake.url)
    assert (done.code, done.out) == (2, "")
    assert said in one_line(done.err)


@pytest.mark.parametrize("breaks", [True, False])
def test_a_stream_that_ends_before_the_run_is_said_after_what_it_brought(
    cli: Cli, fake: FakeServer, breaks: bool
) -> None:
    fake.on("POST", RUNS, lambda asked: answer(asked, whole=False, breaks=breaks))
    done = cli("run", "solo", "Go.", "--url", fake.url, "--run-id", "mine")
    assert (done.code, done.out) == (2, "It rains.\n")
    assert "run mine" in one_line(done.err)


def test_a_run_that_the_server_refuses_is_one_line(cli: Cli, fake: FakeServer) -> None:
    fake.on("POST", RUNS, Status(409, {"detail": "run id 'x' belongs to a run that has not ended"}))
    done = cli("run", "solo", "Go.", "--url", fake.url)
    assert (done.code, done.out) == (2, "")
    assert "belongs to a run that has not ended (409)" in one_line(done.err)


def test_the_url_of_the_environment_does_not_move_a_run(
    cli: Cli, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERN_ASYNC_URL", fake.url)
    assert "Hello" in cli("run", "play:solo", "Go.").out
    assert not fake.asked
