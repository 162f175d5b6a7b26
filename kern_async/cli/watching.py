"""`kern-async watch`: following a run of a server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from urllib.parse import quote

from .client import Broken, NotFound, Server, Target, Unreachable
from .exits import Exit, Refused
from .naming import find_run
from .showing import Showing, index_of, parse, say

LEAVES = "Ctrl-C leaves, and the run goes on"
PAUSES = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0)
"""Seconds before each try to reach a server again that was lost; its coming back begins them anew."""


def watch(server: Server, name: str, *, as_json: bool) -> Exit:
    """Show a run from its beginning to its end, and return that as an exit code; leaving it leaves it alone.

    A connection that breaks is made again, and goes on after the last event that was seen.

    Raises:
        Refused: there is no such run, or the server is gone.
    """
    target, run_id = find_run(server, name)
    showing = Showing(run_id, as_json=as_json, hint=LEAVES)
    try:
        with showing:
            _follow(server, target, run_id, showing)
    except KeyboardInterrupt:
        if showing.end is None and not as_json:
            say(f"the run goes on; `kern-async cancel {run_id}` stops it")
        return Exit.cancelled
    showing.remark()
    return showing.code


def _follow(server: Server, target: Target, run_id: str, showing: Showing) -> None:
    path = f"{target.runs}/{quote(run_id, safe='')}/events"
    after = -1
    left = iter(PAUSES)
    while True:
        seen = after
        try:
            with server.stream("GET", path, after=after) as events:
                for data in events:
                    event = parse(data)
                    showing.show(event, data.decode("utf-8", "replace"))
                    after = max(after, index_of(data, event))
            if showing.end is not None:
                return
            lost = "the stream ended before the run did"
        except Broken as broken:
            lost = str(broken)
        except Unreachable as unreachable:
            if not showing.started:
                raise
            lost = str(unreachable)
        except NotFound as gone:
            raise Refused(f"{gone}: the server has lost the run") from None
        if after > seen:
            left = iter(PAUSES)
        showing.hint("the connection broke; trying again")
        _pause(left, f"lost run {run_id}: {lost}")
        showing.hint(LEAVES)


def _pause(left: Iterator[float], what: str) -> None:
    seconds = next(left, None)
    if seconds is None:
        raise Refused(what)
    time.sleep(seconds)
