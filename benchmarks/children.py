"""Start a case of a system in a fresh process; see `child.py`."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

from benchmarks.provider import ROOT, Provider

QUIET = {"AGNO_TELEMETRY": "false", "LANGSMITH_TRACING": "false", "OPENAI_AGENTS_DISABLE_TRACING": "1"}


@contextlib.contextmanager
def child(
    system: str, asked: Provider, *case: object, loop: str = "asyncio", python: Path | None = None
) -> Generator[subprocess.Popen[str]]:
    """The process; it is killed at the end if it still is there."""
    command = [
        str(python or sys.executable),
        "-m",
        "benchmarks.child",
        system,
        loop,
        asked.url,
        *map(str, case),
    ]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # A peer has a line in its log for each of a thousand streams that fail.
        stderr=subprocess.DEVNULL if python else None,
        text=True,
        env={**os.environ, **QUIET},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def case(
    system: str, asked: Provider, *case: object, loop: str = "asyncio", python: Path | None = None
) -> dict[str, Any]:
    """What it found.

    Raises:
        RuntimeError: it failed, and has said why.
    """
    with child(system, asked, *case, loop=loop, python=python) as process:
        return answer(process)


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line that it says."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            return json.loads(line)
    raise RuntimeError(f"{process.args} said nothing")
