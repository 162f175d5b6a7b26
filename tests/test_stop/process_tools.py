"""Tools of worker processes, in a module of their own that a worker imports quickly."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from kern_async import RunContext, tool

HALF = "half way"


@tool(name="work", isolation="process")
def endless(context: RunContext) -> int:
    """Compute for ever, in C code."""
    context.report(f"{HALF} {os.getpid()}")
    return sum(itertools.repeat(0))


@tool(name="work", isolation="process", timeout=1)
def endless_with_timeout(context: RunContext) -> int:
    """The same, with a timeout of its own."""
    context.report(f"{HALF} {os.getpid()}")
    return sum(itertools.repeat(0))


@tool(name="work", isolation="process")
def patient(context: RunContext) -> str:
    """Wait in another process for what lets it finish."""
    context.report(f"{HALF} {os.getpid()}")
    with Path(context.dependencies["release"]).open() as fifo:
        fifo.readline()
    return "done"


@tool(name="work", isolation="process")
def nothing() -> None:
    """Have a worker that has imported this module."""
