"""A run that is cancelled over HTTP, until its stream has ended and until the provider has no open request."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time

from benchmarks.client import Server, Stream, begin, open_stream, request
from benchmarks.provider import Provider
from benchmarks.server.amount import Scale
from benchmarks.server.report import Report, spread

PATIENCE = 60.0
HELD = 20.0
"""Seconds after which a cancel counts as one that did not end the run."""


async def one_cancel(server: Server, path: str, run_id: str, ready: bytes) -> tuple[float, Stream]:
    """Start a run, wait until it has said what is `ready`, and cancel it; seconds until its stream has ended."""
    stream = await open_stream(server, begin(path, server, run_id=run_id), ready)
    async with asyncio.timeout(PATIENCE):
        await stream.found.wait()
        assert stream.match is not None, (stream.head, path)
        cancel = await open_stream(server, b"")  # the connection is there before the clock runs
        began = time.perf_counter()
        cancel.send(request(server, f"/{path}/runs/{run_id}/cancel"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HELD):
                await stream.ended.wait()
        took = stream.ended_at - began if stream.ended.is_set() else math.inf
        await cancel.ended.wait()
        assert cancel.ok, cancel.head
    stream.close()
    return took, stream


async def cancels(server: Server, provider: Provider, scale: Scale, report: Report, who: str) -> None:
    for team, ready in (
        ("speaking", rb'event: RunContent\n.*"content":"w.*event: RunContent\n.*"content":"w'),
        ("waiting", rb"event: ModelRequestStarted\n.*event: ModelRequestStarted\n"),
    ):
        took: list[float] = []
        left: list[float] = []
        held = False
        for number in range(scale.cancels + 3):
            seconds, _ = await one_cancel(server, f"teams/{team}", f"{team}-{number}", ready)
            took.append(seconds)
            if math.isinf(seconds):
                break
            if not held:
                began = time.perf_counter()
                held = (await provider.atell("idle 5"))["open"] > 0
                left.append(seconds + time.perf_counter() - began)
        report.note(f"cancel, {team} team, ended within {HELD:g} s", who, float(not math.isinf(took[-1])))
        if math.isinf(took[-1]):
            continue
        spread(report, f"cancel, {team} team", who, took[3:])
        if not held:
            spread(report, f"cancel, {team} team, provider left", who, left[3:])
        report.note(f"cancel, {team} team, requests held for 5 s", who, float(held))
