"""`kern-async cancel`: which runs it asks for, and what it says came of it."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from .conftest import Cli, Started, one_line
from .fake import Asked, FakeServer, Status

TREES = [
    {"run_id": "aaaa-1", "kind": "team", "id": "t", "members": [{"run_id": "bbbb-2", "members": []}]},
    {"run_id": "aaaa-3", "kind": "agent", "id": "a"},
]


ENDED = {"old": "COMPLETED", "late": "RUNNING"}
"""Runs that cannot be cancelled any more."""


def cancelled(run_id: str, *, waited: bool) -> dict[str, Any]:
    status = ENDED.get(run_id, "CANCELLED" if waited else "RUNNING")
    return {"run_id": run_id, "status": status, "cancelled": run_id not in ENDED}


@pytest.fixture(autouse=True)
def live(fake: FakeServer) -> None:
    fake.on("GET", "/runs", TREES)
    fake.on("GET", "/teams", [{"id": "t"}])
    fake.on("GET", "/agents", [{"id": "a"}])
    for target, run_id in (
        ("teams/t", "aaaa-1"),
        ("teams/t", "bbbb-2"),
        ("agents/a", "old"),
        ("agents/a", "late"),
    ):
        fake.on("GET", f"/{target}/runs/{run_id}", {"run_id": run_id})
        fake.on(
            "POST",
            f"/{target}/runs/{run_id}/cancel",
            lambda asked: cancelled(asked.path.split("/")[-2], waited="wait" in asked.query),
        )
    fake.on(
        "POST",
        "/runs/cancel",
        lambda asked: {
            "cancelled": 1,
            "runs": [cancelled(run_id, waited=False) for run_id in asked.json.get("run_ids", ["aaaa-1"])],
        },
    )


def posted(fake: FakeServer) -> list[Asked]:
    return [asked for asked in fake.asked if asked.method == "POST"]


def test_a_member_is_cancelled_alone_by_the_beginning_of_its_id(cli: Cli, fake: FakeServer) -> None:
    done = cli("cancel", "bb", "--url", fake.url)
    assert (done.code, done.out, done.err) == (0, "bbbb-2  will end CANCELLED\n", "")
    assert [(asked.path, asked.query) for asked in posted(fake)] == [("/teams/t/runs/bbbb-2/cancel", {})]


def test_wait_mode_and_reason_reach_the_server(cli: Cli, fake: FakeServer) -> None:
    how = ["--wait", "--mode", "after_tools", "--reason", "too late"]
    done = cli("cancel", "bb", *how, "--url", fake.url)
    assert (done.code, done.out) == (0, "bbbb-2  cancelled\n")
    assert posted(fake)[0].query == {"wait": ["true"], "mode": ["after_tools"], "reason": ["too late"]}
    cli("cancel", "--all", *how, "--url", fake.url)
    assert posted(fake)[1].json == {
        "run_ids": ["aaaa-1", "aaaa-3"],
        "wait": True,
        "mode": "after_tools",
        "reason": "too late",
    }


def test_all_are_the_roots_of_what_is_live(cli: Cli, fake: FakeServer) -> None:
    assert cli("cancel", "--all", "--url", fake.url).code == 0
    assert [asked.json for asked in posted(fake)] == [{"run_ids": ["aaaa-1", "aaaa-3"]}]


def test_a_filter_is_the_servers_to_apply(cli: Cli, fake: FakeServer) -> None:
    assert cli("cancel", "--team", "t", "--session", "s", "--user", "u", "--url", fake.url).code == 0
    assert [asked.json for asked in posted(fake)] == [{"team_id": "t", "session_id": "s", "user_id": "u"}]


@pytest.mark.parametrize(
    ("run_ids", "code", "out"),
    [
        (["old"], 1, "old  not cancelled: it had ended COMPLETED\n"),
        (["late"], 1, "late  not cancelled: its end was already decided\n"),
        (["bb", "old"], 1, "bbbb-2  will end CANCELLED\nold  not cancelled: it had ended COMPLETED\n"),
    ],
)
def test_a_run_that_had_ended_is_said_and_1(
    cli: Cli, fake: FakeServer, run_ids: list[str], code: int, out: str
) -> None:
    done = cli("cancel", *run_ids, "--url", fake.url)
    assert (done.code, done.out, done.err) == (code, out, "")


def test_an_unknown_run_is_said_and_2_and_the_others_are_cancelled(cli: Cli, fake: FakeServer) -> None:
    done = cli("cancel", "unknown", "bb", "--url", fake.url)
    assert (done.code, done.out) == (2, "bbbb-2  will end CANCELLED\n")
    assert "has no run 'unknown'" in one_line(done.err)


def test_one_that_the_server_refuses_does_not_hide_the_others(cli: Cli, fake: FakeServer) -> None:
    fake.on("POST", "/agents/a/runs/old/cancel", Status(403, {"detail": "not yours"}))
    done = cli("cancel", "old", "bb", "--url", fake.url)
    assert (done.code, done.out) == (2, "bbbb-2  will end CANCELLED\n")
    assert "old: http" in one_line(done.err)
    assert "not yours (403)" in done.err


def test_ctrl_c_ends_the_waiting_for_a_cancel(fake: FakeServer, start: Callable[..., Started]) -> None:
    release, waiting = threading.Event(), threading.Event()

    def hang(_: Asked) -> Any:
        waiting.set()
        release.wait(30)
        return cancelled("bbbb-2", waited=True)

    fake.on("POST", "/teams/t/runs/bbbb-2/cancel", hang)
    started = start("cancel", "bb", "--wait", "--url", fake.url)
    assert waiting.wait(20)
    began = time.monotonic()
    started.process.send_signal(signal.SIGINT)
    done = started.end()
    assert (done.code, done.out, done.err) == (130, "", "")
    assert time.monotonic() - began < 10
    release.set()


def test_a_beginning_of_several_ids_cancels_none(cli: Cli, fake: FakeServer) -> None:
    done = cli("cancel", "aa", "--url", fake.url)
    assert (done.code, done.out) == (2, "")
    assert "'aa' begins the ids of 2 runs" in one_line(done.err)
    assert not posted(fake)


def test_nothing_that_fits_is_said_and_1(cli: Cli, fake: FakeServer) -> None:
    fake.on("GET", "/runs", [])
    done = cli("cancel", "--all", "--url", fake.url)
    assert (done.code, done.out) == (1, "")
    assert one_line(done.err) == "nothing to cancel: no live run fits"


def test_json_is_what_the_server_said(cli: Cli, fake: FakeServer) -> None:
    done = cli("cancel", "bb", "old", "--json", "--url", fake.url)
    assert done.code == 1
    assert json.loads(done.out)["runs"][1] == {"run_id": "old", "status": "COMPLETED", "cancelled": False}
    assert done.err == ""
