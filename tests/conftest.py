"""What every test gets: three backends, and a look at what it left behind.

- `anyio_backend`: an async test runs on asyncio, uvloop and trio. On one of them only:
  `@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)`. In virtual time, on asyncio and trio:
  `@pytest.mark.virtual_time`.
- After each test nothing may be left of what it started (`kern_async.testing.leaks` says what is looked for). What
  is left on purpose is named: `@pytest.mark.leaves("straggler", "thread")`.
- `provider`: a model provider on a loopback socket that says what the test scripts.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from kern_async.testing.clock import virtual_backend
from kern_async.testing.leaks import LeakCheck

if TYPE_CHECKING:
    from kern_async.testing.provider import ProviderServer

BACKENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}

# Each example of an async test runs in the one event loop of that test, on purpose; a loaded machine is slow.
settings.register_profile(
    "kern_async",
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("kern_async")


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.definition.get_closest_marker("virtual_time"):
        backends = ["virtual-asyncio", "virtual-trio"]
        metafunc.definition.add_marker(pytest.mark.parametrize("anyio_backend", backends, indirect=True))


@pytest.fixture(params=list(BACKENDS))
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    match request.param:
        case "virtual-asyncio":
            return virtual_backend("asyncio")
        case "virtual-trio":
            return virtual_backend("trio")
        case name:
            return BACKENDS[name]


@pytest.fixture(autouse=True)
def leaves_nothing_behind(request: pytest.FixtureRequest) -> Generator[None]:
    if _is_async(request.node):
        request.getfixturevalue("async_test_leaves_nothing_behind")
        yield
    else:
        check = _leak_check(request)
        yield
        check.settle()


@pytest.fixture
async def async_test_leaves_nothing_behind(request: pytest.FixtureRequest) -> AsyncGenerator[None]:
    check = _leak_check(request)
    yield
    await check.asettle()


def _is_async(item: Any) -> bool:
    test = getattr(item, "obj", None)
    if given := getattr(test, "hypothesis", None):
        # anyio's plugin has put a synchronous wrapper here if the test ran on another backend before.
        test = getattr(given.inner_test, "_anyio_original_func", given.inner_test)
    return iscoroutinefunction(test)


def _leak_check(request: pytest.FixtureRequest) -> LeakCheck:
    marks = request.node.iter_markers("leaves")
    return LeakCheck(allow={kind for mark in marks for kind in mark.args})


@pytest.fixture
def provider() -> Generator[ProviderServer]:
    from kern_async.testing.provider import ProviderServer

    with ProviderServer() as server:
        yield server
