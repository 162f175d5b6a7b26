"""What servers may answer, and what is made of it: one line, exit 2, and never the key."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from .conftest import Cli, one_line
from .fake import FakeServer, Status

KEY = "sk-very-secret"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    "command",
    [["ps"], ["watch", "r"], ["cancel", "r"], ["cancel", "--team", "t"], ["sessions"], ["run", "t", "Go."]],
)
def test_no_server_is_one_line_that_says_where(cli: Cli, command: list[str]) -> None:
    port = free_port()
    done = cli(*command, "--url", f"http://user:pass@127.0.0.1:{port}", "--key", KEY)
    assert (done.code, done.out) == (2, "")
    line = one_line(done.err)
    assert f"cannot connect to http://127.0.0.1:{port}" in line
    assert KEY not in line
    assert "pass@" not in line


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            Status(401, {"detail": "Authorization header required"}),
            "Authorization header required (401); give its key",
        ),
        (Status(403, {"detail": "not yours"}), "not yours (403)"),
        (Status(429, {"detail": "too many runs"}), "too many runs (429)"),
        (
            Status(422, {"detail": [{"loc": ["query", "status"], "msg": "is wrong", "type": "x"}]}),
            "status: is wrong (422)",
        ),
        (
            Status(500, b"<html>oops", "text/html"),
            "does not answer as a kern_async server does: 500, text/html",
        ),
        (
            Status(200, b"<html>hello", "text/html"),
            "does not answer as a kern_async server does: 200, text/html",
        ),
        (Status(404, ["odd"]), "does not answer as a kern_async server does: 404"),
        (Status(200, b"\xff\xfe", "application/json"), "does not answer as a kern_async server does"),
        (Status(302, b"", "text/plain"), "does not answer as a kern_async server does: 302"),
    ],
)
def test_a_refusal_is_one_line_with_its_detail(cli: Cli, fake: FakeServer, answer: Status, said: str) -> None:
    fake.on("GET", "/runs", answer)
    done = cli("ps", "--url", fake.url, "--key", KEY)
    assert (done.code, done.out) == (2, "")
    assert said in one_line(done.err)
    assert KEY not in done.err


@pytest.mark.parametrize("answer", [{"odd": 1}, [1, "two", None], None, 7, [{"run_id": None}], [{}]])
@pytest.mark.parametrize("command", [["ps"], ["ps", "--json"], ["watch", "x"], ["cancel", "x"]])
def test_an_answer_that_is_no_list_of_runs_is_not_a_crash(
    cli: Cli, fake: FakeServer, answer: Any, command: list[str]
) -> None:
    fake.on("GET", "/runs", answer)
    assert cli(*command, "--url", fake.url).code in (0, 2)


@pytest.mark.parametrize("url", ["", "http://", "ftp://host", "http://[", "http://host:port", "://"])
def test_a_url_that_is_none_is_one_line(cli: Cli, url: str) -> None:
    done = cli("ps", "--url", url)
    assert (done.code, done.out) == (2, "")
    one_line(done.err)


def test_url_and_key_come_from_the_environment_too(
    cli: Cli, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERN_ASYNC_URL", fake.url.removeprefix("http://"))
    monkeypatch.setenv("OS_SECURITY_KEY", KEY)
    fake.on("GET", "/runs", [])
    done = cli("ps")
    assert (done.code, done.out) == (0, "")
    assert fake.asked[0].headers["Authorization"] == f"Bearer {KEY}"
    assert KEY not in done.err
    assert KEY not in cli("ps", "--help").out


def test_a_key_that_no_header_can_have_is_one_line(cli: Cli, fake: FakeServer) -> None:
    for key in ("schl\u00fcssel", "two\nlines"):
        done = cli("ps", "--url", fake.url, "--key", key)
        assert done.code == 2
        assert key not in one_line(done.err)


def test_no_proxy_is_asked_for_what_is_on_this_machine(
    cli: Cli, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    fake.on("GET", "/runs", [])
    assert cli("ps", "--url", fake.url).code == 0


def test_a_server_cannot_steer_the_terminal(cli: Cli, fake: FakeServer) -> None:
    evil = "\x1b[2J\x07evil\n"
    fake.on(
        "GET",
        "/runs",
        [
            {
                "run_id": evil,
                "name": evil,
                "kind": "team",
                "id": "t",
                "status": evil,
                "tools": [{"tool_name": evil, "status": "running"}],
            }
        ],
    )
    fake.on(
        "POST",
        "/runs/cancel",
        {"cancelled": 1, "runs": [{"run_id": evil, "status": evil, "cancelled": True}]},
    )
    fake.on("GET", "/sessions", {"data": [{"session_id": evil, "session_name": evil, "team_id": evil}]})
    for command in (["ps"], ["cancel", "--all"], ["sessions"]):
        done = cli(*command, "--url", fake.url)  # it looks for escape codes
        assert "evil" in done.out
        assert "\x07" not in done.out
    refused = Status(400, {"detail": evil})
    fake.on("GET", "/runs", refused)
    assert "evil" in cli("ps", "--url", fake.url).err


def test_json_of_ps_is_what_the_server_said(cli: Cli, fake: FakeServer) -> None:
    runs = [{"run_id": "r", "name": "Caf\u00e9", "members": []}]
    fake.on("GET", "/runs", runs)
    done = cli("ps", "--json", "--url", fake.url)
    assert json.loads(done.out) == runs
    assert done.err == ""
