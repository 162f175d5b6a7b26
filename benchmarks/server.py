"""What a run costs over HTTP, beside the reference's server that does the same work with the same provider.

    python benchmarks/server.py [--quick] [--alone] [--reference PYTHON] [--json FILE]

Provider, server and client are processes of their own; nothing but loopback is between them.

- cancel: from the first byte of `POST .../cancel` to the last of the run's stream, and until the provider has no open
  request; a team whose members stream, and one whose members all wait for a first token that never comes;
- crowd: so many runs that each stream to a client: events that are delivered, processor time and memory of the server,
  and a cancel meanwhile;
- fan-out: one run with 100 readers (of ours `GET .../events`, of the reference's `POST .../resume`).

The reference is installed from PyPI into an environment in the user's cache, unless `--reference` names a Python that
has it; `--alone` leaves it out. Prints Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import psutil

HERE = Path(__file__).parent / "servers"
NEEDED = (
    "agno==3.1.10",
    "aiosqlite",
    "fastapi",
    "httptools",
    "openai",
    "pyjwt",
    "python-multipart",
    "sqlalchemy[asyncio]",
    "uvicorn",
    "uvloop",
)
PATIENCE = 120.0
HELD = 20.0
"""Seconds after which a cancel counts as one that did not end the run."""


@dataclass(frozen=True)
class Scale:
    cancels: int = 100
    streams: int = 1000
    seconds: float = 20.0
    interval: float = 0.25
    under_load: int = 20
    readers: int = 100
    words: int = 5000


QUICK = Scale(cancels=20, streams=200, seconds=5.0, under_load=5, words=1000)


@dataclass
class Server:
    """A server's process, and where it listens."""

    url: str
    process: psutil.Process

    def cpu(self) -> float:
        times = self.process.cpu_times()
        return times.user + times.system


class Stream(asyncio.Protocol):
    """A request whose answer is read as it comes; frames are counted, and looked at only if that is asked for."""

    def __init__(self, request: bytes, wanted: re.Pattern[bytes] | None = None) -> None:
        self.frames = 0
        self.head = b""
        self.ended_at = 0.0
        self.ended = asyncio.Event()
        self.found = asyncio.Event()
        self.match: re.Match[bytes] | None = None
        self._request = request
        self._wanted = wanted
        self._seen = b""
        self._last = b""
        self._transport: Any = None  # uvloop's are none of asyncio's

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.send(self._request)

    def data_received(self, data: bytes) -> None:
        if len(self.head) < 12:
            self.head += data[:12]
        self.frames += (self._last + data).count(b"\n\n")
        self._last = data[-1:]
        if self._wanted is not None:
            self._seen += data
            if self.match is None and (found := self._wanted.search(self._seen)):
                self.match = found
                self.found.set()
        if data.endswith(b"0\r\n\r\n"):
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if not self.ended.is_set():
            self.ended_at = time.perf_counter()
            self.ended.set()
            self.found.set()

    def send(self, request: bytes) -> None:
        self._transport.write(request)

    def only_count(self) -> None:
        """Look at no frame any more."""
        self._wanted, self._seen = None, b""

    @property
    def ok(self) -> bool:
        return self.head == b"HTTP/1.1 200"

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def request(server: Server, path: str, fields: dict[str, Any] | None = None, method: str = "POST") -> bytes:
    """The bytes of a request with a form, after whose answer the connection ends."""
    body = urlencode(fields or {})
    return (
        f"{method} {path} HTTP/1.1\r\nHost: {urlsplit(server.url).netloc}\r\nConnection: close\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


async def open_stream(server: Server, sent: bytes, wanted: bytes | None = None) -> Stream:
    address = urlsplit(server.url)
    pattern = re.compile(wanted, re.DOTALL) if wanted is not None else None
    loop = asyncio.get_running_loop()
    host, port = address.hostname or "", address.port or 0
    _, stream = await loop.create_connection(lambda: Stream(sent, pattern), host, port)
    return stream


def begin(path: str, server: Server, **fields: Any) -> bytes:
    return request(server, f"/{path}/runs", {"message": "Go.", "stream": "true", **fields})


@dataclass
class Provider:
    """The provider's process."""

    url: str
    process: subprocess.Popen[str]

    async def tell(self, word: str) -> str:
        """What it says to a word."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(word, file=self.process.stdin, flush=True)
        line = await asyncio.get_running_loop().run_in_executor(None, self.process.stdout.readline)
        return line.strip()


@dataclass
class Report:
    """Rows of figures, one column for each server."""

    rows: dict[str, dict[str, float | None]] = field(default_factory=dict[str, dict[str, float | None]])

    def note(self, what: str, who: str, value: float | None) -> None:
        self.rows.setdefault(what, {})[who] = value
        print(f"  {who}: {what}: {'-' if value is None else f'{value:,.2f}'}", file=sys.stderr)

    def markdown(self) -> str:
        lines = ["| | kern_async | reference | ratio |", "|---|---:|---:|---:|"]
        for what, values in self.rows.items():
            ours, theirs = values.get("kern_async"), values.get("reference")
            ratio = f"{ours / theirs:.2f}" if ours and theirs else ""
            cells = ["" if value is None else f"{value:,.2f}" for value in (ours, theirs)]
            lines.append(f"| {what} | {cells[0]} | {cells[1]} | {ratio} |")
        return "\n".join(lines)


def spread(report: Report, what: str, who: str, seconds: list[float]) -> None:
    """Median and 95th percentile, in ms."""
    ordered = sorted(seconds)
    report.note(f"{what}, median ms", who, statistics.median(ordered) * 1e3 if ordered else None)
    report.note(
        f"{what}, p95 ms",
        who,
        ordered[min(len(ordered) - 1, len(ordered) * 95 // 100)] * 1e3 if ordered else None,
    )


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
        ("speaking", rb'event: RunContent\n.*"content":"word .*event: RunContent\n.*"content":"word '),
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
                held = await provider.tell("left") == "held"
                left.append(seconds + time.perf_counter() - began)
        report.note(f"cancel, {team} team, ended within {HELD:g} s", who, float(not math.isinf(took[-1])))
        if math.isinf(took[-1]):
            continue
        spread(report, f"cancel, {team} team", who, took[3:])
        if not held:
            spread(report, f"cancel, {team} team, provider left", who, left[3:])
        report.note(f"cancel, {team} team, requests held for 5 s", who, float(held))


async def crowd(server: Server, provider: Provider, scale: Scale, report: Report, who: str) -> None:
    """Many streams, each of a run of its own."""
    gate = asyncio.Semaphore(50)

    async def start(number: int) -> Stream:
        async with gate:
            stream = await open_stream(
                server, begin("agents/crowd", server, run_id=f"crowd-{number}"), b'"content":"word '
            )
            async with asyncio.timeout(PATIENCE):
                await stream.found.wait()
            stream.only_count()
            return stream

    before = server.process.memory_info().rss
    began = time.perf_counter()
    started = await asyncio.gather(*(start(n) for n in range(scale.streams)), return_exceptions=True)
    streams = [each for each in started if isinstance(each, Stream) and each.ok and not each.ended.is_set()]
    report.note("crowd, streams", who, len(streams))
    report.note("crowd, all begun after s", who, time.perf_counter() - began)
    frames, cpu, at = sum(s.frames for s in streams), server.cpu(), time.perf_counter()
    await asyncio.sleep(scale.seconds)
    delivered, used = sum(s.frames for s in streams) - frames, server.cpu() - cpu
    seconds = time.perf_counter() - at
    report.note("crowd, events offered/s", who, len(streams) / scale.interval)
    report.note("crowd, events delivered/s", who, delivered / seconds)
    report.note("crowd, server's processor, % of a core", who, used / seconds * 100)
    report.note("crowd, server's processor, us an event", who, used / max(1, delivered) * 1e6)
    report.note(
        "crowd, memory of a stream, KiB",
        who,
        (server.process.memory_info().rss - before) / len(streams) / 1024,
    )
    took = [
        (await one_cancel(server, "agents/crowd", f"extra-{n}", b'"content":"word '))[0]
        for n in range(scale.under_load)
    ]
    spread(report, "crowd, cancel meanwhile", who, took)
    report.note("crowd, streams that ended by themselves", who, sum(s.ended.is_set() for s in streams))
    for stream in streams:
        stream.close()
    await provider.tell("left")


async def fan_out(server: Server, provider: Provider, scale: Scale, report: Report, who: str) -> None:
    """One run and many readers, who are all there before it says anything."""
    fields = {"run_id": "told", "session_id": "told", "background": "true"}
    ours = who == "kern_async"
    first = await open_stream(server, begin("agents/teller", server, **fields), b"ModelRequestStarted")
    async with asyncio.timeout(PATIENCE):
        await first.found.wait()
    path = "/agents/teller/runs/told"
    sent = (
        request(server, f"{path}/events", method="GET")
        if ours
        else request(server, f"{path}/resume", {"session_id": "told", "last_event_index": 0})
    )
    readers = [await open_stream(server, sent, rb"event: ") for _ in range(scale.readers)]
    async with asyncio.timeout(PATIENCE):
        for reader in readers:
            await reader.found.wait()
            reader.only_count()
    assert all(reader.ok for reader in readers), readers[0].head
    cpu, began = server.cpu(), time.perf_counter()
    await provider.tell("go")
    async with asyncio.timeout(PATIENCE * 2):
        for reader in readers:
            await reader.ended.wait()
    took = max(reader.ended_at for reader in readers) - began
    frames = sum(reader.frames for reader in readers)
    report.note("fan-out, frames of a reader", who, frames / len(readers))
    report.note("fan-out, deliveries/s", who, frames / took)
    report.note("fan-out, server's processor, us a delivery", who, (server.cpu() - cpu) / frames * 1e6)
    first.close()


@contextlib.contextmanager
def process(
    command: list[str], environment: dict[str, str] | None = None
) -> Generator[tuple[str, subprocess.Popen[str]]]:
    """A child, and the URL that it says it has."""
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **(environment or {})},
    ) as child:
        try:
            assert child.stdout is not None
            url = next((line.strip() for line in child.stdout if line.startswith("http")), None)
            assert url is not None, command
            yield url, child
        finally:
            child.kill()


PARTS: dict[str, Callable[[Server, Provider, Scale, Report, str], Any]] = {
    "cancel": cancels,
    "crowd": crowd,
    "fan-out": fan_out,
}


def measure(who: str, command: list[str], scale: Scale, report: Report, parts: list[str]) -> None:
    for name in parts:
        with (
            tempfile.TemporaryDirectory() as directory,
            process([sys.executable, str(HERE / "provider.py")]) as (base_url, provider),
            process(
                [*command, base_url, directory, str(scale.interval), str(scale.words)],
                {"AGNO_TELEMETRY": "false"},
            ) as (url, child),
        ):
            server = Server(url, psutil.Process(child.pid))
            try:
                asyncio.run(PARTS[name](server, Provider(base_url, provider), scale, report, who))
            except (TimeoutError, AssertionError, OSError) as error:
                print(f"  {who}: {name} did not come to its end: {error!r}", file=sys.stderr)


def reference_python() -> Path:
    """The Python of an environment with the reference in it, which is made once and kept."""
    mark = hashlib.sha256(" ".join((*NEEDED, sys.version)).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kern_async"
    kept = cache / f"benchmark-{mark}"
    if not kept.exists():
        cache.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=cache))
        subprocess.run([sys.executable, "-m", "venv", str(new)], check=True)
        subprocess.run([new / "bin/python", "-m", "pip", "install", "--quiet", *NEEDED], check=True)
        new.rename(kept)
    return kept / "bin/python"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="under a minute: less of everything")
    parser.add_argument("--alone", action="store_true", help="without the reference")
    parser.add_argument("--reference", type=Path, metavar="PYTHON", help="a Python that has the reference")
    parser.add_argument("--part", action="append", choices=list(PARTS), help="only this one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    arguments = parser.parse_args()
    scale = QUICK if arguments.quick else Scale()
    report = Report()
    parts: list[str] = arguments.part or list(PARTS)
    measure("kern_async", [sys.executable, str(HERE / "ours.py")], scale, report, parts)
    if not arguments.alone:
        python = arguments.reference or reference_python()
        measure("reference", [str(python), str(HERE / "reference.py")], scale, report, parts)
    about = f"Python {platform.python_version()}, {os.cpu_count()} cores, {scale}"
    print(f"{about}\n\n{report.markdown()}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"about": about, "rows": report.rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
