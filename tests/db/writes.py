"""Writes with all that a test does not care about filled in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kern_async.db.base import (
    ClaimRun,
    Fence,
    PutEvents,
    PutRun,
    RunKey,
    RunRecord,
    SessionRecord,
    SessionSeed,
)


def fence(root: str = "r", owner: str = "me", attempt: int = 0) -> Fence:
    return Fence(root_run_id=root, owner=owner, attempt=attempt)


def seed(session: str = "s", user: str | None = None, **changes: Any) -> SessionSeed:
    return replace(SessionSeed(session_id=session, user_id=user, kind="agent", entity_id="a"), **changes)


def key(run_id: str = "r", root: str | None = None, session: str = "s", **changes: Any) -> RunKey:
    """A root run's, or that of a member of `root`."""
    plain = RunKey(
        run_id=run_id,
        root_run_id=root or run_id,
        parent_run_id=root,
        session_id=session,
        user_id=None,
        kind="agent",
        entity_id="a",
        created_at=7,
    )
    return replace(plain, **changes)


def put(
    run_id: str = "r",
    *,
    root: str | None = None,
    session: str = "s",
    user: str | None = None,
    owner: str = "me",
    attempt: int = 0,
    status: str = "RUNNING",
    kind: str = "agent",
    entity_id: str = "a",
    **changes: Any,
) -> PutRun:
    """A run's row; with `root`, a member's."""
    return PutRun(
        fence=fence(root or run_id, owner, attempt),
        key=key(run_id, root, session, user_id=user, kind=kind, entity_id=entity_id),
        session=seed(session, user, kind=kind, entity_id=entity_id),
        status=status,
        **changes,
    )


def claim(root: str = "r", owner: str = "other", attempt: int = 1, **changes: Any) -> ClaimRun:
    return ClaimRun(fence=fence(root, owner, attempt), **changes)


def events(
    *indices: int, root: str = "r", owner: str = "me", attempt: int = 0, run_id: str | None = None
) -> PutEvents:
    return PutEvents(
        fence=fence(root, owner, attempt),
        events=[(index, run_id or root, f'"event {index}"') for index in indices],
    )


def record(run_id: str, *, session: str = "s", root: str | None = None, **changes: Any) -> RunRecord:
    plain = RunRecord(
        key=key(run_id, root, session),
        number=1,
        status="COMPLETED",
        attempt=0,
        owner="somebody",
        output=None,
        resume=None,
        error_type=None,
        error=None,
        messages=[],
        tools=[],
    )
    return replace(plain, **changes)


def session_record(session: str = "s", **changes: Any) -> SessionRecord:
    plain = SessionRecord(seed=seed(session), state={}, created_at=1.5, updated_at=2.5)
    return replace(plain, **changes)
