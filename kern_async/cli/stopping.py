"""`kern-async cancel`: ending runs of a server."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import quote

from .client import ANSWER, SETTLE, Server, Target
from .exits import Exit, Refused
from .listing import clean
from .naming import locate
from .showing import say


@dataclass(frozen=True, kw_only=True)
class Which:
    """Which runs are meant: by id, all, or those that the filter fits."""

    run_ids: list[str]
    everything: bool = False
    team_id: str | None = None
    agent_id: str | None = None
    session_id: str | None = None
    user_id: str | None = None

    @property
    def filter(self) -> dict[str, str]:
        """The fields of the filter that are given."""
        fields = {
            "team_id": self.team_id,
            "agent_id": self.agent_id,
            "session_id": self.session_id,
            "user_id": self.user_id,
        }
        return {name: value for name, value in fields.items() if value is not None}

    def check(self) -> None:
        """Refuse what is not clear, since a cancel cannot be taken back.

        Raises:
            Refused: nothing is named, or in two ways.
        """
        ways = [bool(self.run_ids), self.everything, bool(self.filter)]
        if sum(ways) == 0:
            raise Refused(
                "which runs? Give their ids, --all, or a filter: --team, --agent, --session, --user"
            )
        if sum(ways) > 1:
            raise Refused("give run ids, --all, or a filter, and not two of them")


def cancel(
    server: Server, which: Which, *, wait: bool, mode: str | None, reason: str | None, as_json: bool
) -> Exit:
    """Cancel runs and say of each what came of it.

    The exit code is `failed` if one of them had ended before, or nothing fits, `refused` if one is not known.

    Raises:
        Refused: it is not clear which, or the server refuses.
    """
    which.check()
    how = {"wait": wait or None, "mode": mode, "reason": reason}
    patience = SETTLE if wait else ANSWER
    if which.run_ids:
        outcome = _one_by_one(server, which.run_ids, how, patience)
    else:
        outcome = _many(server, which, how, patience)
    if as_json:
        cancelled = sum(run.get("cancelled") is True for run in outcome.runs)
        sys.stdout.write(
            json.dumps({"cancelled": cancelled, "runs": outcome.runs}, ensure_ascii=False) + "\n"
        )
    else:
        for run in outcome.runs:
            sys.stdout.write(f"{clean(run.get('run_id'))}  {_told(run)}\n")
        if not outcome.runs and not outcome.refused:
            say("nothing to cancel: no live run fits")
    for what in outcome.refused:
        say(f"kern-async: {what}")
    if outcome.refused:
        return Exit.refused
    return Exit.done if outcome.runs and all(run.get("cancelled") for run in outcome.runs) else Exit.failed


@dataclass
class _Outcome:
    """The server's answers for each run, and what it refused."""

    runs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    refused: list[str] = field(default_factory=list[str])


def _many(server: Server, which: Which, how: dict[str, Any], patience: float) -> _Outcome:
    """Cancel those that fit, in one request."""
    chosen: dict[str, Any] = dict(which.filter)
    if which.everything:
        roots = [tree["run_id"] for tree in server.live() if isinstance(tree.get("run_id"), str)]
        if not roots:
            return _Outcome()
        chosen["run_ids"] = roots
    given = {name: value for name, value in how.items() if value is not None}
    return _Outcome(_runs_of(server.post("/runs/cancel", chosen | given, patience=patience)))


def _runs_of(answer: Any) -> list[dict[str, Any]]:
    runs = cast("dict[str, Any]", answer).get("runs") if isinstance(answer, dict) else None
    return [run for run in cast("list[Any]", runs or []) if isinstance(run, dict)]


def _one_by_one(server: Server, names: list[str], how: dict[str, Any], patience: float) -> _Outcome:
    """Cancel each of these runs, all at the same time.

    Not by the filter of many: that ends whole trees, and one of these may be a member's.
    """
    live = server.live()
    outcome = _Outcome()
    known: dict[tuple[Target, str], None] = {}
    for name in dict.fromkeys(names):
        if where := locate(server, live, name):
            known[where] = None
        else:
            outcome.refused.append(f"{server.address} has no run {name!r}")

    answers: dict[tuple[Target, str], Any] = {}

    def end(target: Target, run_id: str) -> None:
        try:
            path = f"{target.runs}/{quote(run_id, safe='')}/cancel"
            answers[target, run_id] = server.post(path, patience=patience, **how)
        except (Refused, RuntimeError) as error:  # the latter: Ctrl-C has closed the client meanwhile
            answers[target, run_id] = error

    # Daemons, so that Ctrl-C ends the command and not only the waiting for them.
    threads = [threading.Thread(target=end, args=where, daemon=True) for where in known]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for where in known:
        answer = answers[where]
        if isinstance(answer, Exception):
            outcome.refused.append(f"{where[1]}: {answer}")
        else:
            outcome.runs.append(answer)
    return outcome


def _told(run: dict[str, Any]) -> str:
    status = str(run.get("status"))
    if not run.get("cancelled"):
        ended = status in ("COMPLETED", "CANCELLED", "ERROR")
        return (
            f"not cancelled: it had ended {status}" if ended else "not cancelled: its end was already decided"
        )
    return "cancelled" if status == "CANCELLED" else "will end CANCELLED"
