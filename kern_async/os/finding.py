"""A run that a request names: in this process or in its database, if it is for the caller to see."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.exceptions import HTTPException

from kern_async.db.base import FindRun, RunRecord
from kern_async.engine import stored
from kern_async.engine.asking import ask, drive
from kern_async.engine.ending import RunOutputs
from kern_async.engine.run import Run
from kern_async.run.base import RunStatus

from .agent_os import AgentOS, Kind, Target
from .caller import Caller


@dataclass(frozen=True)
class Found:
    """A run: `run` if this process holds it, else only what is stored."""

    target: Target
    run_id: str
    root_run_id: str
    session_id: str
    run: Run | None
    stored_status: RunStatus | None

    @property
    def status(self) -> RunStatus:
        """Where it stands."""
        if self.run is None:
            return self.stored_status or RunStatus.error
        return status_of(self.run)

    async def output(self) -> RunOutputs:
        """What it has left, or has come to so far.

        Raises:
            HTTPException: 404, it is gone.
            StoreError: the database does not answer.
        """
        run = self.run
        if run is not None:
            settled = run.output if run.ended or run.resting else None
            return settled if settled is not None else run.draft(self.status)
        db = self.target.db
        output = None
        if db is not None:
            output = await drive(stored.run_output(db, self.run_id, None), db.store_timeout)
        if output is None:
            raise HTTPException(404, "Run not found")
        return output


def status_of(run: Run) -> RunStatus:
    """Where a run of this process stands."""
    if (run.ended or run.resting) and run.settled is not None and run.output is not None:
        return run.output.status
    return RunStatus.running if run.executing else RunStatus.pending


def belongs(run: Run, kind: Kind, target_id: str) -> bool:
    """Whether a run, or one above it, is this agent's or team's."""
    return any((each.owner.kind, each.owner.id) == (kind, target_id) for each in run.lineage())


async def find_run(
    agent_os: AgentOS, kind: Kind, target_id: str, run_id: str, caller: Caller, session_id: str | None = None
) -> Found:
    """The run of this agent or team, or of one below it.

    Raises:
        HTTPException: 404, there is none, or it is not for the caller to see.
        StoreError: the database does not answer.
    """
    target = agent_os.find_target(kind, target_id)
    here = find_here(agent_os, kind, target_id, run_id, caller, session_id)
    if here is not None:
        return here
    record = await _record(target, run_id)
    if (
        record is not None
        and caller.owns(record.key.user_id)
        and session_id in (None, "", record.key.session_id)
    ):
        key = record.key
        above: RunRecord | None = record
        while above is not None:
            if (above.key.kind, above.key.entity_id) == (kind, target_id):
                return Found(target, run_id, key.root_run_id, key.session_id, None, RunStatus(record.status))
            above = await _record(target, above.key.parent_run_id) if above.key.parent_run_id else None
    raise HTTPException(404, "Run not found")


def find_here(
    agent_os: AgentOS, kind: Kind, target_id: str, run_id: str, caller: Caller, session_id: str | None = None
) -> Found | None:
    """The same, if this process holds a run with this id.

    Raises:
        HTTPException: 404, it does, but the run is another's, or not for the caller to see.
    """
    target = agent_os.find_target(kind, target_id)
    run = agent_os.roster.find(run_id)
    if run is None:
        return None
    if (
        not belongs(run, kind, target_id)
        or not caller.owns(run.user_id)
        or session_id not in (None, "", run.session_id)
    ):
        raise HTTPException(404, "Run not found")
    return Found(target, run_id, run.root.id, run.session_id, run, None)


async def _record(target: Target, run_id: str) -> RunRecord | None:
    db = target.db
    if db is None:
        return None
    return await drive(ask(db, FindRun(run_id=run_id)), db.store_timeout)
