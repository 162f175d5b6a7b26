"""The keywords of agents and teams, checked where they are given."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal, cast

from kern_async.db.database import BaseDb
from kern_async.engine.history import TrimHook
from kern_async.engine.plan import Hook, RunHook
from kern_async.exceptions import ConfigurationError
from kern_async.models.base import Model
from kern_async.run.data import new_dict
from kern_async.run.limits import RunLimits
from kern_async.run.message import Message
from kern_async.tools import Function, Toolkit
from kern_async.tools.toolkit import collect

from .agentic_state import update_session_state
from .arguments import (
    check_checkpoint,
    check_count,
    check_db,
    check_hooks,
    check_limits,
    check_named,
    check_schema,
    check_seconds,
    check_text,
    check_trim,
    slug,
)
from .options import Schema


@dataclass(kw_only=True, eq=False, repr=False)
class Settings:
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
        add_history_to_context, num_history_runs: tells the model of the session's earlier runs, of all or of the
            last so many.
        trim_history: of these only the newest whole turns that take no more than so many tokens, at four characters
            each; or what a function returns that is given their messages. What it raises ends the run.
        db: where sessions and runs are stored, see `docs/sessions.md`. A member's runs are stored with its team's.
        checkpoint: accepted; what a run has come to is always written while it lives.
        store_timeout: seconds that a run waits for the database, above all until its end is stored; default: the
            database's own.
        store_events, events_to_skip: whether the events of a run and of its members' runs are listed in their
            outputs and stored in the `db`, and which not.
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
    db: BaseDb | None = None
    checkpoint: str | None = None
    store_timeout: float | None = None
    add_history_to_context: bool = False
    num_history_runs: int | None = None
    trim_history: int | TrimHook | None = None
    store_events: bool = False
    events_to_skip: Sequence[str] = ()
    telemetry: InitVar[bool] = False

    _functions: dict[str, Function] | None = field(default=None, init=False)
    _sessions: dict[str | None, str] = field(default_factory=new_dict, init=False)
    """With a `db`: the session of each user who names none."""

    def __post_init__(self, telemetry: bool) -> None:
        for several in _SEVERAL:
            if getattr(self, several) is None:  # as the reference's default is
                setattr(self, several, ())
        for what, (default, check) in _CHECKS.items():
            if (value := getattr(self, what)) is not default:
                check(what, value)
        self.id = self.id or slug(self.name) or f"{self._kind}-{uuid.uuid4().hex[:8]}"
        if self.model is not None and not isinstance(cast(Any, self.model), Model):
            raise ConfigurationError(
                f"model of {self} is {self.model!r}; give an object such as OpenAIResponses(id='gpt-5.2')"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(id={self.id!r})"

    @property
    def identity(self) -> tuple[str, str]:
        """What it is, `agent` or `team`, and its id."""
        return self._kind, self.id

    def _model(self) -> Model:
        model = self._find_model()
        if model is None:
            raise ConfigurationError(
                f"{self} has no model; give one, such as {type(self).__name__}(model=OpenAIResponses(id='gpt-5.2'))"
            )
        return model

    def _find_model(self) -> Model | None:
        return self.model

    def _own_tools(self) -> dict[str, Function]:
        if self._functions is None:
            tools = [*self.tools, update_session_state] if self.enable_agentic_state else self.tools
            self._functions = collect(tools)
        return dict(self._functions)

    def _session_of(self, user_id: str | None) -> str:
        """The session of a run that names none: with a `db` the same for all runs of one user, else a new one."""
        if self.db is None:
            return uuid.uuid4().hex
        return self._sessions.setdefault(user_id, uuid.uuid4().hex)


def _collectable(_what: str, tools: Any) -> None:
    collect(tools)  # to say at once what is wrong with them; they may still be added to


_SEVERAL = ("tools", "tool_hooks", "pre_hooks", "post_hooks")

# With the defaults, which need no check: most agents give few of them.
_CHECKS: dict[str, tuple[Any, Callable[[str, Any], None]]] = {
    what: (getattr(Settings, what), check)
    for check, names in (
        (check_text, ("name", "id")),
        (check_seconds, ("timeout", "store_timeout")),
        (partial(check_seconds, zero=True), ("cancel_grace", "delay_between_retries")),
        (check_count, ("retries", "tool_call_limit")),
        (partial(check_count, least=1), ("num_history_runs",)),
        (check_schema, ("output_schema",)),
        (check_named, ("session_state", "dependencies", "metadata")),
        (check_limits, ("limits",)),
        (check_hooks, ("tool_hooks", "pre_hooks", "post_hooks")),
        (_collectable, ("tools",)),
        (check_trim, ("trim_history",)),
        (check_db, ("db",)),
        (check_checkpoint, ("checkpoint",)),
    )
    for what in names
}
