"""Sessions go out of a database and into another, or are copied, and nothing of them is lost or mixed up."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kern_async.db.base import ImportSession, RunKey, RunRecord, SessionRecord, SessionSeed
from kern_async.engine.transfer import exported, forked, imported
from kern_async.exceptions import ConfigurationError
from kern_async.run.agent import RunCancelledEvent, RunOutput, RunStartedEvent
from kern_async.run.base import CancellationStage, RunInput, RunStatus, Work
from kern_async.run.message import Message
from kern_async.run.requirement import RunRequirement
from kern_async.run.team import RunContentEvent, RunPausedEvent, TeamRunOutput
from kern_async.run.tool import ToolExecution

from .conversations import answer, said, user

ROOT, MEMBER, SECOND, LIVE = (character * 32 for character in "abcd")
OLD = (ROOT, MEMBER, SECOND, LIVE, "first-session")


def record(run_id: str, output: RunOutput | TeamRunOutput | None, number: int, **values: Any) -> RunRecord:
    root, parent = values.pop("root", run_id), values.pop("parent", None)
    kind = "team" if isinstance(output, TeamRunOutput) or output is None else "agent"
    given: dict[str, Any] = {
        "key": RunKey(
            run_id=run_id,
            root_run_id=root,
            parent_run_id=parent,
            session_id="first-session",
            user_id="u",
            kind=kind,
            entity_id="crew" if kind == "team" else "writer",
            created_at=7,
        ),
        "number": number,
        "status": output.status.value if output is not None else "RUNNING",
        "attempt": 1,
        "owner": "process",
        "output": output.model_dump_json(exclude_none=True, exclude={"messages", "tools"})
        if output is not None
        else None,
        "resume": None,
        "error_type": None,
        "error": None,
        "messages": [message.model_dump_json() for message in output.messages] if output is not None else [],
        "tools": [tool.model_dump_json() for tool in output.tools] if output is not None else [],
    }
    return RunRecord(**{**given, **values})


@cache
def a_session() -> ImportSession:
    """A paused team run with a cancelled member; another run; one that is live."""
    delegated = ToolExecution(tool_call_id="1", tool_name="delegate", tool_args={"a": 1}, child_run_id=MEMBER)
    wait = RunRequirement(tool_execution=delegated, run_id=MEMBER, member_run_id=MEMBER)
    work = Work(kind="member", name="writer", run_id=MEMBER)
    ids: dict[str, Any] = {"session_id": "first-session", "user_id": "u"}
    member = RunOutput(
        **ids,
        run_id=MEMBER,
        parent_run_id=ROOT,
        agent_id="writer",
        status=RunStatus.cancelled,
        content="Ei \u00fc\u2028",
        interrupted=[work],
        cancellation_stage=CancellationStage.executing,
        messages=[user("Go."), said("Partly")],
    )
    root = TeamRunOutput(
        **ids,
        run_id=ROOT,
        team_id="crew",
        status=RunStatus.paused,
        input=RunInput(input_content={"topic": "rain"}),
        requirements=[wait],
        member_responses=[member],
        messages=[user("Go."), said(None, "1"), answer("1")],
        tools=[delegated],
    )
    second = TeamRunOutput(
        **ids, run_id=SECOND, team_id="crew", status=RunStatus.completed, content={"a": [1.5, None]}
    )
    team: dict[str, Any] = {"session_id": "first-session", "team_id": "crew"}
    events = [
        (ROOT, RunContentEvent(**team, run_id=ROOT, content="x", event_index=0, member_run_id=MEMBER)),
        (
            ROOT,
            RunStartedEvent(
                session_id="first-session",
                agent_id="writer",
                run_id=MEMBER,
                parent_run_id=ROOT,
                event_index=1,
            ),
        ),
        (
            ROOT,
            RunCancelledEvent(
                session_id="first-session",
                agent_id="writer",
                run_id=MEMBER,
                parent_run_id=ROOT,
                event_index=2,
                status=RunStatus.cancelled,
                cancelled_by="request",
                cancellation_stage=CancellationStage.executing,
                requested_at=1.25,
                settled_at=2.5,
                interrupted=[work],
            ),
        ),
        (
            ROOT,
            RunPausedEvent(
                **team, run_id=ROOT, event_index=3, status=RunStatus.paused, requirements=[wait], tools=[]
            ),
        ),
        (LIVE, RunContentEvent(**team, run_id=LIVE, content="y", event_index=0)),
    ]
    resume = json.dumps({MEMBER: ROOT, "of": [MEMBER], "session_id": "first-session"})
    return ImportSession(
        session=SessionRecord(
            seed=SessionSeed(session_id="first-session", user_id="u", kind="team", entity_id="crew"),
            state={"count": "1", "said": '"first"', "nothing": "null"},
            created_at=1.5,
            updated_at=2,
            run_count=3,
            name="Hats",
            metadata='{"shop":7}',
        ),
        runs=[
            record(ROOT, root, 3, resume=resume),
            record(MEMBER, member, 5, root=ROOT, parent=ROOT, error="\u00fc", attempt=2),
            record(SECOND, second, 8),
            record(LIVE, None, 9),
        ],
        events=[(root, event.event_index, event.run_id, event.to_json()) for root, event in events],
    )


def an_export() -> dict[str, Any]:
    whole = a_session()
    return exported(whole.session, whole.runs, whole.events)


def again(write: ImportSession) -> dict[str, Any]:
    return exported(write.session, write.runs, write.events)


def ended(data: dict[str, Any]) -> dict[str, Any]:
    """The export without its live run, which does not stay as it is."""
    data["runs"] = [run for run in data["runs"] if run["run_id"] != LIVE]
    data["events"] = [event for event in data["events"] if event["run_id"] != LIVE]
    return data


# Export and import.


def test_an_export_is_json_that_says_what_it_is() -> None:
    data = an_export()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert (data["format"], data["version"]) == ("kern_async.session", 1)
    assert [run["run_id"] for run in data["runs"]] == [ROOT, MEMBER, SECOND, LIVE]
    assert "process" not in json.dumps(data), "who owned a run is nobody's business elsewhere"


def test_export_and_import_are_the_identity() -> None:
    data = ended(an_export())
    given = copy.deepcopy(data)
    write = imported(json.loads(json.dumps(data)))
    assert again(write) == data
    assert imported(data) == write
    assert data == given, "what is imported is not changed"
    for event, before in zip(write.events, a_session().events, strict=False):
        assert event == before, "events can be replayed byte for byte"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(JSON, JSON, st.text(st.characters(codec="utf-8")))
def test_any_values_come_back_as_they_were(state: Any, content: Any, text: str) -> None:
    whole = a_session()
    output = json.loads(whole.runs[2].output or "")
    run = replace(
        whole.runs[2],
        output=json.dumps({**output, "content": content, "session_state": {text: state}}),
        resume=json.dumps(state),
        error=text,
    )
    session = replace(whole.session, state={"value": json.dumps(state), text: json.dumps(content)})
    data = exported(session, [run])
    assert again(imported(data)) == data


def test_an_import_belongs_to_nobody_and_live_runs_are_interrupted() -> None:
    write = imported(an_export())
    assert all(run.owner is None for run in write.runs)
    assert [run.number for run in write.runs] == [1, 2, 3, 4]
    assert [run.status for run in write.runs] == ["PAUSED", "CANCELLED", "COMPLETED", "ERROR"]
    assert write.runs[3].error_type == "Interrupted"
    assert write.runs[1].error == "\u00fc"
    assert write.session.run_count == 3


def test_an_export_without_a_name_and_metadata_is_read() -> None:
    data = an_export()
    for name in ("name", "metadata"):
        del data["session"][name]
    session = imported(data).session
    assert (session.name, session.metadata) == (None, None)
    assert (imported(an_export()).session.name, imported(an_export()).session.metadata) == (
        "Hats",
        '{"shop":7}',
    )


def test_an_import_may_have_another_session_id() -> None:
    write = imported(an_export(), session_id="other")
    assert write.session.seed.session_id == "other"
    assert {run.key.session_id for run in write.runs} == {"other"}
    assert [run.key.run_id for run in write.runs] == [ROOT, MEMBER, SECOND, LIVE]
    assert "first-session" not in json.dumps(again(write))


def test_a_session_named_like_a_word_of_ours_can_have_another_id() -> None:
    text = json.dumps(ended(an_export())).replace("first-session", "user")
    write = imported(json.loads(text), session_id="other")
    assert again(write) == json.loads(json.dumps(ended(an_export())).replace("first-session", "other"))


@pytest.mark.parametrize("session_id", ["", 1, "a\0b"])
def test_a_wrong_new_id_is_refused(session_id: Any) -> None:
    with pytest.raises(ConfigurationError, match="session_id"):
        imported(an_export(), session_id=session_id)
    with pytest.raises(ConfigurationError, match="session_id"):
        forked(a_session(), session_id)


# Refusing.

Change = Callable[[dict[str, Any]], object]


def put(value: Any, *path: str | int) -> Change:
    def change(data: Any) -> None:
        for step in path[:-1]:
            data = data[step]
        data[path[-1]] = value

    return change


def drop(*path: str | int) -> Change:
    def change(data: Any) -> None:
        for step in path[:-1]:
            data = data[step]
        del data[path[-1]]

    return change


def deep(value: Any) -> Any:
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (put("agno", "format"), "format: it is 'agno'"),
        (drop("format"), "format: it is None"),
        (put(2, "version"), "version: it is 2; this release reads version 1"),
        (put(True, "version"), "version: it is True"),
        (put(1, "more"), "more: Extra inputs"),
        (drop("runs"), "runs: Field required"),
        (put({}, "runs"), "runs: "),
        (put("", "session", "session_id"), "session.session_id: "),
        (put(b"s", "session", "session_id"), "session.session_id: a bytes is no JSON"),
        (put("a\0b", "session", "user_id"), "session.user_id: "),
        (put("crew", "session", "kind"), "session.kind: "),
        (put([], "session", "state"), "session.state: "),
        (put(float("nan"), "session", "created_at"), "session.created_at: nan is no JSON"),
        (put(-1.0, "session", "updated_at"), "session.updated_at: "),
        (put("\ud800", "session", "state", "count"), "session.state.count: .* no valid Unicode"),
        (put(1, "session", "state", 3), "session.state: its key 3 is no text"),
        (put((1, 2), "session", "state", "count"), "session.state.count: a tuple is no JSON"),
        (put(deep(1), "session", "state", "count"), "session.state.count: it is nested too deep"),
        (put(10**5_000, "session", "state", "count"), "session.state.count: .* too great"),
        (put("DONE", "runs", 1, "status"), "runs.1.status: "),
        (put(-1, "runs", 1, "attempt"), "runs.1.attempt: "),
        (put("1", "runs", 1, "attempt"), "runs.1.attempt: "),
        (put(2**80, "runs", 1, "created_at"), "runs.1.created_at: "),
        (put(1, "runs", 1, "owner"), "runs.1.owner: Extra inputs"),
        (put(ROOT, "runs", 2, "run_id"), f"runs.2: there are two runs '{ROOT}'"),
        (put(SECOND, "runs", 0, "root_run_id"), "runs.0: it has no parent"),
        (put(SECOND, "runs", 1, "parent_run_id"), "runs.1: parent_run_id .* no run before it"),
        (put(MEMBER, "runs", 1, "parent_run_id"), "runs.1: parent_run_id .* no run before it"),
        (put(SECOND, "runs", 1, "root_run_id"), "runs.1: root_run_id"),
        (put("agent", "runs", 0, "kind"), "runs.1: parent_run_id .* no team's run"),
        (put("v", "runs", 1, "user_id"), "runs.1: user_id is 'v', the session's 'u'"),
        (put([], "runs", 1, "output"), "runs.1.output: "),
        (put(SECOND, "runs", 1, "output", "run_id"), "runs.1.output.run_id: it is 'ccc"),
        (put("x", "runs", 1, "output", "session_id"), "runs.1.output.session_id: it is 'x'"),
        (put("x", "runs", 1, "output", "agent_id"), "runs.1.output.agent_id: it is 'x'"),
        (put("x", "runs", 1, "output", "metrics"), "runs.1.output.metrics: "),
        (put(None, "runs", 1, "messages", 0), "runs.1.messages.0: "),
        (put("judge", "runs", 1, "messages", 0, "role"), "runs.1.messages.0.role: "),
        (put({}, "runs", 0, "tools", 0), "runs.0.tools.0.tool_call_id: Field required"),
        (put("9", "events", 0, "root_run_id"), "events.0: there is no run"),
        (put(SECOND, "events", 0, "run_id"), "events.0: there is no run"),
        (put(MEMBER, "events", 0, "root_run_id"), "events.0: there is no run"),
        (put(9, "events", 0, "event_index"), "events.0.event.event_index: it is 0, and should be 9"),
        (put(MEMBER, "events", 0, "event", "run_id"), "events.0.event.run_id: "),
        (put("x", "events", 0, "event", "event"), "events.0.event: .*'event'"),
        (put(None, "events", 1, "event"), "events.1.event: "),
        (lambda data: data["events"].append(data["events"][0]), "events.5: event_index 0 .* is there twice"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_refused_with_its_place(change: Change, told: str) -> None:
    data = an_export()
    change(data)
    with pytest.raises(ConfigurationError, match=f"no exported session: {told}"):
        imported(data)


@given(JSON)
def test_data_of_any_kind_is_refused(data: Any) -> None:
    with pytest.raises(ConfigurationError):
        imported(data)


def paths(data: Any, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    inner: list[tuple[str | int, Any]] = (
        list(data.items())
        if isinstance(data, dict)
        else list(enumerate(data))
        if isinstance(data, list)
        else []
    )
    return [path for step, value in inner for path in ((*at, step), *paths(value, (*at, step)))]


PATHS = paths(an_export())


@given(st.sampled_from(PATHS), JSON)
def test_with_any_part_replaced_it_is_taken_or_refused_in_words(
    path: tuple[str | int, ...], value: Any
) -> None:
    data = an_export()
    put(value, *path)(data)
    refused = ""
    try:
        write = imported(data)
        assert again(imported(again(write))) == again(write)
    except ConfigurationError as error:
        refused = str(error)
    assert not refused or refused.startswith("this is no exported session: ")


def test_what_is_not_a_dict_is_refused() -> None:
    for data in (None, "{}", b"{}", [], object()):
        with pytest.raises(ConfigurationError, match="not the dict that an export gave"):
            imported(data)


# Forking.


def test_a_fork_has_no_old_id_but_where_it_says_what_it_is_a_copy_of() -> None:
    write = forked(a_session(), "second-session")
    data = again(write)
    for run, origin in zip(data["runs"], (ROOT, MEMBER, SECOND), strict=True):
        assert run["output"].pop("forked_from_run_id") == origin
        assert run["output"].pop("forked_from_session_id") == "first-session"
    text = json.dumps(data)
    for old in OLD:
        assert old not in text
    assert write.session.seed.session_id == "second-session"
    assert all(run.owner is None for run in write.runs)


def test_a_fork_is_the_session_under_other_ids() -> None:
    whole = a_session()
    write = forked(whole, "second-session")
    new = dict(zip((ROOT, MEMBER, SECOND), (run.key.run_id for run in write.runs), strict=True))
    assert len(set(new.values()) | set(new)) == 6
    data = again(write)
    for run in data["runs"]:
        del run["output"]["forked_from_run_id"], run["output"]["forked_from_session_id"]
    text = json.dumps(data)
    for old, fresh in [*new.items(), ("first-session", "second-session")]:
        text = text.replace(fresh, old)
    expected = ended(again(whole))
    made = json.loads(text)
    for each in (made, expected):
        del each["session"]["created_at"], each["session"]["updated_at"]
    assert made == expected
    assert write.session.run_count == 2


def test_a_fork_can_be_exported_imported_and_forked_again() -> None:
    write = forked(a_session(), "second-session")
    assert again(imported(again(write))) == again(write)
    third = forked(write, "third-session")
    origins = [json.loads(run.output or "")["forked_from_run_id"] for run in third.runs]
    assert origins == [run.key.run_id for run in write.runs]
    assert (
        RunOutput.from_dict(json.loads(third.runs[1].output or "")).forked_from_session_id == "second-session"
    )


def test_live_runs_and_what_is_below_them_are_left_out_of_a_fork() -> None:
    whole = a_session()
    runs = [replace(whole.runs[0], status="RUNNING"), *whole.runs[1:3]]
    write = forked(replace(whole, runs=runs), "second-session")
    assert [run.status for run in write.runs] == ["COMPLETED"]
    assert write.events == []
    runs = [whole.runs[0], replace(whole.runs[1], status="PENDING")]
    write = forked(replace(whole, runs=runs, events=whole.events[:4]), "second-session")
    assert [run.status for run in write.runs] == ["PAUSED"]
    assert [event[1] for event in write.events] == [0, 3]
    assert MEMBER not in json.dumps([write.events, [run.tools for run in write.runs]])


def test_a_run_named_like_a_role_or_a_status_leaves_them_alone() -> None:
    data = ended(an_export())
    text = json.dumps(data).replace(ROOT, "PAUSED").replace(MEMBER, "user")
    write = forked(imported(json.loads(text)), "second-session")
    assert write.runs[0].status == "PAUSED"
    assert json.loads(write.runs[0].output or "")["status"] == "PAUSED"
    assert Message.model_validate_json(write.runs[1].messages[0]).role == "user"


def test_what_was_said_stays_whatever_ids_it_speaks_of() -> None:
    whole = a_session()
    second = whole.runs[2]
    output = {**json.loads(second.output or ""), "content": {"run_id": SECOND, "said": SECOND}}
    message = Message(role="user", content=SECOND).model_dump_json()
    runs = [replace(second, output=json.dumps(output), messages=[message])]
    write = forked(replace(whole, runs=runs, events=[]), "second-session")
    assert json.loads(write.runs[0].output or "")["content"] == output["content"]
    assert write.runs[0].messages == [message]


def test_a_session_is_not_forked_onto_itself() -> None:
    with pytest.raises(ConfigurationError, match="cannot be forked to its own id"):
        forked(a_session(), "first-session")
