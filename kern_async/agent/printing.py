"""A run in the terminal: live while it goes on, and a table of what it left."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TextIO, cast

from kern_async.run.agent import BaseRunEvent, RunOutput
from kern_async.run.base import (
    BaseEvent,
    Cancelled,
    ContentDelta,
    CustomEvent,
    Ended,
    Failed,
    Paused,
    RunMetrics,
    RunStatus,
    Started,
    ToolEvent,
    ToolFailed,
    Work,
)
from kern_async.run.requirement import RunRequirement
from kern_async.run.team import BaseTeamRunEvent, TeamRunOutput
from kern_async.run.tool import ToolExecution

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

_COLOURS = {
    RunStatus.running: "cyan",
    RunStatus.completed: "green",
    RunStatus.cancelled: "yellow",
    RunStatus.paused: "magenta",
    RunStatus.error: "red",
}
_MIN_PANEL_WIDTH = 38
_MIN_PANEL_HEIGHT = 5
_GAP = 1
_PLAIN_LINE = 72


@dataclass(eq=False)
class _Speaker:
    """One run of the tree, and what it has said; a note is a remark of ours between its texts."""

    name: str
    is_team: bool
    status: RunStatus = RunStatus.running
    said: list[tuple[str, bool]] = field(default_factory=list[tuple[str, bool]])  # text, whether it is a note
    has_text: bool = False
    end: str = ""


class _Screen(Protocol):
    def started(self, speaker: _Speaker) -> None: ...
    def said(self, speaker: _Speaker, text: str, *, note: bool) -> None: ...
    def ended(self, speaker: _Speaker) -> None: ...
    def close(self) -> None: ...


class RunView:
    """Shows the events of one run live: a team and each of its members apart, with the state of each.

    With rich installed, on a terminal: panels, members side by side where there is room, the newest lines of each
    while it speaks and all of its text at the end. Else plain text without escape codes, in which a line
    belongs to one run and names it. `file` is where to write (default: stdout), or `console` a rich console.
    `footer` is a quiet line under the panels while they are live; it may be changed at any time, from anywhere.

    Use it as a context manager round the loop over a stream; `show` is for one thread at a time, never waits and
    never raises because of an event. Leaving it, by an exception too, shows all there is.
    """

    def __init__(
        self, *, file: TextIO | None = None, console: Console | None = None, footer: str = ""
    ) -> None:
        self.footer = footer
        self._file = file
        self._console = console
        self._speakers: dict[str, _Speaker] = {}
        self._screen: _Screen | None = None

    def __enter__(self) -> Self:
        console, file = self._console, self._file or sys.stdout
        if console is None and _rich_fits(file):
            from rich.console import Console

            console = Console(file=file)
        if console and console.is_terminal and not console.is_dumb_terminal:
            self._screen = _RichScreen(console, self._speakers, lambda: self.footer)
        else:
            self._screen = _PlainScreen(cast("TextIO", console.file) if console else file)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._screen:
            self._screen.close()
            self._screen = None

    @property
    def is_live(self) -> bool:
        """Whether it draws panels on a terminal now, under which a footer is seen."""
        return isinstance(self._screen, _RichScreen)

    def show(self, event: BaseEvent) -> None:
        """Show one event of the run or of a member; kinds that say nothing to a reader are passed over."""
        screen = self._screen
        if screen is None:
            raise RuntimeError("show an event inside of `with RunView() as view:`")
        speaker = self._speakers.get(event.run_id)
        if speaker is None:
            speaker = self._speakers[event.run_id] = self._new_speaker(event)
            screen.started(speaker)
        if isinstance(event, ContentDelta):
            self._say(screen, speaker, event.content)
        elif isinstance(event, Ended):
            if not speaker.has_text and isinstance(event.content, str):
                self._say(screen, speaker, event.content)
            speaker.status = event.status
            speaker.end = printable(_describe_end(event, event.content))
            screen.ended(speaker)
        elif isinstance(event, Started):  # a continued run: the view has seen its first attempt
            speaker.status = RunStatus.running
        elif note := _note(event):
            note = printable(note).replace("\n", " ")
            speaker.said.append((note, True))
            screen.said(speaker, note, note=True)

    def _say(self, screen: _Screen, speaker: _Speaker, text: str) -> None:
        text = printable(text)
        if text:
            speaker.has_text = True
            speaker.said.append((text, False))
            screen.said(speaker, text, note=False)

    def _new_speaker(self, event: BaseEvent) -> _Speaker:
        name, is_team = _name_of(event)
        same = sum(speaker.name.partition(" #")[0] == name for speaker in self._speakers.values())
        return _Speaker(name=f"{name} #{same + 1}" if same else name, is_team=is_team)


class _PlainScreen:
    """Lines of text. One run has the floor and is written as it speaks; others wait for the end of its line."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._floor: _Speaker | None = None
        self._waiting: dict[_Speaker, str] = {}
        self._column = 0
        self._named = False

    def started(self, speaker: _Speaker) -> None:
        self._named = self._named or speaker.is_team or self._floor is not None
        if self._named:  # an agent alone needs no name
            self.said(speaker, "running", note=True)

    def said(self, speaker: _Speaker, text: str, *, note: bool) -> None:
        text = f"\n({text})\n" if note else text
        self._floor = self._floor or speaker
        if self._floor is speaker and not (self._waiting and self._line_is_full(text)):
            self._write(speaker, text)
            return
        waiting = self._waiting[speaker] = self._waiting.get(speaker, "") + text
        if self._floor is speaker or self._column == 0 or len(waiting) > 2 * _PLAIN_LINE:
            self._next_floor()

    def _line_is_full(self, following: str) -> bool:
        enough = _PLAIN_LINE if following[0].isspace() else 2 * _PLAIN_LINE
        return self._column == 0 or self._column >= enough

    def ended(self, speaker: _Speaker) -> None:
        if speaker in self._waiting:
            self._break_line()
            self._write(speaker, self._waiting.pop(speaker).lstrip(" "))
        if self._named or speaker.status is not RunStatus.completed:
            self._break_line()
            self._write(speaker, f"({speaker.end})\n")
        if self._floor is speaker:
            self._next_floor()

    def close(self) -> None:
        while self._waiting:
            self._next_floor()
        self._break_line()

    def _next_floor(self) -> None:
        self._break_line()
        self._floor = next(iter(self._waiting), None)
        if self._floor:
            self._write(self._floor, self._waiting.pop(self._floor).lstrip(" "))

    def _break_line(self) -> None:
        if self._column:
            self._put("\n")

    def _write(self, speaker: _Speaker, text: str) -> None:
        prefix = f"[{speaker.name}] " if self._named else ""
        for line in text.splitlines(keepends=True):
            if self._column == 0 and line == "\n" and self._named:
                continue  # an empty line with a name says nothing
            self._put(prefix + line if self._column == 0 else line)

    def _put(self, text: str) -> None:
        self._column = 0 if text.endswith("\n") else self._column + len(text)
        encoding = self._file.encoding or "utf-8"
        self._file.write(text.encode(encoding, "replace").decode(encoding))
        self._file.flush()


class _RichScreen:
    """Panels that are drawn anew some times a second, by rich's own thread, and once in full at the end."""

    def __init__(
        self, console: Console, speakers: dict[str, _Speaker], footer: Callable[[], str] = str
    ) -> None:
        from rich.live import Live

        self._console = console
        self._speakers = speakers
        self._footer = footer
        self._tails: dict[_Speaker, tuple[Text, int]] = {}  # newest text, how much of `said` went in
        self._live = Live(
            console=console,
            get_renderable=self._frame,
            refresh_per_second=8,
            transient=True,
        )
        self._live.start()

    def started(self, speaker: _Speaker) -> None: ...

    def said(self, speaker: _Speaker, text: str, *, note: bool) -> None: ...

    def ended(self, speaker: _Speaker) -> None: ...

    def close(self) -> None:
        self._live.stop()
        if self._speakers:
            self._console.print(self._panels(None))

    def _frame(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        footer = self._footer()
        panels = self._panels(self._console.height - (2 if footer else 1))
        if not footer:
            return panels
        return Group(panels, Text(footer, style="dim", no_wrap=True, overflow="ellipsis"))

    def _panels(self, height: int | None) -> RenderableType:
        """The members' panels and the root's under them; with a `height`, what fits into so many lines."""
        from rich.console import Group
        from rich.table import Table

        speakers = list(self._speakers.values())
        root, members = speakers[:1], speakers[1:]
        columns = max(1, min(len(members), (self._console.width + _GAP) // (_MIN_PANEL_WIDTH + _GAP)))
        root_height = row_height = height
        if height is not None and members:
            rows = min(-(-len(members) // columns), max(1, height // _MIN_PANEL_HEIGHT - 1))
            members = _most_alive(members, rows * columns)
            root_height = max(_MIN_PANEL_HEIGHT, height // (rows + 1)) if root[0].has_text else 3
            row_height = max(_MIN_PANEL_HEIGHT, (height - root_height) // rows)
        widths = self._widths(columns)
        grid = Table.grid(padding=(0, _GAP, 0, 0))
        for width in widths:
            grid.add_column(width=width)
        for first in range(0, len(members), columns):
            row = members[first : first + columns]
            grid.add_row(*self._row(row, widths, row_height))
        below = self._row(root, [self._console.width], root_height)
        return Group(grid, *below) if members else Group(*below)

    def _widths(self, columns: int) -> list[int]:
        """The widths of so many panels side by side, which fill the terminal with gaps between them."""
        room = self._console.width - (columns - 1) * _GAP
        return [room // columns + (number < room % columns) for number in range(columns)]

    def _row(
        self, speakers: Sequence[_Speaker], widths: Sequence[int], height: int | None
    ) -> list[RenderableType]:
        """Panels of one height: what the longest text needs, and no more than `height`."""
        from rich.panel import Panel
        from rich.text import Text

        bodies: list[Text] = []
        for speaker, width in zip(speakers, widths, strict=False):
            body = self._body(speaker, width - 4, height and height - 2)
            if height is None:
                end = f"\n{speaker.end}" if body and speaker.end else speaker.end
                body.append(end, style=f"italic {_COLOURS.get(speaker.status, 'white')}")
                body = Text("\n").join(body.wrap(self._console, width - 4))
            bodies.append(body)
        needed = max((body.plain.count("\n") + 3 for body in bodies), default=None)
        panels: list[RenderableType] = []
        for speaker, body in zip(speakers, bodies, strict=True):
            colour = _COLOURS.get(speaker.status, "white")
            title = Text.assemble((speaker.name, "bold"), (f" {speaker.status.value.lower()}", colour))
            panels.append(Panel(body, title=title, title_align="left", border_style=colour, height=needed))
        return panels

    def _body(self, speaker: _Speaker, width: int, lines: int | None) -> Text:
        from rich.text import Text

        if lines is None:
            return _written(Text(), speaker.said)
        if not speaker.said and not speaker.end:
            whom = "its members" if speaker.is_team else "its model"
            return Text(f"waiting for {whom}", style="dim")
        tail, count = self._tails.get(speaker) or (Text(), 0)
        said = speaker.said[count:]
        wrapped = _written(tail, said).wrap(self._console, width)
        if len(wrapped) > 3 * lines and len(wrapped[-1]) < width:
            tail = Text("\n").join(wrapped[-lines:])  # cut between lines: the others must not flow anew
        self._tails[speaker] = tail, count + len(said)
        return Text("\n").join(wrapped[-lines:])


def _written(text: Text, said: Sequence[tuple[str, bool]]) -> Text:
    for words, is_note in said:
        text.append(f"\n({words})\n" if is_note else words, style="dim" if is_note else None)
    return text


def _most_alive(speakers: list[_Speaker], count: int) -> list[_Speaker]:
    if len(speakers) <= count:
        return speakers
    running = [speaker for speaker in speakers if not speaker.end][:count]
    ended = [speaker for speaker in speakers if speaker.end]
    kept = {*running, *ended[len(ended) - (count - len(running)) :]}
    return [speaker for speaker in speakers if speaker in kept]


def _rich_fits(file: TextIO) -> bool:
    return (
        file.isatty()
        and (file.encoding or "").lower().startswith("utf")
        and importlib.util.find_spec("rich") is not None
    )


def printable(text: str) -> str:
    """The text without control characters: what a model or a tool writes must not steer the terminal."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", text.replace("\r\n", "\n"))


def _name_of(event: BaseEvent) -> tuple[str, bool]:
    match event:
        case BaseTeamRunEvent():
            name, is_team = event.team_name or event.team_id, True
        case BaseRunEvent():
            name, is_team = event.agent_name or event.agent_id, False
        case CustomEvent():
            name = event.team_name or event.team_id or event.agent_name or event.agent_id or event.run_id
            is_team = event.team_id is not None
        case _:
            name, is_team = event.run_id, False
    return printable(name), is_team


def _note(event: BaseEvent) -> str:
    if isinstance(event, ToolFailed):
        return f"{_call(event.tool)} failed: {event.error}"
    if isinstance(event, ToolEvent):
        return f"{_call(event.tool)} {'started' if event.event.endswith('Started') else 'returned'}"
    if isinstance(event, CustomEvent):
        return str(event.content or "")
    return ""


def _call(tool: ToolExecution) -> str:
    return f"tool {tool.tool_name}"


def _describe_end(event: Ended, content: object) -> str:
    parts = [event.status.value.lower()]
    if isinstance(event, Cancelled):
        parts = [f"cancelled by {event.cancelled_by}" + (f": {event.reason}" if event.reason else "")]
        parts.append(f"kept {_length(content)}")
        if event.interrupted:
            parts.append(f"interrupted {_works(event.interrupted)}")
        if event.abandoned:
            parts.append(f"still going: {_works(event.abandoned)}")
    elif isinstance(event, Failed):
        parts.append(f"{event.error_type}: {event.error}")
    elif isinstance(event, Paused):
        parts.append(f"waits for {', '.join(map(_waiting, event.requirements)) or 'nothing'}")
    if event.metrics and event.metrics.duration is not None:
        parts.append(f"{event.metrics.duration:.1f} s")
    return "; ".join(parts)


def _waiting(requirement: RunRequirement) -> str:
    what = (
        "a yes to"
        if requirement.needs_confirmation
        else "values for"
        if requirement.needs_user_input
        else "the result of"
    )
    who = f" of {requirement.member_agent_name}" if requirement.member_agent_name else ""
    return f"{what} {requirement.tool_execution.tool_name}{who}"


def _works(works: Sequence[Work]) -> str:
    return ", ".join(f"{work.kind} {work.name}" for work in works)


def _length(content: object) -> str:
    if content is None:
        return "no text"
    length = len(content if isinstance(content, str) else str(content))
    return f"{length:,} character" + ("" if length == 1 else "s")


def summary(output: RunOutput | TeamRunOutput) -> str:
    """A table of a run and all below it, in plain text: status, text kept, tokens, time, run ids, what was cut."""
    runs = list(_tree(output, 0))
    table = [("run", "status", "text kept", "tokens", "time")]
    for depth, run in runs:
        name = "  " * depth + _output_name(run)
        table.append((name, run.status.value, _length(run.content), *_figures(run.metrics)))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
    lines.insert(1, "-" * max(map(len, lines)))
    if any(run.metrics.estimated for _, run in runs):
        lines.append("~ estimated: a provider never reports the tokens of a generation that was cut")
    lines += ["", "run ids:"]
    lines += [
        f"  {'  ' * depth}{_output_name(run).ljust(widths[0] - 2 * depth)}  {run.run_id}"
        for depth, run in runs
    ]
    if output.cancelled_by:
        lines += ["", f"cancelled by {output.cancelled_by}" + (f": {output.reason}" if output.reason else "")]
    for title, works in (("interrupted", "interrupted"), ("still going", "abandoned")):
        for _, run in runs:
            if found := getattr(run, works):
                lines.append(f"{title} in {_output_name(run)}: {_works(found)}")
    lines += [f"error in {_output_name(run)}: {run.error_type}: {run.error}" for _, run in runs if run.error]
    return printable("\n".join(lines)) + "\n"


def _tree(output: RunOutput | TeamRunOutput, depth: int) -> Iterator[tuple[int, RunOutput | TeamRunOutput]]:
    yield depth, output
    if isinstance(output, TeamRunOutput):
        for member in output.member_responses:
            yield from _tree(member, depth + 1)


def _output_name(output: RunOutput | TeamRunOutput) -> str:
    if isinstance(output, TeamRunOutput):
        return output.team_name or output.team_id
    return output.agent_name or output.agent_id


def _figures(metrics: RunMetrics) -> tuple[str, str]:
    tokens = f"{'~' if metrics.estimated else ''}{metrics.total_tokens:,}"
    return tokens, "" if metrics.duration is None else f"{metrics.duration:.1f} s"
