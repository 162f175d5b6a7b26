"""Ctrl-C on a run of this process: the first one stops it and shows what was kept, the second one leaves."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kern_async.testing import Forever, Hang, ProviderServer, ToolCall

from .conftest import Started
from .terminal import CTRL_C, Terminal

pytestmark = pytest.mark.slow

STUBBORN = """
import asyncio
from kern_async import Agent
from kern_async.models.openai import OpenAIResponses

async def hold() -> str:
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

solo = Agent(name="Solo", model=OpenAIResponses("model"), tools=[hold], cancel_grace=30)
"""


def test_ctrl_c_stops_a_team_and_shows_what_each_had_said(stage: Path, provider: ProviderServer) -> None:
    provider.default = Forever("word ", 0.005)
    with Terminal(stage, "run", "play:storytelling_team", "Tell.", columns=80) as terminal:
        terminal.until(r"Ctrl-C cancels the run")
        terminal.until(r"word word.*│ │ word word")  # side by side
        terminal.press(CTRL_C)
        assert terminal.end() == 130
    left = terminal.left
    assert re.search(r"StorytellerAgent cancelled ─+╮ ╭─ EditorAgent cancelled", left), left
    assert "word word" in left
    assert "cancelled by parent" in left
    assert re.search(r"Storytelling Team cancelled[\s\S]*cancelled by request: Ctrl-C", left), left
    assert re.search(r"run [0-9a-f]{32}, session [0-9a-f]{32}", left), left
    assert "Ctrl-C cancels the run" not in left
    assert terminal.raw.rindex("\x1b[?25h") > terminal.raw.rindex("\x1b[?25l"), "the cursor is back"
    provider.wait_until(lambda: provider.open_requests == 0)


def test_ctrl_c_reaches_a_model_that_never_answers(stage: Path, provider: ProviderServer) -> None:
    provider.default = Hang()
    with Terminal(stage, "run", "play:solo", "Tell.") as terminal:
        terminal.until("waiting for its model")
        provider.wait_for_request()
        began = time.monotonic()
        terminal.press(CTRL_C)
        assert terminal.end() == 130
        assert time.monotonic() - began < 5
    assert "kept no text" in terminal.left
    provider.wait_until(lambda: provider.open_requests == 0)


def test_a_second_ctrl_c_leaves_at_once(stage: Path, provider: ProviderServer) -> None:
    (stage / "stubborn.py").write_text(STUBBORN)
    provider.default = ToolCall("hold", {})
    with Terminal(stage, "run", "stubborn:solo", "Hold.") as terminal:
        terminal.until("tool hold started")
        terminal.press(CTRL_C)
        terminal.until("cancelling; Ctrl-C again leaves at once")
        began = time.monotonic()
        terminal.press(CTRL_C)
        assert terminal.end() == 130
        assert time.monotonic() - began < 5, "it did not wait for the tool"
    assert terminal.raw.rindex("\x1b[?25h") > terminal.raw.rindex("\x1b[?25l"), "the cursor is back"


def test_ctrl_c_while_the_module_is_imported_ends_without_a_word(stage: Path) -> None:
    (stage / "slow.py").write_text("import sys, time\nsys.stderr.write('begun\\n')\ntime.sleep(60)\n")
    with Terminal(stage, "run", "slow:solo", "Go.") as terminal:
        terminal.until("begun")
        terminal.press(CTRL_C)
        assert terminal.end() == 130
    assert terminal.text.split() in (["begun", "^C"], ["begun"], ["^Cbegun"], ["begun", "^C^C"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_of_a_script_with_its_events_complete(
    start: Callable[..., Started], provider: ProviderServer, number: signal.Signals
) -> None:
    provider.default = Forever("word ", 0.005)
    started = start("run", "play:storytelling_team", "Tell.", "--json")
    started.line('"RunContent"')
    started.process.send_signal(number)
    done = started.end()
    assert (done.code, done.err) == (130, "")
    last = json.loads(done.out.splitlines()[-1])
    assert (last["event"], last["status"], last["cancelled_by"]) == (
        "TeamRunCancelled",
        "CANCELLED",
        "request",
    )
    provider.wait_until(lambda: provider.open_requests == 0)


def test_what_is_piped_has_no_colours_and_says_how_it_ended(
    start: Callable[..., Started], provider: ProviderServer
) -> None:
    provider.default = Forever("word ", 0.005)
    started = start("run", "play:solo", "Tell.")
    provider.wait_until(lambda: any(request.streamed for request in provider.requests), 20)
    started.process.send_signal(signal.SIGINT)
    done = started.end()
    assert (done.code, done.err) == (130, "")
    assert "\x1b" not in done.out
    assert "(cancelled by request: Ctrl-C; kept" in done.out


def test_no_color_takes_the_colours_from_a_terminal(stage: Path, provider: ProviderServer) -> None:
    with Terminal(stage, "run", "play:solo", "Tell.", NO_COLOR="1") as terminal:
        assert terminal.end() == 0
    assert "Hello" in terminal.left
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", terminal.raw)
