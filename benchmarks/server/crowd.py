"""A thousand runs that each stream to a client, and the highest rate at which a server still does that."""

from __future__ import annotations

import asyncio
import math
import sys
import time
from dataclasses import dataclass

from benchmarks.client import Server, Stream, begin, open_stream
from benchmarks.provider import Provider
from benchmarks.server.amount import Scale
from benchmarks.server.cancels import PATIENCE, one_cancel
from benchmarks.server.report import Report, spread
from benchmarks.server.starting import At, run

KEPT_UP = 0.95
"""Of the events that are due, those that a server delivers if it holds the rate. Also, each cancel must end its run."""


@dataclass
class Crowd:
    """What was seen of many streams at one interval."""

    streams: int
    begun_after: float
    asked: float
    delivered: float
    cpu: float
    provider: float
    memory: float
    cancels: list[float]
    ended: int

    @property
    def held(self) -> bool:
        late = not self.cancels or max(self.cancels) == math.inf
        return self.delivered >= KEPT_UP * self.asked and not self.ended and not late


async def crowd(server: Server, provider: Provider, scale: Scale, interval: float) -> Crowd:
    """Many streams, each of a run of its own."""
    gate = asyncio.Semaphore(50)

    async def start(number: int) -> Stream:
        async with gate:
            sent = begin("agents/crowd", server, run_id=f"crowd-{number}")
            stream = await open_stream(server, sent, b'"content":"w')
            async with asyncio.timeout(PATIENCE):
                await stream.found.wait()
            stream.only_count()
            return stream

    before = server.process.memory_info().rss
    began = time.perf_counter()
    started = await asyncio.gather(*(start(n) for n in range(scale.streams)), return_exceptions=True)
    streams = [each for each in started if isinstance(each, Stream) and each.ok and not each.ended.is_set()]
    begun_after = time.perf_counter() - began
    await asyncio.sleep(scale.settle)
    told = await provider.atell("state")
    frames, cpu, at = sum(s.frames for s in streams), server.cpu(), time.perf_counter()
    await asyncio.sleep(scale.seconds)
    delivered, used = sum(s.frames for s in streams) - frames, server.cpu() - cpu
    seconds = time.perf_counter() - at
    busy = (await provider.atell("state"))["cpu"] - told["cpu"]
    memory = server.process.memory_info().rss - before
    took: list[float] = []
    while len(took) < scale.under_load and not (took and math.isinf(took[-1])):
        run_id = f"extra-{len(took)}"
        try:
            took.append((await one_cancel(server, "agents/crowd", run_id, b'"content":"w'))[0])
        except (TimeoutError, AssertionError):  # it did not even begin
            took.append(math.inf)
    ended = sum(s.ended.is_set() for s in streams)
    for stream in streams:
        stream.close()
    return Crowd(
        streams=len(streams),
        begun_after=begun_after,
        asked=scale.streams / interval,
        delivered=delivered / seconds,
        cpu=used / seconds,
        provider=busy / seconds,
        memory=memory / max(1, len(streams)),
        cancels=took,
        ended=ended,
    )


def crowds(at: At, scale: Scale, report: Report, who: str) -> None:
    """The agreed interval, and on from there: shorter ones while they are held, or longer ones until one is."""
    holds: Crowd | None = None
    interval, shorter = scale.interval, True
    while 0.05 < interval < 10:
        with at(interval) as (server, provider):
            found = run(crowd(server, provider, scale, interval))
        print(f"  {who}: {interval:g} s: {found}", file=sys.stderr)
        if interval == scale.interval:
            note_crowd(report, who, found)
            shorter = found.held
        if found.held:
            holds = found
        if found.held is not shorter:
            break
        interval *= 0.5 if shorter else 2
    report.note("crowd, most events/s held", who, holds and holds.asked)
    report.note(
        "crowd, there, server's processor, us an event", who, holds and holds.cpu / holds.delivered * 1e6
    )
    if holds:
        spread(report, "crowd, there, cancel meanwhile", who, holds.cancels)


def note_crowd(report: Report, who: str, found: Crowd) -> None:
    for what, value in {
        "streams": found.streams,
        "all begun after s": found.begun_after,
        "events asked for/s": found.asked,
        "events delivered/s": found.delivered,
        "server's processor, % of a core": found.cpu * 100,
        "server's processor, us an event": found.cpu / max(1, found.delivered) * 1e6,
        "provider's processor, % of a core": found.provider * 100,
        "memory of a stream, KiB": found.memory / 1024,
        "streams that ended by themselves": found.ended,
    }.items():
        report.note(f"crowd, {what}", who, value)
    spread(report, "crowd, cancel meanwhile", who, found.cancels)
