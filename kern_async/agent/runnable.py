"""What agents and teams share: their configuration, and the thin entrances to one engine."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import InitVar, dataclass, field
from functools import partial
from typing import Any, ClassVar, Generic, Literal, TypeVar, Unpack, cast, overload

import anyio

from kern_async.engine import control, registry
from kern_async.engine.execute import execute
from kern_async.engine.loop import body_of
from kern_async.engine.owner import Owner
from kern_async.engine.pausing import Continuation, decisions_for, find_paused, paused_id
from kern_async.engine.plan import Hook, Plan, RunHook
from kern_async.engine.run import Run
from kern_async.engine.stream import RunStream, SyncRunStream
from kern_async.exceptions import ConfigurationError
from kern_async.models.base import Model
from kern_async.run.base import BaseOutput
from kern_async.run.context import RunContext
from kern_async.run.limits import RunLimits
from kern_async.run.message import Message
from kern_async.run.requirement import RunRequirement
from kern_async.tools import Function, Toolkit
from kern_async.tools.toolkit import collect

from .agentic_state import update_session_state
from .arguments import (
    check_count,
    check_hooks,
    check_limits,
    check_named,
    check_schema,
    check_seconds,
    check_text,
    checked_input,
    slug,
)
from .options import ContinueOptions, Input, RunOptions, Schema, known

EventT = TypeVar("EventT")
OutputT = TypeVar("OutputT")


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """One run's own part of the configuration."""

    model: Model
    output_schema: Schema | None


@dataclass(kw_only=True, eq=False, repr=False)
class Runnable(Generic[EventT, OutputT]):
    """The keywords of `Agent` and `Team`, with the reference's names and meanings.

    Args:
        name: shown in events; the id is made of it.
        id: default: the name in lower case, spaces and underscores as hyphens; without a name, a random one.
        model: who answers.
        role: what it is for, as its team's leader is told.
        description: the first words of the system message.
        instructions: one text, or several points. `{key}` stands for a value of the run's `session_state`,
            `dependencies` or `metadata`.
        expected_output, additional_context: further parts of the system message.
        system_message: takes the place of the whole system message.
        introduction: an assistant message before the input.
        additional_input: messages before the input.
        markdown, add_name_to_context, add_datetime_to_context, add_session_state_to_context: what the system
            message also says.
        tools: functions, `@tool`s and toolkits.
        tool_choice: `auto`, `none`, `required`, or a tool's name.
        tool_call_limit: how many tool calls a run may make; further ones are refused.
        pre_hooks, post_hooks: functions and guardrails, called before and after the work; what they raise ends
            the run.
        output_schema: a pydantic class or JSON schema; `content` of a completed run is then its object.
        session_id, user_id, session_state, dependencies, metadata: defaults of its runs.
        enable_agentic_state: gives the model a tool that changes `session_state`.
        retries, delay_between_retries, exponential_backoff: how often a run goes on after a failed model
            request, and the seconds before. What is finished stays finished.
        tool_hooks: called round every tool call, the first outermost; see `docs/tools.md`.
        timeout: seconds for a run and everything below it; it then ends `cancelled_by=deadline`.
        limits: what a run and everything below it may use; beyond it ends `cancelled_by=limit`.
        cancel_grace: seconds that a cancelled run waits for code that does not end; the root's counts.
        store_events, events_to_skip: whether the output lists the run's events, and which not.
        telemetry: accepted, and without meaning: nothing here phones home.
    """

    _kind: ClassVar[Literal["agent", "team"]]

    name: str | None = None
    id: str = ""
    model: Model | None = None
    role: str | None = None
    description: str | None = None
    instructions: str | Sequence[str] | None = None
    expected_output: str | None = None
    additional_context: str | None = None
    system_message: str | None = None
    introduction: str | None = None
    additional_input: Sequence[str | Message] = ()
    markdown: bool = False
    add_name_to_context: bool = False
    add_datetime_to_context: bool = False
    add_session_state_to_context: bool = False
    tools: Sequence[Callable[..., Any] | Toolkit] = ()
    tool_choice: str | dict[str, Any] | None = None
    tool_call_limit: int | None = None
    tool_hooks: Sequence[Hook] = ()
    pre_hooks: Sequence[RunHook] = ()
    post_hooks: Sequence[RunHook] = ()
    output_schema: Schema | None = None
    session_id: str | None = None
    user_id: str | None = None
    session_state: dict[str, Any] | None = None
    dependencies: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    enable_agentic_state: bool = False
    retries: int = 0
    delay_between_retries: float = 1.0
    exponential_backoff: bool = False
    timeout: float | None = None
    cancel_grace: float = 1.0
    limits: RunLimits | None = None
    db: Any = None
    checkpoint: str | None = None
    add_history_to_context: bool = False
    num_history_runs: int | None = None
    store_events: bool = False
    events_to_skip: Sequence[str] = ()
    telemetry: InitVar[bool] = False

    _functions: dict[str, Function] | None = field(default=None, init=False)

    def __post_init__(self, telemetry: bool) -> None:
        check_text("name", self.name)
        check_text("id", self.id or None)
        self.id = self.id or slug(self.name) or f"{self._kind}-{uuid.uuid4().hex[:8]}"
        if self.model is not None and not isinstance(cast(Any, self.model), Model):
            raise ConfigurationError(
                f"model of {self} is {self.model!r}; give an object such as OpenAIResponses(id='gpt-5.2')"
            )
        check_seconds("timeout", self.timeout)
        check_seconds("cancel_grace", self.cancel_grace, zero=True)
        check_seconds("delay_between_retries", self.delay_between_retries, zero=True)
        check_count("retries", self.retries)
        check_count("tool_call_limit", self.tool_call_limit)
        check_schema(self.output_schema)
        for named in ("session_state", "dependencies", "metadata"):
            check_named(named, getattr(self, named))
        check_limits(self.limits)
        for several in ("tools", "tool_hooks", "pre_hooks", "post_hooks"):
            if getattr(self, several) is None:  # as the reference's default is
                setattr(self, several, ())
        for hooks in ("tool_hooks", "pre_hooks", "post_hooks"):
            check_hooks(hooks, getattr(self, hooks))
        collect(self.tools)  # to say at once what is wrong with them; they may still be added to
        for later in ("db", "checkpoint", "add_history_to_context", "num_history_runs"):
            if getattr(self, later):
                raise NotImplementedError(f"{later}= of {type(self).__name__} is not there yet")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(id={self.id!r})"

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
        after the terminal event.

        A failure is an output with status ERROR. `cancel_run` gives an output with status CANCELLED. A cancel
        from outside stores the same end and goes on as itself.

        Raises:
            ConfigurationError: the input or an option is wrong (at the call).
            RunIdInUse: a live run has the run id (at the call when streamed, else at the await).
        """
        run, stream_events = self._prepare(input, **known("arun", options))
        if stream:
            return RunStream(run, run.body, stream_events=stream_events, yield_run_output=yield_run_output)
        return self._drive(run, registry.register)

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
        run, stream_events = self._prepare(input, **known("run", options))
        reader: SyncRunStream[Any, OutputT] = SyncRunStream(
            run, run.body, stream_events=stream_events, yield_run_output=yield_run_output
        )
        return reader if stream else reader.wait()

    async def _drive(self, run: Run, enter: Callable[[Run], None]) -> OutputT:
        enter(run)
        attempt = run.attempt
        await execute(run, run.body, outside="caller")
        await run.wait_ended(attempt)  # it may be another thread's cancel that settles it, before its start
        return cast(OutputT, run.output_of(attempt))

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
        yield_run_output: bool = False,
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
        """Go on with a paused run, under its run id: a coroutine or a stream, as `arun` gives them.

        The run is named by `run_response`, the output that it left when it paused, or by `run_id`. What was decided
        is taken from `requirements`, or else from the output's or the run's own. Requirements that are still open
        pause the run again. Calls that were finished and members that have ended are not run again. The stream
        begins with `*RunContinued`.

        A created stream reserves the run until it is dropped or closed, which leaves it paused. A cancel of a
        started one is the same as for `arun`.

        Raises:
            RunNotContinuable: the run is not paused, somebody else continues it, or it is not this agent's or team's
                (at the call; the second of two that were awaited, at the await).
            ConfigurationError: a requirement is not the run's, or an option is wrong (at the call).
        """
        given = known("acontinue_run", options, ContinueOptions)
        run, enter, stream_events = self._prepare_again(run_response, **given)
        if stream:
            return RunStream(
                run, run.body, stream_events=stream_events, yield_run_output=yield_run_output, enter=enter
            )
        return self._drive(run, enter)

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
        yield_run_output: bool = False,
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
        run, enter, stream_events = self._prepare_again(run_response, **given)
        reader: SyncRunStream[Any, OutputT] = SyncRunStream(
            run, run.body, stream_events=stream_events, yield_run_output=yield_run_output, enter=enter
        )
        return reader if stream else reader.wait()

    def _prepare_again(
        self,
        run_response: BaseOutput | None,
        *,
        run_id: str | None = None,
        session_id: str | None = None,
        requirements: Sequence[RunRequirement | dict[str, Any]] | None = None,
        input: str | None = None,
        user_id: str | None = None,
        session_state: dict[str, Any] | None = None,
        dependencies: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
        stream_events: bool = False,
        timeout: float | None = None,
    ) -> tuple[Run, Callable[[Run], None], bool]:
        texts = {"run_id": run_id, "session_id": session_id, "user_id": user_id, "input": input}
        named = {"session_state": session_state, "dependencies": dependencies, "metadata": metadata}
        for what, text in texts.items():
            check_text(what, text)
        for what, values in named.items():
            check_named(what, values)
        named["session_state"] = copy.deepcopy(session_state)
        check_seconds("timeout", timeout)
        run_id = paused_id(run_response, run_id)
        if requirements is None and run_response is not None:
            requirements = run_response.requirements
        run = find_paused(run_id, kind=self._kind, owner_id=self.id, session_id=session_id, user_id=user_id)
        again = Continuation(decisions_for(run, requirements or ()), message=input, timeout=timeout, **named)
        return run, again.enter, stream_events

    def _prepare(
        self,
        input: Input,
        *,
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
        if background:
            raise NotImplementedError("background=True is not there yet")
        check_limits(limits)
        for what, text in (("run_id", run_id), ("session_id", session_id), ("user_id", user_id)):
            check_text(what, text)
        for what, named in (
            ("session_state", session_state),
            ("dependencies", dependencies),
            ("metadata", metadata),
        ):
            check_named(what, named)
        check_schema(output_schema)
        check_seconds("timeout", timeout)
        self.check()
        model = self._find_model()
        if model is None:
            raise ConfigurationError(
                f"{self} has no model; give one, such as {type(self).__name__}(model=OpenAIResponses(id='gpt-5.2'))"
            )
        run = self._create(
            input,
            model=model,
            run_id=run_id,
            session_id=session_id or self.session_id or uuid.uuid4().hex,
            user_id=user_id or self.user_id,
            session_state={**copy.deepcopy(self.session_state or {}), **copy.deepcopy(session_state or {})},
            dependencies={**(self.dependencies or {}), **(dependencies or {})},
            metadata={**(self.metadata or {}), **(metadata or {})},
            output_schema=output_schema or self.output_schema,
            timeout=timeout if timeout is not None else self.timeout,
            limits=limits if limits is not None else self.limits,
        )
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
            store_events=self.store_events,
            events_to_skip=frozenset(map(str, self.events_to_skip)),
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
    ) -> Run:
        """A run as a member of the team whose run is `parent`, for the team room; it is not registered yet."""
        return self._create(
            given,
            model=self._find_model() or fallback_model,
            session_id=parent.session_id,
            user_id=parent.user_id,
            session_state={**copy.deepcopy(self.session_state or {}), **session_state},
            dependencies={**(self.dependencies or {}), **parent.context.dependencies},
            metadata={**(self.metadata or {}), **parent.context.metadata},
            output_schema=self.output_schema,
            timeout=self.timeout,
            limits=self.limits,
            parent=parent,
            speaks_for=speaks_for,
        )

    def _find_model(self) -> Model | None:
        return self.model

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
        }

    def _own_tools(self) -> dict[str, Function]:
        if self._functions is None:
            tools = [*self.tools, update_session_state] if self.enable_agentic_state else self.tools
            self._functions = collect(tools)
        return dict(self._functions)

    # Controlling.

    cancel_run = staticmethod(registry.cancel_run)
    acancel_run = staticmethod(registry.acancel_run)
    cancel_tool_call = staticmethod(control.cancel_tool_call)
    acancel_tool_call = staticmethod(control.acancel_tool_call)
    send_message = staticmethod(control.send_message)
    asend_message = staticmethod(control.asend_message)
    get_session = staticmethod(control.get_session)
    aget_session = staticmethod(control.aget_session)
    get_run_output = staticmethod(control.get_run_output)
    aget_run_output = staticmethod(control.aget_run_output)

    # Showing.

    def print_response(self, input: Input, *, stream: bool = True, **options: Unpack[RunOptions]) -> None:
        """Run and show it in the terminal, live unless `stream=False`; members apart.

        Ctrl-C ends the run, shows what was kept, and goes on as KeyboardInterrupt.
        """
        from .printing import RunView

        events = self.run(input, stream=True, **options)
        with RunView() as view, events:
            try:
                for event in events if stream else list(events):
                    view.show(cast(Any, event))
            except KeyboardInterrupt:
                for event in events:  # what the run still said, and its end
                    view.show(cast(Any, event))
                raise

    async def aprint_response(
        self, input: Input, *, stream: bool = True, **options: Unpack[RunOptions]
    ) -> None:
        """Like `print_response`, in async code. A cancel ends the run, shows what was kept, and goes on."""
        from .printing import RunView

        events = self.arun(input, stream=True, **options)
        with RunView() as view:
            async with events:
                try:
                    shown = [] if stream else [event async for event in events]
                    async for event in events:
                        view.show(cast(Any, event))
                    for event in shown:
                        view.show(cast(Any, event))
                except anyio.get_cancelled_exc_class():
                    async for event in events:  # the run has ended: this does not wait
                        view.show(cast(Any, event))
                    raise
