"""Prints, at the end of the session, how quickly the provider saw its connections close."""

from __future__ import annotations

from collections import defaultdict
from statistics import median
from typing import Any

MEASURED = ("cancel to disconnect", "cancel to settled")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    measured: dict[str, list[float]] = defaultdict(list)
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name in MEASURED:
                measured[name].append(value)
    for name, values in measured.items():
        terminalreporter.write_line(
            f"{name}: median {median(values) * 1000:.2f} ms, worst {max(values) * 1000:.2f} ms of {len(values)}"
        )
