"""What the README and the documents say is so: their code runs and type-checks, what they name exists."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from kern_async.testing import Forever, ProviderServer, Reply, Text, ToolCall

from .as_a_user import environment

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@dataclass(frozen=True)
class Block:
    """A piece of Python in a page."""

    page: str
    number: int
    source: str

    def __str__(self) -> str:
        return f"{self.page}-{self.number}"


def blocks() -> list[Block]:
    found: list[Block] = []
    for page in PAGES:
        sources = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
        found += [Block(page.name, number, source) for number, source in enumerate(sources, 1)]
    return found


BLOCKS = blocks()

WHO_CAN_CANCEL = {
    "anybody with the run's id": [
        "test_cancel_ends_the_run_wherever_it_is",
        "test_cancel_from_another_thread_ends_a_run_of_the_sync_facade",
        "test_a_tool_or_hook_cancels_its_own_run_of_the_sync_facade",
    ],
    "the same, gently": [
        "test_after_tools_lets_the_running_tool_finish_and_asks_nothing_more",
        "test_after_turn_lets_the_answer_come_to_its_end",
        "test_a_later_cancel_may_make_it_sooner",
    ],
    "the same, for one member": ["test_a_cancelled_member_ends_alone_and_the_leader_is_told"],
    "the same, for one tool call": [
        "test_the_call_ends_the_model_is_told_and_the_run_goes_on",
        "test_a_call_that_delegates_ends_its_members_run",
        "test_it_may_be_ended_from_anywhere",
    ],
    "the same, for a run that waits for a person": [
        "test_a_paused_run_ends_cancelled_at_once",
        "test_a_paused_team_ends_with_its_members_first",
    ],
    "a deadline": ["test_deadline"],
    "a limit": [
        "test_model_requests_are_counted_and_the_next_is_not_begun",
        "test_tool_calls_are_counted_over_the_tree",
        "test_a_runaway_team_stops_before_the_request_after_its_tokens_are_used",
        "test_member_runs_past_the_limit_are_not_begun",
    ],
    "asyncio, anyio, trio": [
        "test_a_cancelled_task_ends_its_run",
        "test_asyncio_timeout_ends_the_run_and_times_out",
        "test_fail_after_ends_the_run_and_times_out",
        "test_a_failing_sibling_ends_the_run",
    ],
    "who reads a stream": [
        "test_a_break_inside_its_block_ends_the_run",
        "test_aclose_from_another_task_gives_the_waiting_reader_the_terminal_event",
        "test_a_sync_consumer_that_leaves_ends_its_run",
        "test_a_dropped_stream_ends_its_run",
    ],
    "Ctrl-C while a script waits for a run": ["test_ctrl_c_ends_the_run_and_the_process_as_usual"],
    "the end of the event loop or the interpreter": [
        "test_a_streamed_run_ends_with_its_loop",
        "test_a_process_settles_its_live_run_before_it_ends",
    ],
}
"""The rows of the README's table, and the tests that make them true."""


def run(block: Block, provider: ProviderServer, directory: Path, *, seconds: float | None = None) -> str:
    """What the block prints, as a script; `seconds` takes the place of its delay."""
    source = block.source if seconds is None else block.source.replace("Timer(8,", f"Timer({seconds},")
    file = directory / f"test_{block.page.removesuffix('.md')}_{block.number}.py"
    file.write_text(source)
    tests = "def test_" in source and "\nanyio.run(" not in source
    how = ["-m", "pytest", "-q", "-p", "no:cacheprovider"] if tests else ["-W", "error"]
    if ".serve(" in source:  # as a module: a script would serve for ever
        how = ["-W", "error", "-c", "import runpy, sys; runpy.run_path(sys.argv[1])"]
    done = subprocess.run(
        [sys.executable, "-X", "dev", *how, file],
        cwd=directory,
        env=environment(OPENAI_BASE_URL=provider.base_url, OPENAI_API_KEY="test"),
        capture_output=True,
        text=True,
        check=False,
        timeout=40,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    complaints = [line for line in done.stderr.splitlines() if not line.startswith("Executing <")]
    assert not complaints
    provider.wait_until(lambda: provider.open_requests == 0, timeout=1)
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_each_piece_of_code_runs(block: Block, provider: ProviderServer, tmp_path: Path) -> None:
    replies: list[Reply] = [Text("A short answer."), Text(["word "] * 400)]
    if "cancel_run(" in block.source and "Timer" not in block.source:
        replies = [Forever("word ", 0.002)]  # the page on cancelling reads a story that has no end
    for reply in replies:
        provider.default = reply
        run(block, provider, tmp_path)
        if not provider.requests:
            break  # to a piece that asks nobody all replies are the same


def first_of_the_readme() -> Block:
    return BLOCKS[0]


@pytest.mark.slow
def test_the_readmes_first_example_is_cancelled(provider: ProviderServer, tmp_path: Path) -> None:
    provider.default = Forever("word ", 0.002)
    shown = run(first_of_the_readme(), provider, tmp_path, seconds=0.5)
    assert "CANCELLED request" in shown


@pytest.mark.slow
def test_the_readmes_first_example_left_alone_completes(provider: ProviderServer, tmp_path: Path) -> None:
    provider.default = Text("The end.")
    assert "COMPLETED None" in run(first_of_the_readme(), provider, tmp_path)


@pytest.mark.slow
def test_the_readmes_clerk_pays_when_it_may(provider: ProviderServer, tmp_path: Path) -> None:
    (block,) = (
        block for block in BLOCKS if "requirement.confirm()" in block.source and block.page == "README.md"
    )
    provider.reply(ToolCall("delegate_task_to_member", {"member_id": "clerk", "task": "Pay Ann."}))
    provider.reply(ToolCall("pay", {"amount": 20, "to": "Ann"}))
    provider.reply(Text("I have paid."), when=lambda request: "paid 20.0 euros to Ann" in request.last_text)
    provider.reply(Text("All is paid."), when=lambda request: "I have paid." in request.last_text)
    shown = run(block, provider, tmp_path)
    assert shown == "Clerk: pay {'amount': 20.0, 'to': 'Ann'}\nCOMPLETED All is paid.\n"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("pyright") is None, reason="needs scripts/setup quality")
@pytest.mark.timeout(180)
def test_all_pieces_of_code_type_check(tmp_path: Path) -> None:
    for block in BLOCKS:
        (tmp_path / f"{block.page.removesuffix('.md')}_{block.number}.py").write_text(
            "# pyright: strict\n" + block.source
        )
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def names_of_tests() -> set[str]:
    """The names of all tests there are."""
    files = (ROOT / "tests").rglob("*.py")
    return {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text())}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_a_page_names_exist(page: Path) -> None:
    assert set(re.findall(r"`(test_\w+)`", page.read_text())) <= names_of_tests()


def test_each_row_of_who_can_cancel_has_its_tests() -> None:
    readme = (ROOT / "README.md").read_text()
    table = readme.split("## Who can cancel what")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([^|:]+?)(?::[^|]*)? \|", table, re.MULTILINE)[1:]
    assert rows == list(WHO_CAN_CANCEL)
    assert {test for named in WHO_CAN_CANCEL.values() for test in named} <= names_of_tests()


def test_files_that_the_design_names_exist_and_it_names_all_of_the_engine_the_databases_and_the_server() -> (
    None
):
    package = ROOT / "kern_async"
    named = set(re.findall(r"`(\w+\.py)`", (ROOT / "docs" / "design.md").read_text()))
    for name in named:
        assert any((package / room / name).exists() for room in ("engine", "tools", "db", "os", "")), name
    for room in ("engine", "db", "os"):
        assert {file.name for file in (package / room).glob("*.py")} - {"__init__.py"} <= named


def test_the_scripts_of_the_readme_exist() -> None:
    for script in re.findall(r"\bscripts/(\w+)", (ROOT / "README.md").read_text()):
        assert os.access(ROOT / "scripts" / script, os.X_OK), script
