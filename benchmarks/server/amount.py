"""How much is done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    cancels: int = 100
    streams: int = 1000
    seconds: float = 10.0
    settle: float = 3.0
    interval: float = 1.0
    under_load: int = 10
    readers: int = 100
    words: int = 5000


QUICK = Scale(cancels=20, streams=200, seconds=5.0, settle=1.0, under_load=5, words=1000)
