"""Virtual time: hours pass in milliseconds, in the true order."""

from __future__ import annotations

import time

import anyio
import pytest

from kern_async.testing.clock import virtual_backend


@pytest.mark.virtual_time
async def test_an_hour_takes_no_time() -> None:
    began, began_for_real = anyio.current_time(), time.monotonic()
    await anyio.sleep(3600)
    assert anyio.current_time() - began == pytest.approx(3600)
    assert time.monotonic() - began_for_real < 5


@pytest.mark.virtual_time
async def test_timers_fire_in_order_and_a_deadline_cuts_at_its_time() -> None:
    log: list[tuple[str, float]] = []
    began = anyio.current_time()

    async def sleeper(name: str, seconds: float) -> None:
        await anyio.sleep(seconds)
        log.append((name, anyio.current_time() - began))

    with anyio.move_on_after(90) as scope:
        async with anyio.create_task_group() as tasks:
            for name, seconds in (("last", 80.0), ("never", 100.0), ("first", 0.25)):
                tasks.start_soon(sleeper, name, seconds)
    assert log == [("first", pytest.approx(0.25)), ("last", pytest.approx(80))]
    assert scope.cancelled_caught
    assert anyio.current_time() - began == pytest.approx(90)


@pytest.mark.virtual_time
async def test_time_stands_still_while_there_is_work() -> None:
    began = anyio.current_time()
    for _ in range(100):
        await anyio.lowlevel.checkpoint()
    assert anyio.current_time() == began


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_run_of_its_own_takes_a_virtual_backend(backend: str) -> None:
    name, options = virtual_backend("asyncio" if backend == "asyncio" else "trio")
    began = time.monotonic()
    anyio.run(anyio.sleep, 86400, backend=name, backend_options=options)
    assert time.monotonic() - began < 5
