"""How things are measured: in turn, and by the processor where the machine may be busy."""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

Work = Callable[[], Awaitable[float]]
"""Does it once; what it cost."""


@dataclass(frozen=True)
class Scale:
    """How much is done: all of it, or a part of it (`quick`); and the Python of each peer that is to do it, too."""

    quick: bool = False
    peers: dict[str, Path] = field(default_factory=dict[str, Path])

    def of(self, full: int, quick: int) -> int:
        return quick if self.quick else full


async def in_turn(work: dict[str, Work], rounds: int) -> dict[str, list[float]]:
    """Costs of each, one after the other in turn, since the machine's speed drifts; a first round warms up."""
    costs: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, do in work.items():
            gc.collect()
            cost = await do()
            if number:
                costs[name].append(cost)
    return costs


async def best(work: dict[str, Work], rounds: int) -> dict[str, float]:
    """The least cost of each: what else runs on the machine only adds."""
    return {name: min(costs) for name, costs in (await in_turn(work, rounds)).items()}


class Cpu:
    """Seconds of this process's processor time: `with Cpu() as used: ...`, then `used.seconds`."""

    seconds = 0.0

    def __enter__(self) -> Self:
        self._began = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.process_time() - self._began


def resident() -> int:
    """Bytes of memory that this process has now."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
