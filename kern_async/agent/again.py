"""Going on with a run: finding it in this process, in the database or in its output, and reserving its next attempt."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from kern_async.db.base import FindRun, RunRecord
from kern_async.engine import registry
from kern_async.engine.asking import Talk, ask
from kern_async.engine.ending import RunOutputs
from kern_async.engine.keeper import Keeper, fence_of
from kern_async.engine.kept import Kept, kept_from_output
from kern_async.engine.pausing import (
    Continuation,
    check_continuable,
    check_resting,
    continued_id,
    decisions_for,
    leave_unstarted,
)
from kern_async.engine.run import Run
from kern_async.engine.stored import find_tree
from kern_async.exceptions import Fenced, RunIdInUse, RunNotContinuable, StoreError
from kern_async.run.base import BaseOutput
from kern_async.run.requirement import RunRequirement

from .arguments import check_json, check_named, check_seconds, check_text

if TYPE_CHECKING:
    from .runnable import Runnable

Found = tuple[Run, Continuation]


def check_again(
    *,
    stored: bool,
    run_id: str | None = None,
    session_id: str | None = None,
    user_id: str | None = None,
    input: str | None = None,
    session_state: dict[str, Any] | None = None,
    dependencies: dict[str, Any] | None = None,
    metadata: dict[str, Any] | None = None,
    timeout: float | None = None,
    **_reading: Any,
) -> None:
    """Find what is wrong with the options of `continue_run`; `stored` says whether there is a database.

    Raises:
        ConfigurationError: one is not what it should be.
    """
    texts = {"run_id": run_id, "session_id": session_id, "user_id": user_id, "input": input}
    named = {"session_state": session_state, "dependencies": dependencies, "metadata": metadata}
    for what, text in texts.items():
        check_text(what, text)
    for what, values in named.items():
        check_named(what, values)
    if stored:
        for what in ("session_state", "metadata"):
            check_json(what, named[what] or {})
    check_seconds("timeout", timeout)


def find_again(
    who: Runnable[Any, Any],
    run_response: BaseOutput | None,
    *,
    run_id: str | None = None,
    session_id: str | None = None,
    requirements: Sequence[RunRequirement | dict[str, Any]] | None = None,
    input: str | None = None,
    user_id: str | None = None,
    session_state: dict[str, Any] | None = None,
    dependencies: dict[str, Any] | None = None,
    metadata: dict[str, Any] | None = None,
    timeout: float | None = None,
    **_reading: Any,
) -> Talk[Found]:
    """The run that is to go on, at rest in this process, and what its next attempt begins with.

    Raises:
        RunNotContinuable: there is no such run, it has completed or is live, or it is not this one's.
        ConfigurationError: a requirement is none of the run's.
    """
    run_id = continued_id(run_response, run_id)
    if requirements is None and run_response is not None:
        requirements = run_response.requirements
    run = registry.find(run_id)
    if run is None:
        kept, root_id = yield from _find_kept(who, run_id, run_response)
        _check_whose(
            who,
            run_id,
            whose=kept.owner,
            root_id=root_id,
            session=(session_id, kept.output.session_id),
            user=(user_id, kept.output.user_id),
        )
        check_continuable(run_id, kept.output.status)
        run = _revived(who, kept)
    else:
        _check_whose(
            who,
            run_id,
            whose=(run.owner.kind, run.owner.id),
            root_id=run.root.id if run.parent is not None else None,
            session=(session_id, run.session_id),
            user=(user_id, run.user_id),
        )
        check_resting(run)
    return run, Continuation(
        decisions_for(run, requirements or ()),
        message=input,
        timeout=timeout,
        session_state=copy.deepcopy(session_state),
        dependencies=dependencies,
        metadata=metadata,
    )


def _check_whose(
    who: Runnable[Any, Any],
    run_id: str,
    *,
    whose: tuple[str, str],
    root_id: str | None,
    session: tuple[str | None, str],
    user: tuple[str | None, str | None],
) -> None:
    if root_id is not None:
        raise RunNotContinuable(f"run {run_id!r} is a member's; continue its team's run {root_id!r}")
    if whose != who.identity:
        kind, name = who.identity
        raise RunNotContinuable(
            f"run {run_id!r} belongs to the {whose[0]} {whose[1]!r}, not to the {kind} {name!r}"
        )
    for what, (wanted, own) in (("session", session), ("user", user)):
        if wanted is not None and wanted != own:
            raise RunNotContinuable(f"run {run_id!r} belongs to another {what} than {wanted!r}")


def _find_kept(
    who: Runnable[Any, Any], run_id: str, output: BaseOutput | None
) -> Talk[tuple[Kept, str | None]]:
    """What is kept of the run; and, if it is a member's, the run to continue instead, as far as is known."""
    db = who.db
    if db is not None:
        try:
            record: RunRecord | None = yield from ask(db, FindRun(run_id=run_id))
            if (
                record is not None
                and (kept := (yield from find_tree(db, record.key.root_run_id))) is not None
            ):
                root_id = record.key.root_run_id
                found = next(each for each in kept.tree() if each.output.run_id == run_id)
                return found, root_id if root_id != run_id else None
        except StoreError:
            if output is None:
                raise
    if output is None:
        where = "nor does its database" if db is not None else "and without db= none that has ended"
        raise RunNotContinuable(
            f"this process holds no paused run {run_id!r}, {where}; give its output as run_response=, or check the id"
        )
    kept = kept_from_output(cast(RunOutputs, output))
    if kept.attempt is not None and kept.attempt.following().taken("begin"):
        raise RunNotContinuable(f"run {run_id!r} has gone on or was ended since it left this output")
    return kept, kept.output.parent_run_id


def _revived(who: Runnable[Any, Any], kept: Kept) -> Run:
    def keeper_of(run: Run) -> Keeper | None:
        if who.db is None:
            return None
        keeper = Keeper(who.db, run, timeout=who.store_timeout, fence=fence_of(who.db, kept))
        keeper.number = kept.number
        return keeper

    return who.revived(kept, keeper_of=keeper_of)


def enter_again(found: Found) -> Talk[None]:
    """Reserve the run's next attempt, here and in its database.

    Raises:
        RunNotContinuable: somebody else has it.
    """
    run, continuation = found
    _reserve(run, continuation)
    if run.keeper is None:
        return
    ticket = run.keeper.claim()
    try:
        yield ticket
    except BaseException:  # who waits was cancelled: the run rests as it did
        leave_unstarted(run)
        raise
    if isinstance(ticket.error, Fenced):
        for each in (run, *run.below()):
            registry.unregister(each)
        raise RunNotContinuable(f"run {run.id!r} was continued or cancelled by another process")


def _reserve(run: Run, continuation: Continuation) -> None:
    fresh = registry.find(run.id) is not run
    if fresh:
        try:
            registry.register(run)
        except RunIdInUse:
            raise RunNotContinuable(f"run {run.id!r} is being continued already") from None
    try:
        continuation.enter(run)
    except BaseException:
        if fresh:  # it went on and ended since it was found
            registry.unregister(run)
        raise
    if fresh:
        for member in run.below():
            if member.resting:
                registry.register(member)
