"""A figure: what was measured, of us and of what stands beside it, and the goal that it is held to."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Beside = Literal["bare", "floor"]


@dataclass(kw_only=True)
class Figure:
    """One line of a table.

    `bare` is what a user has without a runtime (the `openai` client, a task), `floor` the least that we know how to do it
    with. The goal is for the ratio to `against`, or for our own value if that is None.
    """

    part: str
    what: str
    unit: str
    ours: float
    bare: float | None = None
    floor: float | None = None
    goal: float | None = None
    against: Beside | None = None
    at_least: bool = False
    loop: str = "asyncio"
    note: str = ""
    peers: dict[str, float | str] = field(default_factory=dict[str, float | str])
    """Of each: its own value, or why there is none."""
    points: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """Costs at sizes, for a chart."""

    @property
    def ratio(self) -> float | None:
        """To what the goal is against; without a goal to the bare thing, or else to the floor."""
        beside = self.floor if self.against == "floor" or self.bare is None else self.bare
        return self.ours / beside if beside else None

    @property
    def held(self) -> float:
        """What the goal is for."""
        ratio = self.ratio
        return ratio if self.against is not None and ratio is not None else self.ours

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.held >= self.goal if self.at_least else self.held <= self.goal

    @property
    def key(self) -> str:
        return f"{self.part}: {self.what} ({self.loop})"

    def json(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio, "met": self.met}

    @classmethod
    def of(cls, data: dict[str, Any]) -> Figure:
        return cls(**{name: value for name, value in data.items() if name not in {"ratio", "met"}})


def number(value: float | None) -> str:
    """With three digits that matter."""
    if value is None:
        return ""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def goal_of(figure: Figure) -> str:
    if figure.goal is None:
        return ""
    sign = ">=" if figure.at_least else "<="
    of = f"x {figure.against}" if figure.against else f" {figure.unit}"
    return f"{sign} {figure.goal:,g}{of}"


def verdict(figure: Figure) -> str:
    return {True: "yes", False: "**no**", None: ""}[figure.met]
