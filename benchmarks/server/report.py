"""Rows of figures, one column for each server."""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass, field

REFERENCE = "agno"


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
            ours, theirs = values.get("kern_async"), values.get(REFERENCE)
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
