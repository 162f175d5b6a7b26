"""The command as a whole: help, wrong usage, a missing extra, a reader that leaves."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kern_async.testing import Forever, ProviderServer

from ..as_a_user import environment
from .conftest import Cli, Started, one_line

COMMANDS = ("serve", "run", "ps", "watch", "cancel", "sessions", "demo")


def test_help_names_every_command_and_exit_code(cli: Cli) -> None:
    done = cli("--help")
    assert done.code == 0
    for word in (*COMMANDS, "Exit codes", "130"):
        assert word in done.out


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(cli: Cli, command: str) -> None:
    done = cli(command, "--help")
    assert done.code == 0
    assert f"kern-async {command}" in done.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["stop"], "No such command 'stop'"),
        (["run", "--now"], "No such option: --now"),
        (["run"], "Missing argument"),
        (["serve", "play:solo", "--port", "70000"], "'--port'"),
        (["cancel", "x", "--mode", "later"], "later"),
        (["cancel"], "which runs?"),
        (["cancel", "x", "--all"], "not two of them"),
        (["cancel", "--all", "--team", "t"], "not two of them"),
        (["sessions", "show"], "Give one id"),
        (["sessions", "delete"], "Give its id"),
        (["sessions", "list", "x"], "takes no id"),
        (["sessions", "burn"], "burn"),
    ],
)
def test_wrong_usage_is_one_line_and_2(cli: Cli, arguments: list[str], said: str) -> None:
    done = cli(*arguments)
    assert (done.code, done.out) == (2, "")
    assert said in one_line(done.err)


@pytest.mark.parametrize("missing", ["typer", "rich", "uvicorn"])
def test_without_the_extra_it_says_what_to_install(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == missing else found(name, *rest)
    )
    done = cli("--help")
    assert (done.code, done.out) == (2, "")
    assert one_line(done.err) == f"kern-async: {missing} is not installed: pip install 'kern-async[server]'"


def test_the_command_itself_needs_nothing_heavy() -> None:
    code = "import sys, kern_async.cli; print([m for m in ('typer', 'rich', 'pydantic', 'openai') if m in sys.modules])"
    shown = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert shown.stdout == "[]\n"


def test_it_is_installed_as_a_command() -> None:
    command = Path(sys.executable).with_name("kern-async")
    if not command.exists():
        pytest.skip("the package is not installed here")
    shown = subprocess.run(
        [command, "--version"], env=environment(), capture_output=True, text=True, check=True
    )
    assert shown.stdout.startswith("kern-async ")


def test_a_reader_that_leaves_ends_the_run_quietly(
    start: Callable[..., Started], provider: ProviderServer
) -> None:
    provider.default = Forever("word\n", 0.001)
    started = start("run", "play:solo", "Go.")
    started.line("word")
    assert started.process.stdout is not None
    started.process.stdout.close()
    assert started.process.stderr is not None
    assert started.process.stderr.read() == ""
    assert started.process.wait(20) == 141
    provider.wait_until(lambda: provider.open_requests == 0)


def test_an_output_that_is_not_unicode_gets_question_marks(
    start: Callable[..., Started], provider: ProviderServer
) -> None:
    from kern_async.testing import Text

    provider.default = Text("caf\u00e9")
    done = start("run", "play:solo", "Go.", "--json", PYTHONIOENCODING="ascii").end()
    assert done.code == 0
    assert "caf?" in done.out


def test_it_runs_as_a_module() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "kern_async", "--version"],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        cwd=os.sep,
    )
    assert shown.stdout.startswith("kern-async ")
