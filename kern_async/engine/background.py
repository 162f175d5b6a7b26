"""Runs that nobody waits for: how many work at once, and the order in which the others begin.

No lock: a token is one `pop` from a deque, and whoever puts a token or a waiting run there looks for a match
afterwards, so that one of them finds it.
"""

from __future__ import annotations

from collections import deque

from kern_async.exceptions import ConfigurationError

from .run import Run

MOST = 32
"""How many background runs work at once in a process, unless `set_background_max_concurrency` says otherwise."""


class Turns:
    """Who of the background runs may work now."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._free = deque(range(most))
        self._waiting: deque[Run] = deque()
        self._working: dict[Run, int] = {}

    def allow(self, most: int) -> None:
        """Have so many work at once from now on; those that work already go on."""
        before, self._most = self._most, most
        kept = {*self._free, *self._working.values()}  # from when more were allowed before
        self._free.extend(token for token in range(before, most) if token not in kept)
        self._match()

    def queue(self, run: Run) -> None:
        """Take a place in the order, at once. Follow with `leave`, whatever comes."""
        self._waiting.append(run)
        self._match()

    async def enter(self, run: Run) -> None:
        """Wait until a run that has its place may work, or has ended."""
        while run not in self._working and not run.ended:
            await run.log.changed.wait(lambda: run in self._working or run.ended)

    def leave(self, run: Run) -> None:
        """The run works no longer, or never will."""
        token = self._working.pop(run, None)
        if token is not None and token not in self._free:
            self._free.append(token)
        self._match()

    def _match(self) -> None:
        while self._waiting:
            try:
                token = self._free.popleft()
            except IndexError:
                return
            if token >= self._most:
                continue  # fewer are allowed by now
            try:
                run = self._waiting.popleft()
            except IndexError:
                self._free.append(token)
                continue
            if run.ended:
                self._free.append(token)
                continue
            self._working[run] = token
            run.log.changed.ring(foreign=True)


turns = Turns(MOST)


def set_background_max_concurrency(most: int) -> None:
    """Set how many background runs of this process work at once (default 32); the others stay PENDING, in order.

    Raises:
        ConfigurationError: it is no whole number of at least 1.
    """
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        raise ConfigurationError(f"the most background runs is {most!r}; it is a whole number >= 1")
    turns.allow(most)
