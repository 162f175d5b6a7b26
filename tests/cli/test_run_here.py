"""`kern-async run` in this process: what it shows, and its exit code."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from kern_async import cancel_run
from kern_async.agent import Agent
from kern_async.db.sqlite import SqliteDb
from kern_async.testing import Cut, Forever, ProviderServer, Text, ToolCall

from .conftest import Cli, one_line


def test_an_agents_answer_is_all_of_stdout(cli: Cli, provider: ProviderServer) -> None:
    provider.default = Text("It rains.")
    done = cli("run", "play:solo", "How is it?")
    assert (done.code, done.out, done.err) == (0, "It rains.\n", "")
    assert provider.requests[0].input[-1]["content"] == "How is it?"


def test_a_team_shows_each_member_apart(cli: Cli, provider: ProviderServer) -> None:
    provider.default = Text("Well said.")
    done = cli("run", "play:storytelling_team", "Tell.")
    assert done.code == 0
    for name in ("StorytellerAgent", "EditorAgent", "Storytelling Team"):
        assert f"[{name}] Well said." in done.out


def test_json_is_one_event_a_line_and_nothing_else(cli: Cli, provider: ProviderServer) -> None:
    provider.default = Text("Well said.")
    done = cli("run", "play:storytelling_team", "Tell.", "--json", "--run-id", "mine", "--session", "s")
    events = [json.loads(line) for line in done.out.splitlines()]
    assert [event["event_index"] for event in events] == list(range(len(events)))
    assert (events[0]["event"], events[-1]["event"]) == ("TeamRunStarted", "TeamRunCompleted")
    assert "ModelRequestStarted" in {event["event"] for event in events}, "all events, not the brief ones"
    assert events[-1]["content"] == "Well said."
    assert {events[0]["run_id"], events[-1]["run_id"]} == {"mine"}
    assert {event["session_id"] for event in events} == {"s"}
    assert done.err == ""


def test_a_hyphen_reads_the_prompt_from_stdin(
    cli: Cli, provider: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Two\nlines?\n"))
    assert cli("run", "play:solo", "-").code == 0
    assert provider.requests[0].input[-1]["content"] == "Two\nlines?"


@pytest.mark.parametrize("prompt", ["", "  \n", "-"])
def test_an_empty_prompt_is_refused(cli: Cli, monkeypatch: pytest.MonkeyPatch, prompt: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    done = cli("run", "play:solo", prompt)
    assert (done.code, done.out) == (2, "")
    assert one_line(done.err) == "kern-async: the prompt is empty"


def test_a_run_that_fails_exits_1_with_what_it_had_said(cli: Cli, provider: ProviderServer) -> None:
    provider.default = [Text("It is "), Cut()]
    done = cli("run", "play:solo", "Go.")
    assert done.code == 1
    assert done.out.startswith("It is")
    assert "ModelConnectionError" in done.out


def test_a_run_that_waits_for_a_person_exits_3_and_says_for_what(cli: Cli, provider: ProviderServer) -> None:
    provider.default = ToolCall("pay", {"amount": 3})
    done = cli("run", "play:clerk", "Pay.", "--run-id", "paused")
    assert done.code == 3
    assert "waits for a yes to pay" in done.out
    assert cancel_run("paused")


def test_a_run_that_outlasts_its_timeout_exits_130_and_shows_what_was_kept(
    cli: Cli, provider: ProviderServer
) -> None:
    provider.default = Forever("word ", 0.005)
    done = cli("run", "play:solo", "Go.", "--timeout", "0.3")
    assert done.code == 130
    assert done.out.startswith("word word ")
    assert "cancelled by deadline: timeout of 0.3 s; kept" in done.out
    provider.wait_until(lambda: provider.open_requests == 0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--timeout", "-1"], "timeout"),
        (["--timeout", "soon"], "'--timeout'"),
        (["--session", ""], "session_id"),
    ],
)
def test_an_option_that_makes_no_sense_is_one_line_and_2(cli: Cli, options: list[str], said: str) -> None:
    done = cli("run", "play:solo", "Go.", *options)
    assert (done.code, done.out) == (2, "")
    assert said in one_line(done.err)


def test_a_run_in_a_session_is_stored_with_its_user(cli: Cli, provider: ProviderServer, stage: Path) -> None:
    with (stage / "play.py").open("a") as file:
        file.write("\nfrom kern_async.db.sqlite import SqliteDb\nsolo.db = SqliteDb('runs.db')\n")
    provider.default = Text("It rains.")
    assert cli("run", "play:solo", "How is it?", "--session", "s", "--user", "ann", "--run-id", "r").code == 0
    session = Agent(name="Reader", db=SqliteDb("runs.db")).get_session("s")
    assert session is not None
    assert (session.user_id, [run.run_id for run in session.runs]) == ("ann", ["r"])
    again = cli("run", "play:solo", "Again?", "--run-id", "r")
    assert again.code == 2
    assert "belongs to a run that is stored" in one_line(again.err)
