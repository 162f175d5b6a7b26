"""`kern-async watch`: a connection that breaks is made again where it broke."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from kern_async.cli import watching
from kern_async.run import agent
from kern_async.run.base import CancellationStage, RunStatus

from .conftest import Cli, one_line
from .fake import Asked, FakeServer, Silence, Status, Stream

PATH = "/teams/t/runs/r/events"


def line(kind: Any, index: int, **fields: Any) -> str:
    return kind(
        run_id="r", session_id="s", agent_id="solo", agent_name="Solo", event_index=index, **fields
    ).to_json()


STARTED = line(agent.RunStartedEvent, 0)
ONE, TWO = line(agent.RunContentEvent, 1, content="One. "), line(agent.RunContentEvent, 2, content="Two.")
COMPLETED = line(agent.RunCompletedEvent, 3, status=RunStatus.completed, content="One. Two.")
NEW = json.dumps({"event": "SomethingNew", "run_id": "r", "event_index": 2})
ENDS = {
    0: COMPLETED,
    1: line(agent.RunErrorEvent, 3, status=RunStatus.error, error="no", error_type="ModelError"),
    3: line(agent.RunPausedEvent, 3, status=RunStatus.paused),
    130: line(
        agent.RunCancelledEvent,
        3,
        status=RunStatus.cancelled,
        cancelled_by="deadline",
        cancellation_stage=CancellationStage.executing,
        requested_at=1.0,
        settled_at=1.0,
    ),
}


@pytest.fixture(autouse=True)
def live(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One live run, and no time between two tries."""
    fake.on("GET", "/runs", [{"run_id": "r", "kind": "team", "id": "t", "members": []}])
    monkeypatch.setattr(watching, "PAUSES", (0.0, 0.0, 0.0))


def replay(*parts: Stream | Status | Silence) -> Any:
    """Answers one after another, the last one again and again."""
    left = list(parts)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


@pytest.mark.parametrize("code", ENDS)
def test_the_exit_code_is_the_runs_end(cli: Cli, fake: FakeServer, code: int) -> None:
    fake.on("GET", PATH, Stream(STARTED, ONE, ENDS[code]))
    assert cli("watch", "r", "--url", fake.url).code == code


def test_a_connection_that_breaks_goes_on_after_the_last_event(cli: Cli, fake: FakeServer) -> None:
    fake.on(
        "GET",
        PATH,
        replay(
            Stream(STARTED, ONE, breaks=True),
            Stream(breaks=True),
            Stream(TWO),
            Stream(COMPLETED),
        ),
    )
    done = cli("watch", "r", "--url", fake.url, "--json")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [STARTED, ONE, TWO, COMPLETED], "the server's own lines, each once"
    asked = [asked.headers.get("Last-Event-ID") for asked in fake.asked if asked.path == PATH]
    assert asked == [None, "1", "1", "2"]


def test_every_step_forward_begins_the_tries_anew(
    cli: Cli, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "PAUSES", (0.0,))
    parts = [Stream(part, breaks=True) for part in (STARTED, ONE, TWO)]
    fake.on("GET", PATH, replay(*parts, Stream(COMPLETED)))
    assert cli("watch", "r", "--url", fake.url).code == 0


def test_a_server_that_dies_and_comes_back_is_found_again(cli: Cli, fake: FakeServer) -> None:
    parts = [
        Stream(STARTED, ONE, breaks=True),
        Silence(),
        Status(503, {"detail": "wait"}),
        Stream(TWO, COMPLETED),
    ]
    fake.on("GET", PATH, replay(*parts))
    done = cli("watch", "r", "--url", fake.url)
    assert (done.code, done.out, done.err) == (0, "One. Two.\n", "")
    fake.on("GET", PATH, Silence())
    assert "the connection to" in one_line(cli("watch", "r", "--url", fake.url).err), "it never was there"


def test_people_see_no_difference_when_it_breaks(cli: Cli, fake: FakeServer) -> None:
    fake.on("GET", PATH, replay(Stream(STARTED, ONE, breaks=True), Stream(TWO, COMPLETED)))
    done = cli("watch", "r", "--url", fake.url)
    assert (done.code, done.out, done.err) == (0, "One. Two.\n", "")


def test_a_server_that_never_comes_back_is_given_up(cli: Cli, fake: FakeServer) -> None:
    fake.on("GET", PATH, replay(Stream(STARTED, ONE, breaks=True), Stream(breaks=True)))
    done = cli("watch", "r", "--url", fake.url)
    assert done.code == 2
    assert done.out == "One. \n"
    assert "lost run r: " in one_line(done.err)
    assert sum(asked.path == PATH for asked in fake.asked) == 4, "and three tries"


def test_a_run_that_the_server_has_lost_is_said(cli: Cli, fake: FakeServer) -> None:
    fake.on("GET", PATH, replay(Stream(STARTED, breaks=True), Status(404, {"detail": "Run not found"})))
    done = cli("watch", "r", "--url", fake.url)
    assert done.code == 2
    assert "Run not found (404): the server has lost the run" in one_line(done.err)


def test_a_kind_of_event_that_is_not_known_is_passed_over(cli: Cli, fake: FakeServer) -> None:
    fake.on("GET", PATH, Stream(STARTED, ONE, NEW, COMPLETED))
    assert cli("watch", "r", "--url", fake.url).out == "One. \n"
    fake.on("GET", PATH, replay(Stream(STARTED, ONE, NEW, breaks=True), Stream(COMPLETED)))
    assert cli("watch", "r", "--url", fake.url, "--json").out.splitlines()[2] == NEW
    assert fake.asked[-1].headers["Last-Event-ID"] == "2", "it need not come again"


def test_a_beginning_of_an_id_is_enough(cli: Cli, fake: FakeServer) -> None:
    def node(run_id: str, *members: Any) -> dict[str, Any]:
        return {"run_id": run_id, "kind": "team", "id": "t", "members": list(members)}

    fake.on("GET", "/runs", [node("abc1", node("xyz")), node("abd2")])
    fake.on(
        "GET",
        "/teams/t/runs/xyz/events",
        Stream(STARTED.replace('"r"', '"xyz"'), COMPLETED.replace('"r"', '"xyz"')),
    )
    assert cli("watch", "xy", "--url", fake.url).code == 0
    done = cli("watch", "ab", "--url", fake.url)
    assert done.code == 2
    assert re.search(r"'ab' begins the ids of 2 runs: abc1, abd2", one_line(done.err))


def test_a_run_that_has_ended_is_found_with_its_agent(cli: Cli, fake: FakeServer) -> None:
    fake.on("GET", "/runs", [])
    fake.on("GET", "/teams", [{"id": "t", "name": "T"}])
    fake.on("GET", "/agents", [{"id": "a b", "name": "A"}])
    fake.on("GET", "/agents/a%20b/runs/r", {"run_id": "r"})
    fake.on("GET", "/agents/a%20b/runs/r/events", Stream(STARTED, COMPLETED))
    assert cli("watch", "r", "--url", fake.url).code == 0
    done = cli("watch", "nobody", "--url", fake.url)
    assert done.code == 2
    assert "has no run 'nobody'" in one_line(done.err)


def test_the_key_goes_with_the_stream(cli: Cli, fake: FakeServer) -> None:
    keys: list[str | None] = []

    def answer(asked: Asked) -> Stream:
        keys.append(asked.headers.get("Authorization"))
        return Stream(STARTED, COMPLETED)

    fake.on("GET", PATH, answer)
    assert cli("watch", "r", "--url", fake.url, "--key", "k").code == 0
    assert keys == ["Bearer k"]
