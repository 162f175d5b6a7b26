"""Hooks round a tool call: `tool_hooks`, and a tool's own `pre_hook` and `post_hook`.

A hook is the user's code: a coroutine runs in a task of its own, a function in a thread, and a cancel waits for
neither longer than for any such code. But what a hook wraps, the call or the next hook, must not run there, out of
the reach of the run's scopes: a delegation runs a member. So what a hook asks for by `function_call(...)` is handed
to the run's own task tree, which performs it and hands back what came of it; who asks waits.
"""

from __future__ import annotations

import inspect
import queue
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import anyio

from kern_async.backend import current_loop
from kern_async.exceptions import RunCancelled, ToolError
from kern_async.run.base import Work
from kern_async.tools import Function, FunctionCall

from .active import ActiveCall
from .calls import call_async, call_sync, call_user, noting
from .hooks import declared, is_async
from .link import Link
from .plan import Hook
from .run import Run

Perform = Callable[[dict[str, Any]], Awaitable[Any]]

PARTING = 0.1
"""Seconds that a thread has to end which waited for the call that a cancel cut."""


async def call_through(
    run: Run,
    work: Work,
    hooks: Sequence[Hook],
    *,
    owner: Any,
    function: Function,
    arguments: dict[str, Any],
    call: Perform,
    within: ActiveCall,
) -> Any:
    """Make `call(arguments)` through the tool's `pre_hook`, the hooks, outermost first, and its `post_hook`.

    Each gets what its signature names. A hook may change the arguments and the result, perform what is inside
    several times, or not at all. `call` is performed in this task or a child of it; a hook that gives it up, by a
    deadline of its own or by returning, cuts it. `within` is the call's own state. What it raises that is no
    `Exception` is raised in the hooks too, and here at the end, even if one of them swallowed it.

    Raises:
        Exception: what the call or a hook raised, as it is.
    """
    context = replace(run.context, tool_call_id=work.tool_call_id, link=Link(run, within))
    chain = _Chain(run, work, hooks, {"run_context": context, run.owner.kind: owner}, function, call, within)
    made = FunctionCall(function, arguments, work.tool_call_id)
    if function.pre_hook is not None:
        await chain.tell(function.pre_hook, made)
    made.result = await chain.go_through(0, made.arguments or {})
    if function.post_hook is not None:
        await chain.tell(function.post_hook, made)
    return made.result


class _Chain:
    """The hooks of one call, with the call at their end."""

    def __init__(
        self,
        run: Run,
        work: Work,
        hooks: Sequence[Hook],
        given: dict[str, Any],
        function: Function,
        call: Perform,
        within: ActiveCall,
    ) -> None:
        self.run = run
        self.within = within
        self._work = work
        self._hooks = hooks
        self._given = given
        self._function = function
        self._call = call

    def work_of(self, hook: Hook) -> Work:
        name = getattr(hook, "__name__", type(hook).__name__)
        return Work(kind="hook", name=name, run_id=self._work.run_id, tool_call_id=self._work.tool_call_id)

    async def tell(self, hook: Hook, made: FunctionCall) -> None:
        """Call a `pre_hook` or `post_hook`, which may change `made`."""
        given = declared(hook, self._given | {"fc": made, "function_call": made})
        await call_user(
            self.run,
            self.work_of(hook),
            lambda: hook(**given),
            is_async=is_async(hook),
            within=self.within,
        )

    async def go_through(self, at: int, arguments: dict[str, Any]) -> Any:
        """What the hook at this place makes of the call; past the last it is the call itself."""
        if at == len(self._hooks):
            return await self._call(arguments)
        hook = self._hooks[at]

        async def inside(changed: dict[str, Any]) -> Any:
            return await self.go_through(at + 1, changed)

        desk = _Desk(self, self.work_of(hook), inside)
        name, ask, shown = self._function.name, desk.ask, dict(arguments)
        given = self._given | {
            "function_name": name,
            "name": name,
            "function_call": ask,
            "function": ask,
            "func": ask,
            "arguments": shown,
            "args": shown,
        }
        wanted = declared(hook, given)
        return await desk.serve(lambda: hook(**wanted), on_loop=is_async(hook))


class _Request:
    """What a hook asks for: to perform what is inside it, with these arguments.

    `wake` wakes who asked; `parked`: it is a thread that waits.
    """

    def __init__(self, arguments: dict[str, Any], wake: Callable[[], object], *, parked: bool) -> None:
        self.arguments = arguments
        self.parked = parked
        self.scope: anyio.CancelScope | None = None
        self.given_up = False
        self._wake = wake
        self._done = False
        self._result: Any = None
        self._error: BaseException | None = None

    def answer(self, result: Any = None, error: BaseException | None = None) -> None:
        """Let who asked go on; the first answer counts."""
        if not self._done:
            self._done, self._result, self._error = True, result, error
            self._wake()

    def give_up(self) -> None:
        """Nobody waits for it any more: cut it."""
        self.given_up = True
        if self.scope is not None:
            self.scope.cancel()

    def outcome(self) -> Any:
        error, self._error = self._error, None
        if error is None:
            return self._result
        try:
            raise error
        finally:
            del error  # its traceback refers to this frame


class _Desk:
    """Where one hook's requests meet the run's task. Everything but `ask` is touched in the loop's thread only."""

    def __init__(self, chain: _Chain, work: Work, inside: Perform) -> None:
        self._chain = chain
        self._run = chain.run
        self._work = work
        self._inside = inside
        self._loop = current_loop()
        self._thread = threading.get_ident()
        self._pending: list[_Request] = []
        self._open: dict[_Request, None] = {}
        self._news = anyio.Event()
        self._shield = anyio.CancelScope(shield=True)
        self._in_thread = False
        self._over = anyio.Event()
        self._closed: BaseException | None = None
        self._passing: BaseException | None = None
        """What is no `Exception` came from inside: it ends the call, whatever the hook makes of it."""
        self._result: Any = None
        self._error: BaseException | None = None

    # The run's side.

    async def serve(self, hook: Callable[[], Any], *, on_loop: bool) -> Any:
        """Have the hook called, and perform what it asks for until it is over."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._watch, hook, on_loop, name=f"kern-hook {self._work.name}")
            try:
                with noting(self._run, self._work, self._chain.within):
                    while not self._over.is_set():
                        await self._news.wait()
                        self._news = anyio.Event()
                        while self._pending:
                            request = self._pending.pop(0)
                            group.start_soon(self._perform, request, name=f"kern-inside {self._work.name}")
                self._leave()
            except GeneratorExit:
                self._release()
                raise
            except BaseException:
                await self._part()
                raise
            finally:
                self._shield.cancel()
        if (error := self._passing or self._error) is None:
            return self._result
        self._passing = self._error = None
        try:
            if isinstance(error, RunCancelled):
                with noting(self._run, self._work, self._chain.within):
                    await self._run.checkpoint()  # it left because its run is to stop: so does the run, here
            raise error
        finally:
            del error  # its traceback refers to this frame

    async def _watch(self, hook: Callable[[], Any], on_loop: bool) -> None:
        run, work, within = self._run, self._work, self._chain.within
        try:
            if on_loop:
                self._result = await call_async(run, work, hook, within=within)
                return
            self._in_thread = True
            with self._shield:  # `_part` lets the cancel through
                # Not counted: it waits for the call inside, which may need a thread of its own.
                self._result = await call_sync(run, work, hook, within=within, counted=False)
            self._in_thread = False
            if self._shield.cancelled_caught:
                await anyio.lowlevel.checkpoint()
            if inspect.isawaitable(awaitable := self._result):

                async def awaited() -> Any:
                    return await awaitable

                self._result = await call_async(run, work, awaited, within=within)
        except (anyio.get_cancelled_exc_class(), GeneratorExit):
            raise
        except BaseException as exc:  # noqa: BLE001 - raised plain by `serve`, and not as a group
            self._error = exc
        finally:
            self._over.set()
            self._news.set()

    async def _perform(self, request: _Request) -> None:
        try:
            with self._chain.within.patience(None) as request.scope:
                if request.given_up:
                    return
                request.answer(await self._inside(request.arguments))
        except (anyio.get_cancelled_exc_class(), GeneratorExit):
            raise
        except Exception as exc:  # noqa: BLE001 - the hook's to deal with
            request.answer(error=exc)
        except BaseException as exc:  # noqa: BLE001 - raised by `serve`
            self._passing = exc
            request.answer(error=exc)
        finally:
            request.answer(error=ToolError(f"{self._work.name} gave the call up"))
            self._open.pop(request, None)

    def _leave(self) -> None:
        """The hook is over: cut what it asked for and did not wait for."""
        self._closed = ToolError(f"{self._work.name} has ended, and with it its function_call")
        for request in self._pending:
            self._open.pop(request, None)
            request.answer(error=self._closed)
        for request in self._open:
            request.give_up()

    def _release(self) -> None:
        """The run, or just the call, is cut: let go who waits here in a thread; a coroutine is cancelled itself."""
        alone = self._chain.within.cut_alone(self._run)
        what = f"tool call {self._work.tool_call_id}" if alone else f"run {self._run.id}"
        self._closed = RunCancelled(f"{what} is cancelled")
        for request in self._open:
            if request.parked:
                request.answer(error=self._closed)

    async def _part(self) -> None:
        """`_release`, and see a thread that only waited here off: it is no straggler."""
        waits = self._in_thread and bool(self._open)
        self._release()
        if waits:
            with anyio.CancelScope(shield=True), anyio.move_on_after(PARTING):
                await self._over.wait()

    # The hook's side.

    def ask(self, /, **arguments: Any) -> Any:
        """Perform what is inside with these arguments; `function_call` as the hook knows it.

        On the event loop it returns an awaitable; in a thread it waits and returns the result.

        Raises:
            RunCancelled: the run is to stop.
            Exception: what came from inside.
        """
        if threading.get_ident() == self._thread:
            return self._ask(arguments)
        parked: queue.SimpleQueue[None] = queue.SimpleQueue()
        request = _Request(arguments, lambda: parked.put(None), parked=True)
        try:
            self._loop.soon(self._take, request)
        except RuntimeError:  # the loop is gone, and with it the run
            raise RunCancelled(f"run {self._run.id} has ended") from None
        parked.get()
        return request.outcome()

    async def _ask(self, arguments: dict[str, Any]) -> Any:
        done = anyio.Event()
        request = _Request(arguments, done.set, parked=False)
        self._take(request)
        try:
            await done.wait()
        except GeneratorExit:
            raise
        except BaseException:
            if self._closed is None:  # the hook has a deadline of its own, for one
                request.give_up()
                with anyio.CancelScope(shield=True), anyio.move_on_after(self._run.root.cancel_grace):
                    await done.wait()
            raise
        return request.outcome()

    def _take(self, request: _Request) -> None:
        if (refusal := self._passing or self._closed) is not None:
            request.answer(error=refusal)
            return
        self._open[request] = None
        self._pending.append(request)
        self._news.set()
