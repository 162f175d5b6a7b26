"""What a run's rows say, and how much of it its database has already."""

from __future__ import annotations

import json
import time
from collections.abc import Container, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydantic_core import to_json

from kern_async.db.base import Fence, PutRun, RunKey, SessionSeed
from kern_async.run.base import BaseOutput, RunStatus

from .resume import resume_of

if TYPE_CHECKING:
    from .run import Run

TEXT_EVERY = 1.0
"""Seconds between two writes of a text that grows and whose deltas are not stored as events."""

APART = {"messages", "tools", "events", "member_responses", "stored", "store_error", "event_index"}
"""Fields of an output that its row does not repeat: they have rows of their own, or say how the row was written."""


_encode = json.JSONEncoder(default=str).encode


def text_of(model: BaseModel, *, exclude: set[str] | None = None) -> str:
    """The object as JSON, whatever its values are: what is no JSON is its `str`."""
    try:
        return model.model_dump_json(exclude=exclude, exclude_none=True, fallback=str, warnings=False)
    except Exception:  # noqa: BLE001 - a value whose serializer fails, or half of a surrogate pair
        return json.dumps(
            model.model_dump(exclude=exclude, exclude_none=True, warnings=False), default=_plain
        )


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump()
    try:
        return asdict(value)
    except TypeError:
        return str(value)


def dumped(state: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """A session's state as JSON, key by key, and the keys whose values are none."""
    texts: dict[str, str] = {}
    wrong: list[str] = []
    for key, value in state.items():
        try:
            texts[key] = to_json(value).decode()
        except Exception:  # noqa: BLE001 - whatever the value's own code raises
            wrong.append(key)
    return texts, wrong


def changed_keys(
    before: Mapping[str, str], after: Mapping[str, str], *, ignore: Container[str] = ()
) -> dict[str, str | None]:
    """The keys that are new or say something else, and, with None, those that are gone."""
    changed: dict[str, str | None] = {key: text for key, text in after.items() if before.get(key) != text}
    return changed | dict.fromkeys(key for key in before if key not in after and key not in ignore)


class Rows:
    """One run's, in the writer's thread."""

    def __init__(self, key: RunKey, session: SessionSeed) -> None:
        self._key = key
        self._session = session
        self._read = 0
        """How many of the run's messages were looked at."""
        self._messages = 0
        """How many of them are stored: all but those that an earlier run brought."""
        self._tools: dict[int, str] = {}
        """What the row of each call says that had not ended."""
        self._closed = 0
        """How many calls were stored with their ends, from the first on without a gap."""
        self._mark: tuple[Any, ...] = ()
        self._text_at = 0.0
        self._cut = False

    def restart(self) -> None:
        """The conversation was changed: it is written anew."""
        self._read = self._messages = self._closed = 0
        self._tools = {}
        self._cut = True

    def _put(self, fence: Fence, status: str, **fields: Any) -> PutRun:
        if self._cut:
            self._cut = False
            fields["messages_cut"] = 0
        return PutRun(fence=fence, key=self._key, session=self._session, status=status, **fields)

    def begin(self, run: Run, fence: Fence, status: RunStatus, *, new: bool) -> PutRun:
        """The row of a run that begins, or goes on."""
        draft = text_of(run.draft(status), exclude=APART) if new else None
        return self._put(fence, status.value, new=new, output=draft)

    def progress(self, run: Run, fence: Fence) -> PutRun | None:
        """What has changed of a live run, if anything has."""
        first = not self._mark
        progress = run.progress
        kept = run.store_events and run.content_name not in run.events_to_skip
        spoken = 0 if kept or time.monotonic() - self._text_at < TEXT_EVERY else len(run.text)
        mark = (
            len(run.messages) if progress.prepared else -1,
            len(run.tools),
            run.metrics.model_requests,
            progress.marks(),
            max(spoken, self._mark[4] if self._mark else 0),
        )
        tools = self._new_tools(run)
        if mark == self._mark and not tools:
            return None
        self._mark = mark
        if spoken:
            self._text_at = time.monotonic()
        return self._put(
            fence,
            RunStatus.running.value,
            output=text_of(run.draft(RunStatus.running), exclude=APART) if first and run.parent else None,
            resume=_resume(run, text=not kept),
            messages=self._new_messages(run) if progress.prepared else (),
            tools=tools,
        )

    def end(
        self,
        run: Run,
        output: BaseOutput,
        fence: Fence,
        *,
        state: Mapping[str, str | None],
        new: bool,
        mark: Mapping[str, int],
    ) -> PutRun:
        """The whole of a run that has ended or paused; `mark` is what `resume` says of the attempt's own end."""
        return self._put(
            fence,
            output.status.value,
            new=new,
            output=text_of(output, exclude=APART),
            resume=_resume(run, text=False, mark=mark),
            error_type=output.error_type,
            error=output.error,
            messages=self._new_messages(run),
            tools=self._new_tools(run),
            state=state,
        )

    def _new_messages(self, run: Run) -> list[tuple[int, str]]:
        texts: list[tuple[int, str]] = []
        for message in run.messages[self._read :]:
            self._read += 1
            if not message.from_history:
                texts.append((self._messages, text_of(message)))
                self._messages += 1
        return texts

    def _new_tools(self, run: Run) -> list[tuple[int, str]]:
        texts: list[tuple[int, str]] = []
        for place in range(self._closed, len(run.tools)):
            execution = run.tools[place]
            over = execution.result is not None and execution.tool_call_id not in run.calls
            text = text_of(execution)
            if self._tools.get(place) != text:
                self._tools[place] = text
                texts.append((place, text))
            if over and place == self._closed:
                self._closed += 1
                del self._tools[place]
        return texts


def _resume(run: Run, *, text: bool, mark: Mapping[str, int] | None = None) -> str:
    resume = resume_of(run) | dict(mark or {})
    if text:
        resume["text"] = "".join(run.text[:])
    return _encode(resume)
