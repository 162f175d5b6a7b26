"""One run and many readers."""

from __future__ import annotations

import asyncio
import time

from benchmarks.client import Server, begin, open_stream, request
from benchmarks.provider import Provider
from benchmarks.server.amount import Scale
from benchmarks.server.cancels import PATIENCE
from benchmarks.server.report import REFERENCE, Report
from benchmarks.server.starting import serving


async def fan_out(server: Server, provider: Provider, scale: Scale, report: Report, who: str) -> None:
    """One run and many readers, who are all there before it says anything."""
    fields = {"run_id": "told", "session_id": "told", "background": "true"}
    first = await open_stream(server, begin("agents/teller", server, **fields), b"ModelRequestStarted")
    async with asyncio.timeout(PATIENCE):
        await first.found.wait()
    path = "/agents/teller/runs/told"
    sent = (
        request(server, f"{path}/events", method="GET")
        if who != REFERENCE
        else request(server, f"{path}/resume", {"session_id": "told", "last_event_index": 0})
    )
    readers = [await open_stream(server, sent, rb"event: ") for _ in range(scale.readers)]
    async with asyncio.timeout(PATIENCE):
        for reader in readers:
            await reader.found.wait()
            reader.only_count()
    assert all(reader.ok for reader in readers), readers[0].head
    cpu, began = server.cpu(), time.perf_counter()
    await provider.atell("go")
    async with asyncio.timeout(PATIENCE * 2):
        for reader in readers:
            await reader.ended.wait()
    took = max(reader.ended_at for reader in readers) - began
    frames = sum(reader.frames for reader in readers)
    report.note("fan-out, frames of a reader", who, frames / len(readers))
    report.note("fan-out, deliveries/s", who, frames / took)
    report.note("fan-out, server's processor, us a delivery", who, (server.cpu() - cpu) / frames * 1e6)
    first.close()


async def fan_out_of(who: str, command: list[str], scale: Scale, report: Report) -> None:
    """The part alone, for a loop that already runs."""
    with serving(command, scale)(scale.interval) as (server, asked):
        await fan_out(server, asked, scale, report, who)
