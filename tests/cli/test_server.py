"""The commands against a real server: `kern-async serve` in a process of its own."""

from __future__ import annotations

import json
import logging
import re
import signal
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kern_async.os import AgentOS
from kern_async.testing import Forever, Hang, ProviderServer, Text

from .conftest import Cli, Started, launch, one_line, write_play
from .terminal import CTRL_C, Terminal

SERVED = """
from kern_async.db.sqlite import SqliteDb
from kern_async.os import AgentOS
from play import solo, storytelling_team

agent_os = AgentOS(agents=[solo], teams=[storytelling_team], db=SqliteDb("runs.db"), shutdown_grace=0.2)
"""
pytestmark = pytest.mark.slow

Start = Callable[..., Started]


@pytest.fixture(autouse=True)
def quiet() -> Generator[None]:
    """`serve` in this process has not set up logging when the test is over."""
    yield
    ours = logging.getLogger("kern_async")
    ours.handlers.clear()
    ours.setLevel(logging.NOTSET)


@contextmanager
def served(place: Path, *arguments: str, **more: str) -> Generator[Started]:
    """A server, which must end well."""
    server = launch(place, "serve", *arguments, "--port", "0", **more)
    try:
        assert server.process.stderr is not None
        said = server.process.stderr.readline()
        found = re.search(r"serving at (http://\S+:\d+); Ctrl-C stops", said)
        assert found, said
        server.url = found[1]
        yield server
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
        done = server.end()
        assert (done.code, done.out) == (0, ""), done.err
        server.log = done.err
    finally:
        server.kill()


@pytest.fixture(scope="module")
def shared_provider() -> Generator[ProviderServer]:
    with ProviderServer() as provider:
        yield provider


@pytest.fixture
def provider(shared_provider: ProviderServer) -> Generator[ProviderServer]:
    yield shared_provider
    shared_provider.reset()


@pytest.fixture(scope="module")
def shared_server(
    tmp_path_factory: pytest.TempPathFactory, shared_provider: ProviderServer
) -> Generator[Started]:
    place = tmp_path_factory.mktemp("served")
    write_play(place)
    (place / "served.py").write_text(SERVED)
    model = {"OPENAI_API_KEY": "test", "OPENAI_BASE_URL": shared_provider.base_url, "OS_SECURITY_KEY": ""}
    with served(place, "served:agent_os", **model) as server:
        yield server


@pytest.fixture
def server(shared_server: Started, monkeypatch: pytest.MonkeyPatch) -> Started:
    """The server that the commands take for theirs."""
    monkeypatch.setenv("KERN_ASYNC_URL", shared_server.url)
    return shared_server


def live(cli: Cli, predicate: Callable[[dict[str, object]], object]) -> dict[str, object]:
    """The live run for which this holds, as soon as it does."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for tree in json.loads(cli("ps", "--json").out):
            if predicate(tree):
                return tree
        time.sleep(0.02)  # the server's process needs the processor, too
    raise AssertionError("it did not come")


def members(tree: dict[str, object]) -> list[dict[str, object]]:
    found = tree["members"]
    assert isinstance(found, list)
    return found


def test_a_run_there_looks_like_one_here(cli: Cli, server: Started, provider: ProviderServer) -> None:
    provider.default = Text("It rains.")
    done = cli("run", "agent:solo", "How is it?", "--url", server.url, "--session", "s", "--run-id", "r")
    assert (done.code, done.out, done.err) == (0, "It rains.\n", "")
    assert [line.rstrip() for line in cli("sessions", "show", "s").out.splitlines()[:2]] == [
        "> How is it?",
        "It rains.",
    ]
    assert "solo" in cli("sessions").out
    assert cli("watch", "r").out == "It rains.\n", "it is replayed"
    again = cli("cancel", "r")
    assert (again.code, again.out) == (1, "r  not cancelled: it had ended COMPLETED\n")
    assert cli("sessions", "delete", "s").out == "s  deleted\n"
    assert cli("sessions", "show", "s").code == 2
    assert "has no run 'nobody'" in one_line(cli("cancel", "nobody").err)


def test_ctrl_c_cancels_a_run_there_and_shows_its_end(
    server: Started, stage: Path, provider: ProviderServer
) -> None:
    provider.default = Forever("word ", 0.005)
    with Terminal(stage, "run", "storytelling-team", "Tell.", "--url", server.url, columns=80) as terminal:
        terminal.until("Ctrl-C cancels the run")
        terminal.until(r"word word.*│ │ word word")
        terminal.press(CTRL_C)
        assert terminal.end() == 130
    assert re.search(r"Storytelling Team cancelled[\s\S]*cancelled by request: Ctrl-C", terminal.left)
    assert "word word" in terminal.left
    provider.wait_until(lambda: provider.open_requests == 0)


def test_ctrl_c_reaches_a_run_there_whose_model_never_answers(
    server: Started, stage: Path, provider: ProviderServer
) -> None:
    provider.default = Hang()
    with Terminal(stage, "run", "solo", "Tell.", "--url", server.url) as terminal:
        terminal.until("waiting for its model")
        provider.wait_for_request()
        terminal.press(CTRL_C)
        assert terminal.end() == 130
    assert "cancelled by request: Ctrl-C; kept no text" in terminal.left


def test_a_member_is_stopped_and_its_team_goes_on_until_it_is_stopped_too(
    cli: Cli, server: Started, start: Start, provider: ProviderServer
) -> None:
    provider.default = Forever("word ", 0.005)
    runner = start("run", "storytelling-team", "Tell.", "--url", server.url, "--json", "--run-id", "the-run")
    tree = live(cli, lambda tree: len(members(tree)) == 2 and all(each["content"] for each in members(tree)))
    shown = cli("ps").out
    for name in ("Storytelling Team", "├ StorytellerAgent", "└ EditorAgent", "the-run", "running"):
        assert name in shown
    member = next(str(each["run_id"]) for each in members(tree) if each["name"] == "EditorAgent")
    done = cli("cancel", member[:10], "--wait", "--reason", "enough")
    assert (done.code, done.out) == (0, f"{member}  cancelled\n")
    tree = live(cli, lambda tree: tree["run_id"] == "the-run")
    assert [each["status"] for each in members(tree)] == ["RUNNING", "CANCELLED"]
    assert cli("cancel", member).code == 1
    watcher = start("watch", "the-run", "--json", KERN_ASYNC_URL=server.url)
    watcher.line("RunContent")
    assert cli("cancel", "--team", "storytelling-team", "--wait").out == "the-run  cancelled\n"
    seen, ran = watcher.end(), runner.end()
    assert (seen.code, ran.code) == (130, 130)
    assert seen.out.splitlines()[-1] == ran.out.splitlines()[-1], "the same bytes"
    events = [json.loads(line) for line in ran.out.splitlines()]
    assert [event["event_index"] for event in events] == list(range(len(events)))
    assert events[-1]["event"] == "TeamRunCancelled"
    assert cli("cancel", "--all").code == 1


def test_leaving_a_watch_leaves_the_run_alone(
    cli: Cli, server: Started, start: Start, stage: Path, provider: ProviderServer
) -> None:
    provider.default = Forever("word ", 0.005)
    runner = start("run", "solo", "Tell.", "--url", server.url, "--json", "--run-id", "watched")
    live(cli, lambda tree: tree["run_id"] == "watched")
    with Terminal(stage, "watch", "watch", KERN_ASYNC_URL=server.url) as terminal:
        terminal.until("Ctrl-C leaves, and the run goes on")
        terminal.until("word word")
        terminal.press(CTRL_C)
        assert terminal.end() == 130
    assert "the run goes on; `kern-async cancel watched` stops it" in terminal.left
    assert live(cli, lambda tree: tree["run_id"] == "watched")["status"] == "RUNNING"
    assert cli("cancel", "--all", "--wait").code == 0
    assert runner.end().code == 130


def test_a_runner_that_is_killed_takes_its_run_along(
    cli: Cli, server: Started, start: Start, provider: ProviderServer
) -> None:
    provider.default = Forever("word ", 0.005)
    runner = start("run", "solo", "Tell.", "--url", server.url, "--json")
    runner.line("RunContent")
    runner.process.kill()
    provider.wait_until(lambda: provider.open_requests == 0)
    assert cli("ps", "--json").out == "[]\n"


def test_a_server_with_a_key_wants_it_and_ends_its_runs_when_it_stops(
    cli: Cli, stage: Path, start: Start, monkeypatch: pytest.MonkeyPatch, provider: ProviderServer
) -> None:
    provider.default = Forever("word ", 0.005)
    (stage / "served.py").write_text(
        "from kern_async.os import AgentOS\nfrom play import storytelling_team\n"
        "agent_os = AgentOS(teams=[storytelling_team], shutdown_grace=0.1)\n"
    )
    with served(stage, "served:agent_os", OS_SECURITY_KEY="open-sesame") as server:
        monkeypatch.setenv("KERN_ASYNC_URL", server.url)
        done = cli("ps")
        assert done.code == 2
        assert "(401); give its key with --key or in OS_SECURITY_KEY" in one_line(done.err)
        wrong = cli("ps", "--key", "open-barley")
        assert wrong.code == 2
        assert "barley" not in wrong.err
        assert cli("ps", "--key", "open-sesame").code == 0
        monkeypatch.setenv("OS_SECURITY_KEY", "open-sesame")
        runner = start("run", "storytelling-team", "Tell.", "--url", server.url, "--session", "a\x1bb\nc")
        provider.wait_until(lambda: any(request.streamed for request in provider.requests), 20)
        server.process.send_signal(signal.SIGINT)
        done = runner.end()
        assert done.code == 130
        assert "[Storytelling Team] (cancelled by shutdown" in done.out
        assert server.process.wait(10) == 0
    lines = server.log.splitlines()
    assert [line.split()[1] for line in lines if "session_id=ab c" in line].count("run.ended") == 3
    assert any("server.stopping runs=1 grace=0.1" in line for line in lines)
    assert "\x1b" not in server.log


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("play:number", "play:number is of type int, not an AgentOS, an Agent or a Team"),
        ("play:make", "play:make is a function"),
        ("nowhere:app", "no module 'nowhere'"),
    ],
)
def test_what_cannot_be_served_is_one_line(cli: Cli, target: str, said: str) -> None:
    done = cli("serve", target)
    assert (done.code, done.out) == (2, "")
    assert said in one_line(done.err)


def test_other_machines_are_not_served_without_a_key(cli: Cli) -> None:
    done = cli("serve", "play:solo", "--host", "0.0.0.0", "--port", "0")
    assert (done.code, done.out) == (2, "")
    assert "OS_SECURITY_KEY" in one_line(done.err)


def test_a_port_in_use_is_one_line(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = cli("serve", "play:solo", "--host", "127.0.0.1", "--port", str(port))
    assert (done.code, done.out) == (2, "")
    assert f"127.0.0.1:{port}: Address already in use" in one_line(done.err)


@pytest.mark.parametrize("target", ["play:solo", "play.py:storytelling_team"])
def test_an_agent_or_a_team_alone_is_served(cli: Cli, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    taken: list[AgentOS] = []
    monkeypatch.setattr(AgentOS, "serve", lambda agent_os, **_: taken.append(agent_os))
    assert cli("serve", target).code == 0
    assert [*taken[0].agents, *taken[0].teams] in (["solo"], ["storytelling-team"])
