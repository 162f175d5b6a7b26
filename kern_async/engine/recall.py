"""What a run is told of the session before it begins: its state, and earlier turns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kern_async.db.base import FindRuns, FindSession, RunRecord, SessionRecord
from kern_async.exceptions import NotTheirs, StoreError
from kern_async.run.base import BaseOutput

from .asking import Talk, ask, drive
from .ending import words_of
from .history import turns_of
from .kept import kept_from_records
from .observe import log
from .plan import Plan
from .rows import dumped
from .run import Run

if TYPE_CHECKING:
    from .keeper import Keeper

TASKS_KEY = "task_list"
"""Where the session's state shows a team's task list (mode `tasks`), which is one run's, and nothing to the next."""


async def recall(run: Run, plan: Plan) -> None:
    """Bring the session's state and earlier turns to a run that begins, or goes on in another process.

    A cancel interrupts the waiting. A database that does not answer is no reason not to run: the end then says so.

    Raises:
        NotTheirs: the session is another user's.
    """
    keeper = run.keeper
    if keeper is None or run.progress.recalled:
        return
    try:
        await drive(_recall(run, plan, keeper), keeper.timeout)
    except NotTheirs:
        raise
    except StoreError as error:
        if run.parent is None:
            state = run.context.session_state
            keeper.known_state, _ = dumped(
                {key: value for key, value in state.items() if key not in run.given_state}
            )
        keeper.remarks.append(f"session {run.session_id!r} could not be read: {words_of(error)}")
        log("warning", "run.store_failed", **run.names(), error=words_of(error))
    run.progress.recalled = True


def _recall(run: Run, plan: Plan, keeper: Keeper) -> Talk[None]:
    before = None
    if run.parent is None:
        before = keeper.number
        session: SessionRecord | None = yield from ask(keeper.db, FindSession(session_id=run.session_id))
        if session is not None:
            check_user(session, run.user_id)
            _take_state(run, keeper, session)
        if plan.team_history_runs:
            run.team_history = list((yield from _earlier(run, keeper, plan.team_history_runs, before)))
    if plan.tells_history:
        run.history = turns_of((yield from _earlier(run, keeper, plan.num_history_runs, before)))


def _take_state(run: Run, keeper: Keeper, session: SessionRecord) -> None:
    given = run.context.session_state
    keeper.known_state = dict(session.state)
    stored: dict[str, Any] = {
        key: json.loads(text) for key, text in session.state.items() if key != TASKS_KEY
    }
    defaults = {
        key: value for key, value in given.items() if key not in run.given_state and key not in stored
    }
    own = {key: value for key, value in given.items() if key in run.given_state}
    given.clear()
    given |= {**stored, **defaults, **own}


def check_user(session: SessionRecord, user_id: str | None) -> None:
    """Refuse another user's session.

    Raises:
        NotTheirs: both users are known, and differ.
    """
    owner = session.seed.user_id
    if owner is not None and user_id is not None and owner != user_id:
        raise NotTheirs(f"session {session.seed.session_id!r} belongs to another user than {user_id!r}")


def _earlier(run: Run, keeper: Keeper, last: int | None, before: int | None) -> Talk[Sequence[BaseOutput]]:
    """The runs of the same agent or team in this session that have ended or paused, oldest first."""
    records: Sequence[RunRecord] = yield from ask(
        keeper.db,
        FindRuns(
            session_id=run.session_id,
            kind=run.owner.kind,
            entity_id=run.owner.id,
            roots=run.parent is None,
            ended=True,
            before=before,
            last=last,
        ),
    )
    return [kept.output for kept in kept_from_records(records) if kept.output.run_id != run.id]
