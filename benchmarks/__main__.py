"""What everything costs, beside the bare thing, the least that we know, and the peers.

    python -m benchmarks [--quick] [--peers] [--part NAME ...] [--json FILE] [--markdown FILE] [--svg FILE]

Each part runs in a process of its own, ours and what stands beside it in turn in that same process; where one would
change the other (imports, memory, a thousand streams) each has a fresh one. The provider is another process on loopback.
CPU is the process's own time, so that a busy machine changes little; ratios are what to look at.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

from benchmarks import machine
from benchmarks.chart import chart
from benchmarks.figures import Figure
from benchmarks.peers.environments import versions
from benchmarks.provider import ROOT
from benchmarks.tables import line, markdown

PARTS = (
    "deltas",
    "one_token",
    "streams",
    "cancel",
    "cancel_many",
    "team_cancel",
    "made",
    "imports",
    "facade",
    "fan_out",
    "store",
    "length",
    "peer_costs",
)


def measure(part: str, loop: str, *, quick: bool, peers: bool) -> list[Figure]:
    """The figures of a part; none if it failed, and then it has said why."""
    command = [sys.executable, "-m", "benchmarks.one", part, loop, "quick" if quick else "full"]
    command += ["peers"] if peers else []
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    return (
        [Figure.of(data) for data in json.loads(done.stdout.splitlines()[-1])] if done.returncode == 0 else []
    )


def write(arguments: argparse.Namespace, about: dict[str, str], figures: list[Figure], load: float) -> None:
    """What was found so far: a run that is interrupted has not been for nothing."""
    if arguments.json is not None:
        data = {"about": about, "figures": [figure.json() for figure in figures]}
        arguments.json.write_text(json.dumps(data, indent=1) + "\n")
    if arguments.markdown is not None:
        said = " --quick" * arguments.quick + " --peers" * arguments.peers
        said += "".join(f" --part {part}" for part in arguments.part or ())
        arguments.markdown.write_text(markdown(about, figures, said, load))
    if arguments.svg is not None and any(figure.points for figure in figures):
        arguments.svg.write_text(chart(figures))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two minutes: less of everything")
    parser.add_argument(
        "--peers", action="store_true", help="also the peers; installs them into the cache once"
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="only this one; may be given again")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there, too")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw cost against length")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    figures: list[Figure] = []
    failed: list[str] = []
    about = {**machine.about(), **(versions() if arguments.peers else {})}
    print(", ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    for part in arguments.part or [part for part in PARTS if arguments.peers or part != "peer_costs"]:
        loops: tuple[str, ...] = import_module(f"benchmarks.parts.{part}").LOOPS
        for loop in loops[:1] if arguments.quick else loops:
            began = time.monotonic()
            found = measure(part, loop, quick=arguments.quick, peers=arguments.peers)
            for figure in found:
                print(line(figure), flush=True)
            print(f"  {part}, {loop}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
            figures += found
            write(arguments, about, figures, load)
            if not found:
                failed.append(f"{part} ({loop})")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
