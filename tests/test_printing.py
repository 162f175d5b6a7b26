from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from kern_async.agent.printing import RunView, summary
from kern_async.run import agent, team
from kern_async.run.base import BaseEvent, CancellationStage, CustomEvent, RunMetrics, RunStatus, Work
from kern_async.run.requirement import RunRequirement
from kern_async.run.tool import ToolExecution

ESCAPE = "\x1b"
MEMBERS = {"story": "StorytellerAgent", "edit": "EditorAgent"}


def of_team(kind: Any, **fields: Any) -> BaseEvent:
    return kind(
        run_id="root", session_id="s", team_id="storytelling-team", team_name="Storytelling Team", **fields
    )


def of_member(kind: Any, run_id: str, **fields: Any) -> BaseEvent:
    return kind(
        run_id=run_id,
        parent_run_id="root",
        session_id="s",
        agent_id=run_id,
        agent_name=MEMBERS[run_id],
        **fields,
    )


def says(run_id: str, text: str) -> BaseEvent:
    return of_member(agent.RunContentEvent, run_id, content=text)


def completed(run_id: str, text: str | None) -> BaseEvent:
    return of_member(agent.RunCompletedEvent, run_id, status=RunStatus.completed, content=text)


def cancelled(by: str, text: str | None, interrupted: list[Work]) -> dict[str, Any]:
    return {
        "status": RunStatus.cancelled,
        "cancelled_by": by,
        "reason": "enough of it",
        "cancellation_stage": CancellationStage.executing,
        "requested_at": 1.0,
        "settled_at": 1.012,
        "content": text,
        "interrupted": interrupted,
        "metrics": RunMetrics(total_tokens=7, estimated=True, duration=2.5),
    }


STARTS = [
    of_team(team.RunStartedEvent),
    of_member(agent.RunStartedEvent, "story"),
    of_member(agent.RunStartedEvent, "edit"),
]
CUT_RUN = [
    *STARTS,
    says("story", "Once upon"),
    says("edit", "Show, do"),
    says("story", " a time"),
    says("edit", " not tell"),
    of_member(
        agent.RunCancelledEvent,
        "story",
        **cancelled("parent", "Once upon a time", [Work(kind="model", name="smollm2", run_id="story")]),
    ),
    of_member(
        agent.RunErrorEvent,
        "edit",
        status=RunStatus.error,
        content=None,
        error="cut",
        error_type="ModelTimeout",
    ),
    of_team(
        team.RunCancelledEvent,
        **cancelled("request", None, [Work(kind="member", name="StorytellerAgent", run_id="story")]),
    ),
]


def plain(events: list[BaseEvent]) -> str:
    file = io.StringIO()
    with RunView(file=file) as view:
        for event in events:
            view.show(event)
    return file.getvalue()


def rich(events: list[BaseEvent], *, width: int = 100, height: int = 24) -> str:
    """What stays on the screen when the view is left, without styles."""
    file = io.StringIO()
    with RunView(console=Console(file=file, force_terminal=True, width=width, height=height)) as view:
        for event in events:
            view.show(event)
    last_erased_line = "\x1b[1A\x1b[2K"
    return re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue().rpartition(last_erased_line)[2])


def live_frame(view: RunView, console: Console, height: int) -> list[str]:
    view._screen._live.stop()  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]  # it would draw at the same time
    console.begin_capture()
    console.print(view._screen._panels(height))  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    return re.sub(r"\x1b\[[0-9;]*m", "", console.end_capture()).splitlines()


def test_plain_text_gives_each_line_to_one_run_and_keeps_all_of_its_text() -> None:
    texts = {"story": "", "edit": ""}
    events: list[BaseEvent] = list(STARTS)
    for number in range(120):
        for run_id in texts:
            piece = f" {run_id}{number}"
            texts[run_id] += piece
            events.append(says(run_id, piece))
    events += [completed(run_id, text) for run_id, text in texts.items()]

    lines = plain(events).splitlines()

    for run_id, text in texts.items():
        prefix = f"[{MEMBERS[run_id]}] "
        said = [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]
        assert "".join(" ".join(said[1:-1]).split()) == "".join(text.split())
        assert said[0] == "(running)"
        assert said[-1] == "(completed)"
    assert max(map(len, lines)) < 200
    assert len(lines) > 20, "members take turns, the second does not wait for the end of the first"


def test_plain_text_shows_how_each_run_ended_and_what_a_cancel_kept() -> None:
    shown = plain(CUT_RUN)
    assert "[StorytellerAgent] Once upon a time\n" in shown
    assert (
        "[StorytellerAgent] (cancelled by parent: enough of it; kept 16 characters; interrupted model smollm2; 2.5 s)"
        in shown
    )
    assert "[EditorAgent] Show, do not tell\n[EditorAgent] (error; ModelTimeout: cut)" in shown
    assert "[Storytelling Team] (cancelled by request: enough of it; kept no text; " in shown
    assert ESCAPE not in shown


def test_plain_text_of_an_agent_alone_is_its_answer() -> None:
    events = [of_member(agent.RunStartedEvent, "story"), says("story", "One.\n\n"), says("story", "Two.")]
    assert plain([*events, completed("story", "One.\n\nTwo.")]) == "One.\n\nTwo.\n"


def test_an_answer_that_never_streamed_is_shown_from_its_end() -> None:
    assert (
        plain([of_member(agent.RunStartedEvent, "story"), completed("story", "All at once.")])
        == "All at once.\n"
    )


def test_leaving_the_view_early_shows_what_was_waiting_for_its_turn() -> None:
    shown = plain([*STARTS, says("story", "Once"), says("edit", "Show")])
    assert shown.endswith("[StorytellerAgent] Once\n[EditorAgent] Show\n")


def test_a_member_whose_line_never_ends_does_not_silence_the_others() -> None:
    file = io.StringIO()
    with RunView(file=file) as view:
        for event in [*STARTS, says("story", "Once"), *[says("edit", " show, do not tell")] * 20]:
            view.show(event)
        assert "[EditorAgent] show, do not tell" in file.getvalue()


def test_tools_and_progress_are_notes_on_lines_of_their_own() -> None:
    call = ToolExecution(tool_call_id="c", tool_name="weather")
    shown = plain(
        [
            *STARTS,
            says("story", "Let me look."),
            of_member(agent.ToolCallStartedEvent, "story", tool=call),
            of_member(CustomEvent, "story", content="half way", tool_call_id="c"),
            of_member(agent.ToolCallErrorEvent, "story", tool=call, error="no station"),
        ]
    )
    assert "[StorytellerAgent] Let me look.\n" in shown
    for note in ("tool weather started", "half way", "tool weather failed: no station"):
        assert f"[StorytellerAgent] ({note})\n" in shown


def test_two_runs_of_one_member_are_told_apart() -> None:
    again = agent.RunStartedEvent(
        run_id="story-2", session_id="s", agent_id="story", agent_name="StorytellerAgent"
    )
    assert "[StorytellerAgent #2] (running)" in plain([*STARTS, again])


def test_what_a_model_writes_cannot_steer_the_terminal() -> None:
    evil = says("story", f"a{ESCAPE}[2Jb\x9b31mc\rd\x07")
    assert ESCAPE not in plain([*STARTS, evil])
    assert "[StorytellerAgent] a[2Jb31mcd\n" in plain([*STARTS, evil])
    assert "a[2Jb31mcd" in rich([*STARTS, evil])


def test_plain_text_survives_an_output_that_is_not_unicode() -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    with RunView(file=file) as view:
        for event in [of_member(agent.RunStartedEvent, "story"), says("story", "caf\u00e9")]:
            view.show(event)
    assert raw.getvalue() == b"caf?\n"


@pytest.mark.parametrize(("width", "rows"), [(100, 1), (80, 1), (60, 2)])
def test_panels_stand_side_by_side_where_there_is_room(width: int, rows: int) -> None:
    screen = rich(CUT_RUN, width=width)
    titles = [
        line
        for line in screen.splitlines()
        if "StorytellerAgent cancelled" in line or "EditorAgent error" in line
    ]
    assert len(titles) == rows


def test_panels_side_by_side_are_of_one_height_and_fill_the_terminal() -> None:
    longer = [says("story", f" word{number}") for number in range(60)]
    lines = rich([*STARTS, *longer, *CUT_RUN[3:]], width=80).splitlines()
    assert [line.count("\u256d") for line in lines if "\u256d" in line] == [2, 1]
    assert [line.count("\u2570") for line in lines if "\u2570" in line] == [2, 1]
    assert {len(line.rstrip()) for line in lines if line.strip()} == {80}


def test_a_footer_is_under_the_panels_while_they_are_live() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100, height=20)
    with RunView(console=console, footer="Ctrl-C stops") as view:
        for event in [*STARTS, *(says("story", f" word{number}") for number in range(900))]:
            view.show(event)
        view._screen._live.stop()  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
        console.begin_capture()
        view.footer = "stopping"
        console.print(view._screen._frame())  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
        frame = console.end_capture().splitlines()
    assert "stopping" in frame[-1]
    assert len(frame) <= 19
    left = file.getvalue().rpartition("\x1b[1A\x1b[2K")[2]
    assert "word899" in left
    assert "stopping" not in left


def test_panels_keep_all_text_and_every_end_on_the_screen() -> None:
    words = [f" word{number}" for number in range(900)]
    events = [*STARTS, *(says("story", word) for word in words), *CUT_RUN[3:]]
    screen = rich(events, width=100, height=20)
    shown = re.findall(r"word\d+", screen)
    assert shown == [word.strip() for word in words]
    for end in ("cancelled by parent", "ModelTimeout: cut", "Storytelling Team cancelled"):
        assert end in screen


def test_live_panels_show_the_newest_lines_and_fit_the_screen() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=20)
    with RunView(console=console) as view:
        for event in [*STARTS, *(says("story", f" word{number}") for number in range(900))]:
            view.show(event)
        frame = live_frame(view, console, 19)
    assert any("word899 " in line for line in frame)
    assert not any("word1 " in line for line in frame)
    assert len(frame) <= 19


def test_a_live_panel_that_says_nothing_yet_tells_whom_it_waits_for() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=20)
    with RunView(console=console) as view:
        for event in STARTS:
            view.show(event)
        frame = live_frame(view, console, 19)
    assert sum(line.count("waiting for its model") for line in frame) == 2
    assert any("waiting for its members" in line for line in frame)


def test_live_lines_do_not_flow_anew_while_text_comes() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=60, height=20)
    lines: dict[str, set[str]] = {}
    with RunView(console=console) as view:
        view.show(of_member(agent.RunStartedEvent, "story"))
        for number in range(600):
            view.show(says("story", f" word{number}"))
            shown = [
                words for line in live_frame(view, console, 12) if (words := re.findall(r"word\d+", line))
            ]
            for words in shown[:-1]:
                lines.setdefault(words[0], set()).add(" ".join(words))
    assert len(lines) > 50
    assert all(len(forms) == 1 for forms in lines.values())


def test_a_piped_view_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr("sys.stdout", file)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with RunView() as view:
        for event in CUT_RUN:
            view.show(event)
    assert "[StorytellerAgent] Once upon a time" in file.getvalue()
    assert ESCAPE not in file.getvalue()


def test_a_view_ends_its_screen_when_the_loop_raises() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, record=True)
    with pytest.raises(KeyboardInterrupt), RunView(console=console) as view:
        view.show(of_member(agent.RunStartedEvent, "story"))
        view.show(says("story", "Once upon"))
        raise KeyboardInterrupt
    assert "Once upon" in console.export_text()


def test_summary_tells_the_whole_tree() -> None:
    work = Work(kind="model", name="smollm2", run_id="story")
    output = team.TeamRunOutput(
        run_id="root-1",
        session_id="s",
        team_id="storytelling-team",
        team_name="Storytelling Team",
        status=RunStatus.cancelled,
        cancelled_by="request",
        reason="enough of it",
        metrics=RunMetrics(total_tokens=1234, estimated=True, duration=2.34),
        member_responses=[
            agent.RunOutput(
                run_id="story-1",
                session_id="s",
                agent_id="storyteller-agent",
                agent_name="StorytellerAgent",
                status=RunStatus.cancelled,
                content="Once upon a time",
                interrupted=[work],
                metrics=RunMetrics(total_tokens=1200, estimated=True),
            ),
            agent.RunOutput(
                run_id="edit-1",
                session_id="s",
                agent_id="editor-agent",
                status=RunStatus.error,
                error="cut",
                error_type="ModelTimeout",
                metrics=RunMetrics(total_tokens=34),
            ),
        ],
    )
    table = summary(output)
    rows = [line.split() for line in table.splitlines()]
    assert ["Storytelling", "Team", "CANCELLED", "no", "text", "~1,234", "2.3", "s"] in rows
    assert ["StorytellerAgent", "CANCELLED", "16", "characters", "~1,200"] in rows
    assert ["editor-agent", "ERROR", "no", "text", "34"] in rows
    assert [row for row in rows if row and row[-1] in ("root-1", "story-1", "edit-1")] == [
        ["Storytelling", "Team", "root-1"],
        ["StorytellerAgent", "story-1"],
        ["editor-agent", "edit-1"],
    ]
    assert "cancelled by request: enough of it" in table
    assert "interrupted in StorytellerAgent: model smollm2" in table
    assert "error in editor-agent: ModelTimeout: cut" in table


def test_a_pause_says_what_is_waited_for() -> None:
    shown = io.StringIO()
    call = ToolExecution(tool_call_id="c", tool_name="pay", requires_confirmation=True)
    waiting = RunRequirement(tool_execution=call, member_agent_name="EditorAgent", member_run_id="edit")
    with RunView(file=shown) as view:
        view.show(of_team(team.RunStartedEvent))
        view.show(of_team(team.RunPausedEvent, status=RunStatus.paused, requirements=[waiting]))
        view.show(of_team(team.RunContinuedEvent))
        view.show(of_team(team.RunCompletedEvent, status=RunStatus.completed, content="Paid."))
    assert "(paused; waits for a yes to pay of EditorAgent)" in shown.getvalue()
    assert shown.getvalue().rstrip().endswith("(completed)")
