"""A tool call under way: what cuts it alone, while its run goes on."""

from __future__ import annotations

import math
from types import TracebackType
from typing import TYPE_CHECKING

import anyio

from kern_async.run.tool import ToolExecution

if TYPE_CHECKING:
    from .run import Run


class _Part:
    """A scope inside a call, and its place among those that may be what is cut."""

    def __init__(self, parts: list[anyio.CancelScope], scope: anyio.CancelScope) -> None:
        self._parts = parts
        self._scope = scope

    def __enter__(self) -> anyio.CancelScope:
        self._parts.append(self._scope)
        return self._scope.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        try:
            return self._scope.__exit__(kind, error, trace)
        finally:
            self._parts.remove(self._scope)


CALL_CUT = "its tool call was cancelled"
"""The reason of a member's run that ends with the call that it was for."""


class ActiveCall:
    """One tool call of a run, from its start to its result or its pause.

    `inner`: it is the runtime's own, such as a delegation. A call that goes on after a pause has the same `execution`.
    """

    def __init__(self, execution: ToolExecution, *, inner: bool) -> None:
        self.execution = execution
        self.inner = inner
        self.members: list[Run] = []
        """The runs that it has started."""
        self.over = False
        """Whether nobody waits for it any more: what it still does goes nowhere."""
        self.scope = anyio.CancelScope()
        """Round all of the call; a cancel of just this call cuts it."""
        self._parts: list[anyio.CancelScope] = []
        self._slot: dict[str, str] = {}

    @property
    def cancelled(self) -> bool:
        """Whether somebody cancelled just this call, and will have it so."""
        return self._slot.get("end") == "cancelled"

    def ends_by_itself(self) -> bool:
        """Claim the end for the call's own result; False if a cancel came first."""
        return self._slot.setdefault("end", "own") == "own"

    def cancel(self, run: Run) -> bool:
        """Whether this call of `run` will end cancelled; one that delegates ends as its members do. From any thread."""
        if self.members:
            return self._cancel_members()
        loop = run.loop
        if loop is None or self._slot.setdefault("end", "cancelled") != "cancelled":
            return False
        try:
            loop.soon(self._cut)
        except RuntimeError:  # the loop is gone, and the call with it
            return False
        return True

    def _cut(self) -> None:
        if not self._cancel_members():  # which may have begun since
            self.scope.cancel()

    def _cancel_members(self) -> bool:
        answers = [member.cancel("request", CALL_CUT) for member in tuple(self.members)]
        return any(answers)

    def patience(self, seconds: float | None) -> _Part:
        """A scope for one try of the call, or for what a hook asks for; it ends after `seconds`."""
        deadline = math.inf if seconds is None else anyio.current_time() + seconds
        return _Part(self._parts, anyio.CancelScope(deadline=deadline))

    @property
    def cut(self) -> bool:
        """Whether this call, or what is under way of it, is being cut."""
        return any(scope.cancel_called for scope in (self.scope, *self._parts))

    def cut_alone(self, run: Run) -> bool:
        """Whether it is this call that is being cut, and not its run."""
        return self.cut and not any(
            each.scope is not None and each.scope.cancel_called for each in run.lineage()
        )
