"""What is asked of the database before a run may begin: that it can be used, and that the run may have its ids."""

from __future__ import annotations

from kern_async.db.base import FindRun, FindSession
from kern_async.exceptions import ConfigurationError, DatabaseUnusable, RunIdInUse, StoreError

from . import registry
from .asking import Talk, ask, drive, drive_in_thread, opened
from .recall import check_user
from .run import Run

PATIENCE = 0.25
"""Seconds for which a call that makes a stream may be held by a database that was answering before."""


def admit(run: Run, *, chosen_run: bool, chosen_session: bool) -> Talk[None]:
    """Ask the database whether the run may have the ids that its caller chose.

    One that does not answer in time is no reason not to run. Who was cancelled meanwhile has ended, whatever it says.

    Raises:
        DatabaseUnusable: the database can never be used.
        RunIdInUse: a run of this id is stored.
        NotTheirs: the session is another user's.
    """
    if run.keeper is None:
        return
    db = run.keeper.db
    try:
        yield from opened(db)
        stored = (yield from ask(db, FindRun(run_id=run.id))) if chosen_run and not run.ended else None
        if run.ended:  # cancelled meanwhile: the row that was found may be its own end's
            return
        if stored is not None:
            raise RunIdInUse(run.id, stored=True)
        if chosen_session and run.user_id is not None:
            session = yield from ask(db, FindSession(session_id=run.session_id))
            if session is not None and not run.ended:
                check_user(session, run.user_id)
    except (ConfigurationError, DatabaseUnusable):
        raise
    except StoreError:
        return


async def enter(run: Run, talk: Talk[None]) -> None:
    """Reserve the run's id and hold the talk, in async code. A cancel frees the id.

    Raises:
        RunIdInUse: a live or stored run has it.
    """
    registry.register(run)
    try:
        await drive(talk, run.keeper.timeout if run.keeper is not None else 0)
    except BaseException:
        registry.unregister(run)
        raise


def enter_in_thread(run: Run, talk: Talk[None]) -> None:
    """The same at a call that must not wait for long."""
    registry.register(run)
    keeper = run.keeper
    try:
        if keeper is not None:
            seconds = PATIENCE if keeper.writer.opened().done or keeper.writer.stalled() else keeper.timeout
            drive_in_thread(talk, seconds)
    except BaseException:
        registry.unregister(run)
        raise
