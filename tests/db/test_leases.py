"""What `db.base` says of processes that live, end and die, of every kind of database."""

from __future__ import annotations

import anyio
import pytest

from kern_async.db.base import FindRun, Heartbeat, Reap, Retire, Store

from .places import Place, done, one
from .writes import claim, put

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)


def beat(owner: str = "me", seconds: float = 60) -> Heartbeat:
    return Heartbeat(owner=owner, seconds=seconds)


async def status(store: Store, run_id: str = "r") -> tuple[str, str | None]:
    run = await store.read(FindRun(run_id=run_id))
    return run.status, run.error_type


@pytest.mark.parametrize("live", ["PENDING", "RUNNING"])
async def test_a_live_run_of_a_process_that_never_beat_is_interrupted(store: Store, live: str) -> None:
    await done(store, put("r", status=live, output="1", messages=[(0, "0")]))
    assert await one(store, Reap()) == ["r"]
    run = await store.read(FindRun(run_id="r"))
    assert (run.status, run.error_type, run.owner, run.attempt) == ("ERROR", "Interrupted", "me", 0)
    assert run.error
    assert (run.output, list(run.messages)) == ("1", ["0"])
    assert await one(store, Reap()) == []


async def test_a_live_run_of_a_process_that_lives_is_left_alone(place: Place) -> None:
    async with place.store() as ours, place.store() as theirs:
        await done(ours, beat(), put("r"))
        await done(theirs, beat("they"))
        assert await one(theirs, Reap()) == []
        assert await status(ours) == ("RUNNING", None)


async def test_a_process_whose_time_is_over_is_dead(store: Store) -> None:
    await done(store, beat(seconds=0.05), put("r"))
    with anyio.fail_after(5):
        while not (reaped := await one(store, Reap())):  # noqa: ASYNC110 - it is the database's clock
            await anyio.sleep(0.01)
    assert reaped == ["r"]


async def test_a_further_beat_makes_a_process_live_on(store: Store) -> None:
    await done(store, beat(seconds=-1), put("r"), beat(seconds=60))
    assert await one(store, Reap()) == []
    await done(store, beat(seconds=-1))
    assert await one(store, Reap()) == ["r"]


async def test_the_beat_of_a_batch_saves_the_runs_of_its_process(store: Store) -> None:
    await done(store, beat(seconds=-1), put("r"), put("x", owner="they"))
    assert await store.apply([beat(), Reap()]) == [None, ["x"]]
    assert await status(store) == ("RUNNING", None)


async def test_what_a_process_that_retires_left_live_is_nobodys(store: Store) -> None:
    await done(store, beat(), beat("they"), put("r"), put("x", owner="they"), put("done", status="COMPLETED"))
    assert await store.apply([Retire(owner="me"), Reap()]) == [None, ["r"]]
    assert await status(store, "x") == ("RUNNING", None)
    await done(store, Retire(owner="they"), Retire(owner="nobody"))
    assert await one(store, Reap()) == ["x"]


@pytest.mark.parametrize("ended", ["COMPLETED", "PAUSED", "CANCELLED", "ERROR"])
async def test_a_run_that_is_not_live_is_not_interrupted(store: Store, ended: str) -> None:
    await done(store, put("r", status=ended))
    assert await one(store, Reap()) == []
    assert await status(store) == (ended, None)


async def test_members_are_interrupted_with_their_root_in_the_order_of_their_numbers(store: Store) -> None:
    await done(
        store, put("r"), put("b", root="r"), put("a", root="r"), put("c", root="r", status="COMPLETED")
    )
    assert await store.apply([put("0"), Reap()]) == [None, ["r", "b", "a", "0"]]


async def test_an_owner_that_comes_back_writes_its_end_over_the_interruption(store: Store) -> None:
    await done(store, put("r"))
    assert await one(store, Reap()) == ["r"]
    await done(store, put("r", status="COMPLETED", output="1"))
    assert (await store.read(FindRun(run_id="r"))).status == "COMPLETED"


async def test_an_interrupted_run_is_claimed_and_its_error_goes_with_its_first_write(store: Store) -> None:
    await done(store, put("r"))
    assert await one(store, Reap()) == ["r"]
    await done(store, beat("they"), claim("r", owner="they"), put("r", owner="they", attempt=1))
    run = await store.read(FindRun(run_id="r"))
    assert (run.status, run.error_type, run.error) == ("RUNNING", None, None)
    assert await one(store, Reap()) == []
