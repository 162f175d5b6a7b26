"""Paused runs are kept by their database, however many there are; this process keeps only so many in memory."""

from __future__ import annotations

import pytest

from kern_async import Agent, RunStatus, tool
from kern_async.db.in_memory import InMemoryDb
from kern_async.engine import registry
from kern_async.run.cancel import get_active_runs
from kern_async.testing.scripted import ScriptedModel, call


@tool(requires_confirmation=True)
def pay(amount: int) -> str:
    """Pay."""
    return f"paid {amount}"


def clerk(db: InMemoryDb | None, amount: int) -> Agent:
    return Agent(
        name="Clerk", model=ScriptedModel("clerk", [call("pay", amount=amount), "Done."]), tools=[pay], db=db
    )


async def test_with_a_database_the_oldest_leaves_memory_and_can_still_be_continued(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "MOST_PAUSED", 1)
    db = InMemoryDb()
    first = clerk(db, 1)
    await first.arun("Pay.", run_id="first")
    await clerk(db, 2).arun("Pay.", run_id="second")
    assert "first" not in get_active_runs()
    assert "second" in get_active_runs()

    output = await first.aget_run_output("first")
    assert output is not None
    assert output.status is RunStatus.paused
    output.active_requirements[0].confirm()
    output = await first.acontinue_run(run_id="first", requirements=output.requirements)
    assert output.status is RunStatus.completed
    assert output.tools[0].result == "paid 1"
    assert registry.cancel_run("second")


async def test_without_one_the_oldest_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MOST_PAUSED", 1)
    first = await clerk(None, 1).arun("Pay.", run_id="first")
    await clerk(None, 2).arun("Pay.", run_id="second")
    assert first.is_paused, "what it left says what it was"
    assert not registry.cancel_run("first")
    assert registry.cancel_run("second")
