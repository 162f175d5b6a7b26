"""The exit codes, as the document tells them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kern_async.cli.exits import Exit, exit_of
from kern_async.run.base import RunStatus

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()


def test_the_document_has_a_row_for_each_exit_code() -> None:
    _, _, table = PAGE.partition("| exit code |")
    assert re.findall(r"^\| (\d+) \|", table, re.MULTILINE) == [str(code.value) for code in Exit]


@pytest.mark.parametrize(
    "status", [RunStatus.completed, RunStatus.error, RunStatus.paused, RunStatus.cancelled]
)
def test_the_row_of_an_end_names_it(status: RunStatus) -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| {exit_of(status.value).value} |"))
    assert status.value in row


def test_a_run_whose_end_nobody_knows_is_no_success() -> None:
    assert exit_of(None) is Exit.refused
