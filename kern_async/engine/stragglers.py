"""Work that outlived its run: fenced, counted, and listed until it ends."""

from __future__ import annotations

from collections.abc import Callable

from kern_async.run.base import Work

_listed: dict[object, Work] = {}


def list_straggler(work: Work) -> Callable[[], None]:
    """List `work` in `abandoned()`; call what this returns when it has ended, from any thread."""
    key = object()
    _listed[key] = work
    return lambda: (_listed.pop(key, None), None)[1]


def abandoned() -> list[Work]:
    """The tools, hooks and threads of ended runs that are still going.

    A cancelled run does not wait longer than its `cancel_grace` for code that refuses to end, and not at all for
    a thread. What such code does later has no effect on any run. Safe in any thread.
    """
    return list(_listed.copy().values())
