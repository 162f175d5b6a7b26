"""Run ids as people type them: any beginning that only one live run has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, cast
from urllib.parse import quote

from .client import Server, Target
from .exits import Refused

SHORTEST = 8


def nodes(
    trees: Iterable[dict[str, Any]], root: dict[str, Any] | None = None
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """All runs of the trees, each with its root."""
    for node in trees:
        if not isinstance(node.get("run_id"), str):
            continue
        top = root or node
        yield node, top
        yield from nodes(members(node), top)


def members(node: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs below a run."""
    return [each for each in cast("list[Any]", node.get("members") or []) if isinstance(each, dict)]


def short_length(ids: Iterable[str]) -> int:
    """How many characters tell these ids apart, and look like enough."""
    every = sorted(set(ids))
    length = SHORTEST
    for one, other in pairwise(every):
        same = next(
            (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
        )
        length = max(length, same + 1)
    return length


def full_id(trees: list[dict[str, Any]], name: str) -> str | None:
    """The id of the live run that `name` is, or is the beginning of; None if there is none.

    Raises:
        Refused: it is the beginning of several.
    """
    ids: list[str] = [node["run_id"] for node, _ in nodes(trees)]
    if name in ids:
        return name
    fitting = [each for each in ids if each.startswith(name)]
    if len(fitting) > 1:
        raise Refused(f"{name!r} begins the ids of {len(fitting)} runs: {', '.join(fitting)}")
    return fitting[0] if fitting else None


def locate(server: Server, live: list[dict[str, Any]], name: str) -> tuple[Target, str] | None:
    """The run that `name` is, or is the beginning of, and the agent or team whose run it is part of; None: no run.

    Those that have ended are found by their whole id.

    Raises:
        Refused: it is the beginning of several.
    """
    if run_id := full_id(live, name):
        root = next(top for node, top in nodes(live) if node["run_id"] == run_id)
        return Target(str(root.get("kind")), str(root.get("id"))), run_id
    for target in server.targets():
        if server.find(f"{target.runs}/{quote(name, safe='')}") is not None:
            return target, name
    return None


def find_run(server: Server, name: str) -> tuple[Target, str]:
    """`locate`, of what has to be there.

    Raises:
        Refused: there is none, or several have ids that begin like this.
    """
    if found := locate(server, server.live(), name):
        return found
    raise Refused(
        f"{server.address} has no run {name!r}; `kern-async ps` lists the live ones, "
        "and those that have ended need their whole id"
    )
