"""What every test gets: three backends, and a look at what it left behind.

- `anyio_backend`: an async test runs on asyncio, uvloop and trio. On one of them only:
  `@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)`. In virtual time, on asyncio and trio:
  `@pytest.mark.virtual_time`.
- After each test nothing may be left of what it started (`kern_async.testing.leaks` says what is looked for). What
  is left on purpose is named: `@pytest.mark.leaves("straggler", "thread")`.
- Coverage is measured on asyncio, and on the other two for tests that run on them alone: they run the same lines again,
  and to trace these takes longer than to run them.
- `provider`: a model provider on a loopback socket that says what the test scripts.
"""

from __future__ import annotations

import gc
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager, nullcontext
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, cast

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


def pytest_configure() -> None:
    # A shell has its jobs in the background ignore Ctrl-C, and so would all processes that tests start and press it for.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.definition.get_closest_marker("virtual_time"):
        backends = ["virtual-asyncio", "virtual-trio"]
        metafunc.definition.add_marker(pytest.mark.parametrize("anyio_backend", backends, indirect=True))


# On these a test runs the lines that it runs on asyncio.
AGAIN = ("uvloop", "trio", "virtual-trio")
AGAIN_KEY = pytest.StashKey[bool]()


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    first = {_function_of(item) for item in session.items if _loop_of(item) not in AGAIN}
    for item in session.items:
        item.stash[AGAIN_KEY] = _loop_of(item) in AGAIN and _function_of(item) in first
    # A test that collects garbage need not look at all modules and all tests: that takes a third of a second.
    gc.collect()
    gc.freeze()


def _loop_of(item: pytest.Item) -> Any:
    call = getattr(item, "callspec", None)
    return call and call.params.get("anyio_backend")


def _function_of(item: pytest.Item) -> str:
    return item.nodeid.partition("[")[0]


@contextmanager
def untraced() -> Generator[None]:
    here, in_threads = sys.gettrace(), cast("Any", threading.gettrace())
    sys.settrace(None)
    threading.settrace(cast("Any", None))
    try:
        yield
    finally:
        threading.settrace(in_threads)
        sys.settrace(here)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    with untraced() if item.stash[AGAIN_KEY] else nullcontext():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem() -> Generator[None, object, object]:
    with untraced():  # the module was imported before
        return (yield)


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
