"""The machine and the interpreter that a figure is of."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import resource
from collections.abc import Callable
from importlib import metadata
from pathlib import Path


def loop_factory(*, uvloop: bool = True) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, if it is wanted and installed."""
    if uvloop:
        with contextlib.suppress(ImportError):
            from uvloop import new_event_loop

            return new_event_loop
    return None


def loop_name() -> str:
    """Of the running loop: asyncio or uvloop."""
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


def many_files() -> int:
    """Allow as many open files, and so connections, as the system lets; how many these are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions(*names: str) -> dict[str, str]:
    """Of the installed packages among these."""
    found: dict[str, str] = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def about() -> dict[str, str]:
    """What stands above every table."""
    names = (
        "openai",
        "httpx2",
        "anyio",
        "pydantic",
        "structlog",
        "uvloop",
        "aiohttp",
        "uvicorn",
        "aiosqlite",
    )
    return {
        "machine": f"{os.cpu_count()} cores, {processor()}",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        **versions("kern-async", *names),
    }
