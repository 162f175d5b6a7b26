"""Team: an agent whose tools are its members."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, cast

from kern_async.agent.arguments import check_count
from kern_async.agent.prompt import build_messages
from kern_async.agent.runnable import Request, Runnable
from kern_async.engine.kept import Kept
from kern_async.engine.pausing import Pausing
from kern_async.engine.plan import Plan
from kern_async.engine.revive import at_rest, goes_on
from kern_async.engine.run import Run
from kern_async.exceptions import ConfigurationError, ToolError
from kern_async.models.base import Model
from kern_async.run.message import Message, text_message
from kern_async.run.team import TeamEvent, TeamRunOutput
from kern_async.tools import Function

from .delegation import Delegation, answer_of
from .mode import TeamMode
from .prompt import describe, members_said, team_parts
from .tools import member_information, tools_of

Member = Runnable[Any, Any]


@dataclass(kw_only=True, eq=False, repr=False)
class Team(Runnable[TeamEvent, TeamRunOutput]):
    """A leader and its members. It holds no state of its runs: any number may go on at once.

    Each member's work is a run of its own, inside the team's: it ends before the team's does, whatever ends it.

    Args:
        members: agents and teams, to any depth; at least one.
        mode: how they work together; `respond_directly=True` means `route`, `delegate_to_all_members=True`
            means `broadcast`, and a mode that is given overrides both. In `route` the content is all that the
            team's stream has said: also what the leader said before, and a member that then failed.
        model: the leader's; default: its first member's.
        max_iterations: how many rounds over the task list a run in mode `tasks` may make.
        determine_input_for_members: whether a member gets the leader's words, or the run's own input.
        share_member_interactions: whether a member is told what others were asked and answered in this run.
        add_team_history_to_members: whether a member is told, before its task, what the user asked and what was
            answered in the session's earlier runs: the last `num_team_history_runs` of them.
        get_member_information_tool: gives the leader a tool that describes the members.
        stream_member_events: whether the team's stream carries the members' events.
        show_members_responses, store_member_responses: accepted; members' outputs are always in
            `member_responses`, and shown.

    The other keywords are those of `Runnable`.

    Raises:
        ConfigurationError: no member, two of one id, or a member that contains the team.
    """

    _kind: ClassVar[Literal["agent", "team"]] = "team"

    members: Sequence[Member] = field(kw_only=False)
    mode: TeamMode | str | None = None
    respond_directly: bool = False
    delegate_to_all_members: bool = False
    max_iterations: int = 10
    determine_input_for_members: bool = True
    share_member_interactions: bool = False
    get_member_information_tool: bool = False
    stream_member_events: bool = True
    show_members_responses: bool = False
    store_member_responses: bool = False
    add_team_history_to_members: bool = False
    num_team_history_runs: int = 3

    def __post_init__(self, telemetry: bool) -> None:
        super().__post_init__(telemetry)
        check_count("num_team_history_runs", self.num_team_history_runs, least=1)
        if cast(Any, self.num_team_history_runs) is None:
            raise ConfigurationError("num_team_history_runs is None; it is a whole number >= 1")
        if self.mode is None:
            self.mode = (
                TeamMode.route
                if self.respond_directly
                else TeamMode.broadcast
                if self.delegate_to_all_members
                else TeamMode.coordinate
            )
        try:
            self.mode = TeamMode(self.mode)
        except ValueError:
            raise ConfigurationError(
                f"mode of {self} is {self.mode!r}; it is one of {', '.join(TeamMode)}"
            ) from None
        check_count("max_iterations", self.max_iterations, least=1)
        self._check_members(())

    def _check_members(self, above: tuple[Team, ...]) -> None:
        if self in above:
            path = " > ".join(team.id for team in (*above, self))
            raise ConfigurationError(f"{self} is a member of itself: {path}")
        if not self.members:
            raise ConfigurationError(f"{self} has no members; give members=[Agent(...), ...]")
        seen: set[str] = set()
        for member in self.members:
            if not isinstance(cast(Any, member), Runnable):
                raise ConfigurationError(f"a member of {self} is {member!r}; members are agents and teams")
            if member.id in seen:
                raise ConfigurationError(
                    f"two members of {self} have the id {member.id!r}; give one of them another name or id"
                )
            seen.add(member.id)
            if isinstance(member, Team):
                member._check_members((*above, self))

    def _walk(self) -> Iterator[Member]:
        level: list[Member] = list(self.members)
        while level:
            yield from level
            level = [inner for member in level if isinstance(member, Team) for inner in member.members]

    def everybody(self) -> Iterator[Member]:
        yield self
        yield from self._walk()

    def find_member(self, member_id: str) -> Member | None:
        """The member with this id, or a member of a member; the nearest one."""
        return next((member for member in self._walk() if member.id == member_id), None)

    def describe_members(self) -> str:
        """The members as the leader is told of them, a line each."""
        return describe(self.members)

    def check(self) -> None:
        """Find at a call what would otherwise fail in the run, in this team and in every member.

        Raises:
            ConfigurationError: of the members (which may have been changed since), or of somebody's tools.
        """
        self._check_members(())
        super().check()
        for tool in self._inner_tools():
            if tool.name in self._own_tools():
                raise ConfigurationError(
                    f"{self} has a tool {tool.name!r}, which is the name of a team's own tool"
                )
        for member in self.members:
            member.check()

    @property
    def team_history_runs(self) -> int:
        """Of how many earlier runs, at most, its members or theirs are told."""
        nested = [member.team_history_runs for member in self.members if isinstance(member, Team)]
        return max([self.num_team_history_runs if self.add_team_history_to_members else 0, *nested])

    def _inner_tools(self) -> list[Function]:
        tools = tools_of(TeamMode(self.mode or TeamMode.coordinate))
        return [*tools, member_information()] if self.get_member_information_tool else [*tools]

    def _find_model(self) -> Model | None:
        return self.model or self.members[0]._find_model()

    def revive_into(self, run: Run, kept: Kept) -> None:
        super().revive_into(run, kept)
        model = self._model()
        due = {call.id for call in run.due}
        for child in kept.children:
            member = self.find_member(child.owner[1])
            if member is None or not goes_on(child, due, kept):
                at_rest(child, parent=run)
                continue
            output = child.output
            made = member.create_member_run(
                output.input.input_content if output.input is not None else "",
                parent=run,
                fallback_model=model,
                session_state=dict(output.session_state or {}),
                speaks_for=run if self.mode is TeamMode.route else None,
                run_id=output.run_id,
            )
            member.revive_into(made, child)
            if not self.stream_member_events or run.id in run.log.hidden:
                run.log.hidden[made.id] = None

    def _plan(self, run: Run, request: Request) -> Plan:
        delegation = Delegation(team=self, run=run, model=request.model)
        run.desk = delegation
        mode = self.mode
        inner = self._inner_tools()

        def messages(run: Run, history: Sequence[Message]) -> list[Message]:
            return build_messages(self, run, request, history=history, extra=team_parts(self))

        plan = Plan(
            **self._plan_fields(request),
            messages=messages,
            team_history_runs=self.team_history_runs,
            tools=self._own_tools() | {tool.name: tool for tool in inner},
            inner=frozenset(tool.name for tool in inner),
        )
        if mode is TeamMode.broadcast:
            plan.open = _broadcast
        elif mode is TeamMode.tasks:
            plan.open = self._first_round
            plan.next_round = self._next_round
        return plan

    async def _first_round(self, run: Run) -> None:
        run.emit("TaskIterationStarted", iteration=1, max_iterations=self.max_iterations)

    def _next_round(self, run: Run, number: int) -> str | None:
        tasks = cast(Delegation, run.desk).tasks
        run.emit("TaskIterationCompleted", iteration=number, max_iterations=self.max_iterations)
        if tasks.finished or tasks.settled or not tasks.tasks or number >= self.max_iterations:
            return None
        run.emit("TaskIterationStarted", iteration=number + 1, max_iterations=self.max_iterations)
        return f"The goal is not reached yet. The tasks now:\n{tasks.describe()}\nGo on."


async def _broadcast(run: Run) -> None:
    """Ask all members at once, and put what they answered before the leader; what a cancel leaves, too."""
    delegation = cast(Delegation, run.desk)
    try:
        await delegation.ask_all()
    except Pausing:
        raise
    except BaseException:
        place = len(run.messages)
        if _tell_leader(run, delegation):
            run.progress.told = place
        raise
    _tell_leader(run, delegation)


def _tell_leader(run: Run, delegation: Delegation) -> bool:
    """Whether there was anything to tell."""
    answers: list[tuple[str, str]] = []
    outputs = {child.owner.id: child.output for child in run.children if child.output is not None}
    for member in delegation.team.members:
        if (output := outputs.get(member.id)) is not None:
            try:
                text = answer_of(member, output)
            except ToolError as exc:
                text = str(exc)
            answers.append((member.name or member.id, text))
    if answers:
        run.messages.append(text_message("user", members_said(answers)))
    return bool(answers)
