"""What a run costs over HTTP, beside the reference's server that does the same work with the same provider.

    python -m benchmarks.server [--quick] [--alone] [--reference PYTHON] [--part NAME] [--json FILE]

Provider, server and client are processes of their own; nothing but loopback is between them.

- cancel: from the first byte of `POST .../cancel` to the last of the run's stream, and until the provider has no open
  request; a team whose members stream, and one whose members all wait for a first token that never comes;
- crowd: 1,000 runs that each stream to a client, an event a second: events that are delivered, processor time and memory
  of the server, and a cancel meanwhile; then the shortest interval at which a server still delivers what it should;
- fan-out: one run with 100 readers (of ours `GET .../events`, of the reference's `POST .../resume`).

The reference is installed from PyPI into an environment in the user's cache, unless `--reference` names a Python that
has it; `--alone` leaves it out. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from benchmarks.client import Server
from benchmarks.machine import many_files, processor
from benchmarks.peers.environments import python_with
from benchmarks.provider import Provider
from benchmarks.server.amount import QUICK, Scale
from benchmarks.server.cancels import cancels
from benchmarks.server.crowd import crowds
from benchmarks.server.fan_out import fan_out
from benchmarks.server.report import REFERENCE, Report
from benchmarks.server.starting import NEEDED, SERVERS, At, run, serving


def once(part: Callable[[Server, Provider, Scale, Report, str], Coroutine[Any, Any, None]]) -> Part:
    def measure(at: At, scale: Scale, report: Report, who: str) -> None:
        with at(scale.interval) as (server, provider):
            run(part(server, provider, scale, report, who))

    return measure


Part = Callable[[At, Scale, Report, str], None]
PARTS: dict[str, Part] = {"cancel": once(cancels), "crowd": crowds, "fan-out": once(fan_out)}


def measure(who: str, command: list[str], scale: Scale, report: Report, parts: list[str]) -> None:
    at = serving(command, scale)
    for name in parts:
        try:
            PARTS[name](at, scale, report, who)
        except (TimeoutError, AssertionError, OSError) as error:
            print(f"  {who}: {name} did not come to its end: {error!r}", file=sys.stderr)


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
    many_files()
    scale = QUICK if arguments.quick else Scale()
    report = Report()
    parts: list[str] = arguments.part or list(PARTS)
    measure("kern_async", [sys.executable, str(SERVERS / "ours.py")], scale, report, parts)
    if not arguments.alone:
        python = arguments.reference or python_with("server", *NEEDED)
        measure(REFERENCE, [str(python), str(SERVERS / "reference.py")], scale, report, parts)
    about = f"Python {platform.python_version()}, {os.cpu_count()} cores, {processor()}, {scale}"
    print(f"{about}\n\n{report.markdown()}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"about": about, "rows": report.rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
