"""One part in a process of its own: `python -m benchmarks.one PART LOOP full|quick [peers]`; its figures as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from importlib import import_module

from benchmarks.machine import loop_factory, many_files
from benchmarks.measure import Scale
from benchmarks.peers.environments import peers


def main() -> None:
    name, loop, scale, *rest = sys.argv[1:]
    many_files()
    part = import_module(f"benchmarks.parts.{name}")
    with asyncio.Runner(loop_factory=loop_factory(uvloop=loop == "uvloop")) as runner:
        figures = runner.run(part.measure(Scale(quick=scale == "quick", peers=peers() if rest else {})))
    for figure in figures:
        figure.loop = loop
    print(json.dumps([figure.json() for figure in figures]))


if __name__ == "__main__":
    main()
