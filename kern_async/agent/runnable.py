"""What agents and teams share: their configuration, and the thin entrances to one engine."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Literal, TypeVar, Unpack, cast, overload

from kern_async.engine import control, registry
from kern_async.engine.admission import admit, enter, enter_in_thread
from kern_async.engine.asking import Talk, drive, drive_in_thread
from kern_async.engine.execute import execute
from kern_async.engine.host import start_here
from kern_async.engine.keeper import Keeper
from kern_async.engine.kept import Kept
from kern_async.engine.loop import body_of
from kern_async.engine.owner import Owner
from kern_async.engine.plan import Plan
from kern_async.engine.revive import revive
from kern_async.engine.run import Run
from kern_async.engine.stream import RunStream, SyncRunStream
from kern_async.engine.submit import submit, submit_in_thread
from kern_async.models.base import Model
from kern_async.run.base import BaseOutput
from kern_async.run.context import RunContext
from kern_async.run.limits import RunLimits
from kern_async.tools import Toolkit

from .again import Found, check_again, enter_again, find_again
from .arguments import (
    check_background,
    check_id,
    check_json,
    check_limits,
    check_named,
    check_schema,
    check_seconds,
    check_stored,
    check_text,
    checked_input,
)
from .cancelling import CancelStored
from .options import ContinueOptions, Input, RunOptions, Schema, known
from .sessions import Sessions
from .settings import Settings
from .showing import Showing

_NO_NAMES: frozenset[str] = frozenset()

EventT = TypeVar("EventT")
OutputT = TypeVar("OutputT")


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Request:
    """One run's own part of the configuration."""

    model: Model
    output_schema: Schema | None


@dataclass(kw_only=True, eq=False, repr=False)
class Runnable(Settings, Sessions, Showing, Generic[EventT, OutputT]):
    """What can be run: an `Agent` or a `Team`. The keywords are those of `Settings`."""

    # Running.

    @overload
    def arun(
        self, input: Input, *, stream: Literal[False] = False, **options: Unpack[RunOptions]
    ) -> Coroutine[Any, Any, OutputT]: ...
    @overload
    def arun(
        self,
        input: Input,
        *,
        stream: Literal[True],
        yield_run_output: Literal[False] = False,
        **options: Unpack[RunOptions],
    ) -> RunStream[EventT, OutputT]: ...
    @overload
    def arun(
        self, input: Input, *, stream: Literal[True], yield_run_output: bool, **options: Unpack[RunOptions]
    ) -> RunStream[EventT | OutputT, OutputT]: ...
    def arun(
        self,
        input: Input,
        *,
        stream: bool = False,
        yield_run_output: bool = False,
        **options: Unpack[RunOptions],
    ) -> Coroutine[Any, Any, OutputT] | RunStream[Any, OutputT]:
        """Run on `input`: a coroutine that gives the output, or with `stream=True` a stream of events.

        The coroutine runs in the task that awaits it, so that task's timeouts and task groups apply. The stream
        starts at its first `__anext__` or `__aenter__`, has the run's id at once, and its run lives in a task of
        its own; use it as `async with x.arun(..., stream=True) as events`. `stream_events=True` delivers every
        event, otherwise those that start, say something or end. `yield_run_output=True` delivers the output
        after the terminal event. `background=True` (with a `db`, not streamed) returns as soon as the run is
        stored, with status PENDING; the run goes on by itself.

        A failure is an output with status ERROR. `cancel_run` gives an output with status CANCELLED. A cancel
        from outside stores the same end and goes on as itself.

        Raises:
            ConfigurationError: the input or an option is wrong (at the call).
            RunIdInUse: a live run, or a stored one, has the run id (at the call when streamed, else at the await).
            DatabaseUnusable: the `db` can never be used as it is (the same).
        """
        run, stream_events = self._prepare(input, stream=stream, **known("arun", options))
        if stream:
            return RunStream(
                run,
                run.body,
                stream_events=stream_events,
                yield_run_output=yield_run_output,
                enter=partial(self._enter_in_thread, options=options),
            )
        return self._submit(run, options) if run.background else self._drive(run, options)

    @overload
    def run(
        self, input: Input, *, stream: Literal[False] = False, **options: Unpack[RunOptions]
    ) -> OutputT: ...
    @overload
    def run(
        self,
        input: Input,
        *,
        stream: Literal[True],
        yield_run_output: Literal[False] = False,
        **options: Unpack[RunOptions],
    ) -> SyncRunStream[EventT, OutputT]: ...
    @overload
    def run(
        self, input: Input, *, stream: Literal[True], yield_run_output: bool, **options: Unpack[RunOptions]
    ) -> SyncRunStream[EventT | OutputT, OutputT]: ...
    def run(
        self,
        input: Input,
        *,
        stream: bool = False,
        yield_run_output: bool = False,
        **options: Unpack[RunOptions],
    ) -> OutputT | SyncRunStream[Any, OutputT]:
        """`arun` for code without an event loop, from any thread: gives the output, or an iterator of events.

        The run lives on a background loop of the process. Inside a running event loop (a notebook) it blocks
        that loop. Ctrl-C while waiting ends the run and goes on as KeyboardInterrupt.

        Raises:
            ConfigurationError: the input or an option is wrong.
            RunIdInUse: a live run has the run id.
            RuntimeError: called on the background loop itself, or while the interpreter exits.
        """
        run, stream_events = self._prepare(input, stream=stream, **known("run", options))
        if run.background:
            self._enter_in_thread(run, options)
            return cast(OutputT, submit_in_thread(run))
        reader: SyncRunStream[Any, OutputT] = SyncRunStream(
            run,
            run.body,
            stream_events=stream_events,
            yield_run_output=yield_run_output,
            enter=partial(self._enter_in_thread, options=options),
        )
        return reader if stream else reader.wait()

    def _admission(self, run: Run, options: RunOptions) -> Talk[None]:
        chosen_session = bool(options.get("session_id") or self.session_id)
        return admit(run, chosen_run=bool(options.get("run_id")), chosen_session=chosen_session)

    def _enter_in_thread(self, run: Run, options: RunOptions) -> None:
        enter_in_thread(run, self._admission(run, options))

    async def _drive(self, run: Run, options: RunOptions) -> OutputT:
        await enter(run, self._admission(run, options))
        return await self._execute(run)

    async def _submit(self, run: Run, options: RunOptions) -> OutputT:
        await enter(run, self._admission(run, options))
        return cast(OutputT, await submit(run))

    async def _execute(self, run: Run) -> OutputT:
        attempt = run.attempt
        await execute(run, run.body, outside="caller")
        await run.wait_ended(attempt)  # it may be another thread's cancel that settles it, before its start
        return cast(OutputT, run.output_of(attempt))

    async def start_run(self, input: Input, **options: Unpack[RunOptions]) -> Run:
        """Begin a run in a task of its own, for servers: no reader holds it back, and none ends it by leaving.

        A cancel of the call, before the run has begun, leaves nothing behind.

        Raises:
            ConfigurationError, RunIdInUse, DatabaseUnusable: as for `arun`.
        """
        run, _ = self._prepare(input, stream=False, **known("start_run", options))
        await enter(run, self._admission(run, options))
        if run.background:
            await submit(run)
        else:
            start_here(run, run.body)
        return run

    async def start_again(
        self, run_response: BaseOutput | None = None, **options: Unpack[ContinueOptions]
    ) -> Run:
        """`start_run` for a run that goes on.

        Raises:
            RunNotContinuable, ConfigurationError, StoreError: as for `acontinue_run`.
        """
        given = known("start_again", options, ContinueOptions)
        given.pop("stream_events", False)
        check_again(stored=self.db is not None, **given)
        found = await drive(find_again(self, run_response, **given), self._seconds)
        await drive(enter_again(found), self._seconds)
        start_here(found[0], found[0].body)
        return found[0]

    # Going on.

    @overload
    def acontinue_run(
        self,
        run_response: BaseOutput | None = None,
        *,
        stream: Literal[False] = False,
        **options: Unpack[ContinueOptions],
    ) -> Coroutine[Any, Any, OutputT]: ...
    @overload
    def acontinue_run(
        self,
        run_response: BaseOutput | None = None,
        *,
        stream: Literal[True],
        yield_run_output: Literal[False] = False,
        **options: Unpack[ContinueOptions],
    ) -> RunStream[EventT, OutputT]: ...
    @overload
    def acontinue_run(
        self,
        run_response: BaseOutput | None = None,
        *,
        stream: Literal[True],
        yield_run_output: bool,
        **options: Unpack[ContinueOptions],
    ) -> RunStream[EventT | OutputT, OutputT]: ...
    def acontinue_run(
        self,
        run_response: BaseOutput | None = None,
        *,
        stream: bool = False,
        yield_run_output: bool = False,
        **options: Unpack[ContinueOptions],
    ) -> Coroutine[Any, Any, OutputT] | RunStream[Any, OutputT]:
        """Go on with a PAUSED, CANCELLED or ERROR run, under its run id: a coroutine or a stream, as of `arun`.

        The run is named by `run_response`, the output that it left, or by `run_id`: of a run that is paused in this
        process, or of one in the `db`. What was decided is taken from `requirements`, or else from the output's or
        the run's own. Requirements that are still open pause the run again. Finished calls and members that have
        completed are not run again; calls that were cut are answered, and members that were cut go on. The stream
        begins with `*RunContinued`.

        A created stream reserves the run until it is dropped or closed, which leaves it as it was. A cancel of a
        started one is the same as for `arun`.

        Raises:
            RunNotContinuable: the run has completed or is live, somebody else continues it, or it is not this agent's
                or team's (at the call when streamed or without a `db`, else at the await; the second of two that
                were awaited, at the await).
            ConfigurationError: a requirement is not the run's, or an option is wrong (the latter at the call).
            StoreError: the run is to be found in the database, which does not answer.
        """
        given = known("acontinue_run", options, ContinueOptions)
        stream_events = given.pop("stream_events", False)
        check_again(stored=self.db is not None, **given)
        if not stream and self.db is not None:
            return self._go_on(run_response, given)
        found = self._find_in_thread(run_response, given)
        if not stream:
            return self._enter_again(found)
        return RunStream(
            found[0],
            found[0].body,
            stream_events=stream_events,
            yield_run_output=yield_run_output,
            enter=lambda _: drive_in_thread(enter_again(found), self._seconds),
        )

    @overload
    def continue_run(
        self,
        run_response: BaseOutput | None = None,
        *,
        stream: Literal[False] = False,
        **options: Unpack[ContinueOptions],
    ) -> OutputT: ...
    @overload
    def continue_run(
        self,
        run_response: BaseOutput | None = None,
        *,
        stream: Literal[True],
        yield_run_output: Literal[False] = False,
        **options: Unpack[ContinueOptions],
    ) -> SyncRunStream[EventT, OutputT]: ...
    @overload
    def continue_run(
        self,
        run_response: BaseOutput | None = None,
        *,
        stream: Literal[True],
        yield_run_output: bool,
        **options: Unpack[ContinueOptions],
    ) -> SyncRunStream[EventT | OutputT, OutputT]: ...
    def continue_run(
        self,
        run_response: BaseOutput | None = None,
        *,
        stream: bool = False,
        yield_run_output: bool = False,
        **options: Unpack[ContinueOptions],
    ) -> OutputT | SyncRunStream[Any, OutputT]:
        """`acontinue_run` for code without an event loop, from any thread, whichever loop the run was on before.

        Raises:
            RunNotContinuable, ConfigurationError: as for `acontinue_run`, at the call.
            RuntimeError: called on the background loop itself, or while the interpreter exits.
        """
        given = known("continue_run", options, ContinueOptions)
        stream_events = given.pop("stream_events", False)
        check_again(stored=self.db is not None, **given)
        found = self._find_in_thread(run_response, given)
        reader: SyncRunStream[Any, OutputT] = SyncRunStream(
            found[0],
            found[0].body,
            stream_events=stream_events,
            yield_run_output=yield_run_output,
            enter=lambda _: drive_in_thread(enter_again(found), self._seconds),
        )
        return reader if stream else reader.wait()

    @property
    def _seconds(self) -> float:
        """How long each answer of the database may take."""
        if self.store_timeout is not None:
            return self.store_timeout
        return self.db.store_timeout if self.db is not None else 0.0

    def _find_in_thread(self, run_response: BaseOutput | None, given: ContinueOptions) -> Found:
        return drive_in_thread(find_again(self, run_response, **given), self._seconds)

    async def _go_on(self, run_response: BaseOutput | None, given: ContinueOptions) -> OutputT:
        return await self._enter_again(await drive(find_again(self, run_response, **given), self._seconds))

    async def _enter_again(self, found: Found) -> OutputT:
        await drive(enter_again(found), self._seconds)
        return await self._execute(found[0])

    def _prepare(
        self,
        input: Input,
        *,
        stream: bool,
        stream_events: bool = False,
        run_id: str | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
        session_state: dict[str, Any] | None = None,
        dependencies: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
        output_schema: Schema | None = None,
        background: bool = False,
        timeout: float | None = None,
        limits: RunLimits | None = None,
    ) -> tuple[Run, bool]:
        check_background(self, background=background, stream=stream)
        check_limits("limits", limits)
        for what, text in (("run_id", run_id), ("session_id", session_id), ("user_id", user_id)):
            check_text(what, text)
        for what, named in (
            ("session_state", session_state),
            ("dependencies", dependencies),
            ("metadata", metadata),
        ):
            check_named(what, named)
        if self.db is not None:
            check_id("run_id", run_id)
            check_id("session_id", session_id or self.session_id)
            check_id("user_id", user_id or self.user_id)
            check_json("session_state", {**(self.session_state or {}), **(session_state or {})})
            check_json("metadata", {**(self.metadata or {}), **(metadata or {})})
        check_schema("output_schema", output_schema)
        check_seconds("timeout", timeout)
        self.check()
        for each in self.everybody():
            check_stored(each, self.db)
        run = self._create(
            input,
            model=self._model(),
            run_id=run_id,
            session_id=session_id or self.session_id or self._session_of(user_id or self.user_id),
            user_id=user_id or self.user_id,
            session_state=_copy_of(self.session_state) | _copy_of(session_state),
            dependencies={**(self.dependencies or {}), **(dependencies or {})},
            metadata={**(self.metadata or {}), **(metadata or {})},
            output_schema=output_schema or self.output_schema,
            timeout=timeout if timeout is not None else self.timeout,
            limits=limits if limits is not None else self.limits,
        )
        if session_state:
            run.given_state = frozenset(session_state)
        run.background = background
        if self.db is not None:
            run.keeper = Keeper(self.db, run, timeout=self.store_timeout)
        return run, stream_events

    def _create(
        self,
        input: Input,
        *,
        model: Model,
        session_id: str,
        user_id: str | None,
        session_state: dict[str, Any],
        dependencies: dict[str, Any],
        metadata: dict[str, Any],
        output_schema: Schema | None,
        timeout: float | None,
        limits: RunLimits | None,
        run_id: str | None = None,
        parent: Run | None = None,
        speaks_for: Run | None = None,
    ) -> Run:
        """A run of this agent or team; `parent` makes it a member's."""
        run_id = run_id or uuid.uuid4().hex
        request = Request(model=model, output_schema=output_schema)
        return Run(
            owner=Owner(self._kind, self.id, self.name),
            id=run_id,
            session_id=session_id,
            user_id=user_id,
            input=checked_input(input),
            context=RunContext(
                run_id=run_id,
                session_id=session_id,
                user_id=user_id,
                session_state=session_state,
                dependencies=dependencies,
                metadata=metadata,
            ),
            cancel_grace=self.cancel_grace,
            timeout=timeout,
            limits=limits,
            parent=parent,
            model=model.id,
            model_provider=model.provider,
            speaks_for=speaks_for,
            store_events=self.store_events or (parent is not None and parent.store_events),
            events_to_skip=frozenset(map(str, self.events_to_skip)) if self.events_to_skip else _NO_NAMES,
            body=body_of(partial(self._plan, request=request)),
        )

    def create_member_run(
        self,
        given: Input,
        *,
        parent: Run,
        fallback_model: Model,
        session_state: dict[str, Any],
        speaks_for: Run | None,
        run_id: str | None = None,
    ) -> Run:
        """A run as a member of the team whose run is `parent`, for the team room; it is not registered yet."""
        return self._create(
            given,
            model=self._find_model() or fallback_model,
            session_id=parent.session_id,
            user_id=parent.user_id,
            session_state=_copy_of(self.session_state) | session_state,
            dependencies={**(self.dependencies or {}), **parent.context.dependencies},
            metadata={**(self.metadata or {}), **parent.context.metadata},
            output_schema=self.output_schema,
            timeout=self.timeout,
            limits=self.limits,
            parent=parent,
            speaks_for=speaks_for,
            run_id=run_id,
        )

    def revived(self, kept: Kept, *, keeper_of: Callable[[Run], Keeper | None]) -> Run:
        """A root run of this agent or team that goes on from what was kept of it; it is not registered yet.

        Raises:
            ConfigurationError: there is no model.
        """
        self.check()
        output = kept.output
        run = self._create(
            output.input.input_content if output.input is not None else "",
            model=self._model(),
            session_id=output.session_id,
            user_id=output.user_id,
            session_state=_copy_of(self.session_state) | (output.session_state or {}),
            dependencies=dict(self.dependencies or {}),
            metadata={**(self.metadata or {}), **(output.metadata or {})},
            output_schema=self.output_schema,
            timeout=self.timeout,
            limits=self.limits,
            run_id=output.run_id,
        )
        run.keeper = keeper_of(run)
        self.revive_into(run, kept)
        return run

    def revive_into(self, run: Run, kept: Kept) -> None:
        """Have a created run, and those below it, be where the kept ones were left."""
        revive(run, kept)
        if run.keeper is not None:
            run.keeper.rewrite(run)

    def everybody(self) -> Iterable[Runnable[Any, Any]]:
        """It and all that are below it."""
        return (self,)

    def check(self) -> None:
        """Find at a call what would otherwise fail in the run.

        Raises:
            ConfigurationError: two tools have one name, or one cannot be told to a model.
        """
        self._own_tools()

    def _plan(self, run: Run, request: Request) -> Plan:
        """What the run is to do, as far as agents and teams agree."""
        raise NotImplementedError

    def _plan_fields(self, request: Request) -> dict[str, Any]:
        """The fields of a plan that are the same for agents and teams."""
        return {
            "owner": self,
            "model": request.model,
            "output_schema": request.output_schema,
            "tool_choice": self.tool_choice,
            "tool_call_limit": self.tool_call_limit,
            "tool_hooks": self.tool_hooks,
            "remote": [tool for tool in self.tools if isinstance(tool, Toolkit) and tool.remote],
            "pre_hooks": self.pre_hooks,
            "post_hooks": self.post_hooks,
            "retries": self.retries,
            "delay_between_retries": self.delay_between_retries,
            "exponential_backoff": self.exponential_backoff,
            "tells_history": self.add_history_to_context or self.num_history_runs is not None,
            "num_history_runs": self.num_history_runs,
            "trim_history": self.trim_history,
        }

    # Controlling.

    cancel_run = staticmethod(registry.cancel_run)
    acancel_run = CancelStored()
    cancel_tool_call = staticmethod(control.cancel_tool_call)
    acancel_tool_call = staticmethod(control.acancel_tool_call)
    send_message = staticmethod(control.send_message)
    asend_message = staticmethod(control.asend_message)


def _copy_of(state: dict[str, Any] | None) -> dict[str, Any]:
    return copy.deepcopy(state) if state else {}
