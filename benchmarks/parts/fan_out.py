"""A hundred readers of one run, each over SSE through uvicorn; a server in a process of its own."""

from __future__ import annotations

import sys

from benchmarks.figures import Figure
from benchmarks.measure import Scale
from benchmarks.peers.environments import python_with
from benchmarks.server.amount import QUICK
from benchmarks.server.amount import Scale as Amount
from benchmarks.server.fan_out import fan_out_of
from benchmarks.server.report import Report
from benchmarks.server.starting import NEEDED, SERVERS

LOOPS = ("uvloop",)  # the server's own choice


async def measure(scale: Scale) -> list[Figure]:
    amount = QUICK if scale.quick else Amount()
    report = Report()
    commands = {"ours": [sys.executable, str(SERVERS / "ours.py")]}
    if scale.peers:
        python = python_with("server", *NEEDED)
        commands["agno"] = [str(python), str(SERVERS / "reference.py")]
    for who, command in commands.items():
        await fan_out_of(who, command, amount, report)
    rate, cost = (
        report.rows[f"fan-out, {what}"] for what in ("deliveries/s", "server's processor, us a delivery")
    )
    return [
        Figure(
            part="fan_out",
            what=f"{amount.readers} readers of one run over SSE",
            unit="deliveries/s",
            ours=rate["ours"] or 0.0,
            goal=40_000,
            at_least=True,
            peers={who: value or "none" for who, value in rate.items() if who != "ours"},
        ),
        Figure(
            part="fan_out",
            what="the server's CPU of a delivery",
            unit="us",
            ours=cost["ours"] or 0.0,
            peers={who: value or "none" for who, value in cost.items() if who != "ours"},
        ),
    ]
