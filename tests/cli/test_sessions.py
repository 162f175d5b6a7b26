"""`kern-async sessions` on a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kern_async.agent import Agent
from kern_async.db.sqlite import SqliteDb
from kern_async.models.openai import OpenAIResponses
from kern_async.team import Team
from kern_async.testing import ProviderServer, Text

from .conftest import Cli, one_line


@pytest.fixture
def db(stage: Path, provider: ProviderServer) -> str:
    provider.default = Text("It rains.")
    model = OpenAIResponses("model")
    solo = Agent(name="Solo", model=model, db=SqliteDb("runs.db"))
    team = Team(
        name="Crew", model=model, members=[Agent(name="One")], mode="broadcast", db=SqliteDb("runs.db")
    )
    solo.run("How is it?", session_id="weather", user_id="ann", run_id="first")
    solo.run("And now?", session_id="weather", user_id="ann")
    team.run("Tell.", session_id="stories")
    return "runs.db"


def test_they_are_listed_the_last_changed_first(cli: Cli, db: str) -> None:
    done = cli("sessions", "--db", db)
    head, *rows = done.out.splitlines()
    assert (done.code, done.err) == (0, "")
    assert head.split() == ["session", "of", "user", "changed", "name"]
    assert [row.split()[:2] for row in rows] == [["stories", "crew"], ["weather", "solo"]]
    assert [
        row["session_id"] for row in json.loads(cli("sessions", "--db", db, "--json", "--limit", "1").out)
    ] == ["stories"]
    assert "stories" not in cli("sessions", "list", "--db", db, "--user", "ann").out


def test_one_is_shown_as_a_conversation(cli: Cli, db: str) -> None:
    done = cli("sessions", "show", "weather", "--db", db)
    assert done.code == 0
    assert [line.rstrip() for line in done.out.splitlines()][:2] == ["> How is it?", "It rains."]
    assert "completed  run first" in done.out
    assert "> And now?" in done.out
    shown = cli("sessions", "show", "stories", "--db", db).out
    assert shown.count("It rains.") == 1, "the team's answer, not its members'"
    assert len(json.loads(cli("sessions", "show", "stories", "--db", db, "--json").out)["runs"]) == 2


def test_one_is_deleted(cli: Cli, db: str) -> None:
    assert cli("sessions", "delete", "weather", "--db", db).out == "weather  deleted\n"
    assert "weather" not in cli("sessions", "--db", db).out
    done = cli("sessions", "delete", "weather", "stories", "--db", db)
    assert (done.code, done.out) == (2, "stories  deleted\n")
    assert "has no session 'weather'" in one_line(done.err)
    assert one_line(cli("sessions", "--db", db).err) == "no sessions in runs.db"


def test_an_unknown_one_is_one_line(cli: Cli, db: str) -> None:
    done = cli("sessions", "show", "nothing", "--db", db)
    assert (done.code, done.out) == (2, "")
    assert "runs.db has no session 'nothing'" in one_line(done.err)


def test_a_file_needs_no_server(cli: Cli, db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERN_ASYNC_URL", "no url at all")
    assert cli("sessions", "--db", db).code == 0
    assert cli("sessions").code == 2


def test_a_file_that_is_not_there_is_not_made(cli: Cli, stage: Path) -> None:
    done = cli("sessions", "--db", "none.db")
    assert (done.code, done.out) == (2, "")
    assert one_line(done.err) == "kern-async: there is no database none.db"
    assert not (stage / "none.db").exists()


def test_a_file_that_is_no_database_is_one_line(cli: Cli, stage: Path) -> None:
    (stage / "play.txt").write_text("Once upon a time there was no database in this file at all.\n" * 20)
    done = cli("sessions", "--db", "play.txt")
    assert (done.code, done.out) == (2, "")
    assert "play.txt" in one_line(done.err)
