"""Hooks before and after a run's work, called with what they declare."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from kern_async.exceptions import StoreError
from kern_async.guardrails import BaseGuardrail
from kern_async.run.base import Work
from kern_async.run.session import Session

from . import stored
from .asking import drive
from .calls import call_user
from .ending import words_of
from .observe import log
from .plan import Hook, Plan, RunHook
from .run import Run


async def run_hooks(
    run: Run, plan: Plan, hooks: Sequence[RunHook], when: Literal["Pre", "Post"], **given: Any
) -> None:
    """Call the hooks one after another; a sync one in a thread, and a cancel interrupts either.

    A hook gets those of `run_input | run_output, run_context, agent | team, session, user_id, metadata` that
    its signature names; a guardrail gets the input or output. What it raises ends the run. `session` is the stored
    session before this run, None without a `db` and for its first run.
    """
    shown = given.get("run_input", given.get("run_output"))
    given |= {
        "run_context": run.context,
        run.owner.kind: plan.owner,
        "session": await _session(run) if any(_wants_session(hook) for hook in hooks) else None,
        "user_id": run.user_id,
        "metadata": run.context.metadata,
    }
    for hook in hooks:
        await run.checkpoint()
        name = getattr(hook, "__name__", type(hook).__name__)
        work = Work(kind="hook", name=name, run_id=run.id)
        call: Callable[[], Any]
        if isinstance(hook, BaseGuardrail):
            on_loop = hook.checks_async
            call = partial(hook.async_check if on_loop else hook.check, shown)
        else:
            on_loop = is_async(hook)
            call = partial(hook, **declared(hook, given))
        run.emit(f"{when}HookStarted", hook_name=name)
        await call_user(run, work, call, is_async=on_loop)
        run.emit(f"{when}HookCompleted", hook_name=name)


def _wants_session(hook: RunHook) -> bool:
    return not isinstance(hook, BaseGuardrail) and "session" in inspect.signature(hook).parameters


async def _session(run: Run) -> Session | None:
    if run.keeper is None:
        return None
    try:
        return await drive(stored.session(run.keeper.db, run.session_id), run.keeper.timeout)
    except StoreError as error:
        log("warning", "run.store_failed", **run.names(), error=words_of(error))
        return None


def is_async(hook: Hook) -> bool:
    """Whether calling the hook gives an awaitable."""
    return inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(type(hook).__call__)


def declared(hook: Hook, given: dict[str, Any]) -> dict[str, Any]:
    """Those of the given values that the hook's signature names; all, where it takes any."""
    parameters = inspect.signature(hook).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return given
    return {name: value for name, value in given.items() if name in parameters}
