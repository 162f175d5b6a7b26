"""What a run may be busy with when it is cancelled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import anyio

from kern_async import TeamMode
from kern_async.testing import Call, Forever, Hang, Stall, Status, Step, Text, ToolCall

from .stage import Runner, Stage

DELEGATE = "delegate_task_to_member"
LOOKED = "Let me look. "


@dataclass(frozen=True, kw_only=True)
class Situation:
    """`said` are patterns of what each run said, by the name of who ran; `cut` is what the cancel interrupts."""

    name: str
    build: Callable[[Stage], Runner]
    reached: Callable[[Stage], bool]
    said: dict[str, str]
    cut: set[tuple[str, str]]
    hung: set[str] = field(default_factory=set[str])
    """Whose request the provider is still answering."""
    completed: set[str] = field(default_factory=set[str])
    """Members that had completed before."""
    threads: set[str] = field(default_factory=set[str])
    """Sync tools and hooks that outlive the run."""
    own_code: bool = False
    """Whether it is the run's own tool or hook that sleeps."""


def _asleep(stage: Stage) -> bool:
    return stage.inside.is_set()


def _subject(stage: Stage, *second_turn: Step, sleeper: str | None = None) -> Runner:
    """An agent that has said something and called a tool before it comes into its situation."""

    async def look() -> str:
        stage.called("look")
        return "nothing there"

    async def sleep_in_task() -> str:
        stage.arrive("sleep_in_task")
        await anyio.sleep_forever()
        return "slept"

    def sleep_in_thread() -> str:
        stage.arrive("sleep_in_thread")
        stage.release.wait(20)
        return "slept"

    tools = {"look": look, "sleep_in_task": sleep_in_task, "sleep_in_thread": sleep_in_thread}
    used = [tools["look"], *([tools[sleeper]] if sleeper else [])]
    return stage.agent("subject", [Text(LOOKED), ToolCall("look")], list(second_turn), tools=used)


def _streaming(stage: Stage) -> Runner:
    return _subject(stage, Forever("word ", 0.001))


def _said_three_words(stage: Stage, name: str = "subject", turn: int = 2) -> bool:
    requests = stage.requests(name)
    return len(requests) == turn and len(requests[-1].streamed) >= 3


def _first_byte_never_comes(stage: Stage) -> Runner:
    return _subject(stage, Hang())


def _stalled(stage: Stage) -> Runner:
    return _subject(stage, Text("And then "), Call(lambda _: stage.inside.set()), Stall())


def _async_tool(stage: Stage) -> Runner:
    return _subject(stage, ToolCall("sleep_in_task"), sleeper="sleep_in_task")


def _sync_tool(stage: Stage) -> Runner:
    return _subject(stage, ToolCall("sleep_in_thread"), sleeper="sleep_in_thread")


def _backing_off(stage: Stage) -> Runner:
    return _subject(stage, Status(429, headers={"retry-after": "30"}))


def _refused(stage: Stage) -> bool:
    requests = stage.requests("subject")
    return len(requests) == 2 and requests[1].outcome == "error"


def _async_pre_hook(stage: Stage) -> Runner:
    async def dream() -> None:
        stage.arrive("dream")
        await anyio.sleep_forever()

    return stage.agent("subject", pre_hooks=[dream])


def _sync_pre_hook(stage: Stage) -> Runner:
    def nap() -> None:
        stage.arrive("nap")
        stage.release.wait(20)

    return stage.agent("subject", pre_hooks=[nap])


def _post_hook(stage: Stage) -> Runner:
    async def review() -> None:
        stage.arrive("review")
        await anyio.sleep_forever()

    return stage.agent("subject", Text("All of it."), post_hooks=[review])


def _ask(member: str) -> ToolCall:
    return ToolCall(DELEGATE, {"member_id": member, "task": "Tell a story."})


def _members_in_parallel(stage: Stage) -> Runner:
    teller = stage.agent("teller", Forever("word ", 0.001))
    mute = stage.agent("mute", Hang())
    return stage.team("subject", [Text("I ask both. "), _ask("teller"), _ask("mute")], members=[teller, mute])


def _one_tells_one_hangs(stage: Stage) -> bool:
    return _said_three_words(stage, "teller", 1) and len(stage.requests("mute")) == 1


def _broadcast(stage: Stage) -> Runner:
    teller = stage.agent("teller", Text("The end."))
    mute = stage.agent("mute", [Text("Once "), Call(lambda _: stage.inside.set()), Stall(keepalive=0.002)])
    return stage.team("subject", members=[teller, mute], mode=TeamMode.broadcast)


def _one_finished_one_hangs(stage: Stage) -> bool:
    told = [request.outcome for request in stage.requests("teller")]
    return told == ["completed"] and stage.inside.is_set()


def _nested_team(stage: Stage) -> Runner:
    mute = stage.agent("mute", Hang())
    inner = stage.team("inner", [Text("Then you. "), _ask("mute")], members=[mute])
    return stage.team("subject", [Text("Ask inner. "), _ask("inner")], members=[inner])


SITUATIONS = [
    Situation(
        name="streaming_tokens",
        build=_streaming,
        reached=_said_three_words,
        said={"subject": LOOKED + "(word )+"},
        cut={("model", "subject")},
        hung={"subject"},
    ),
    Situation(
        name="first_byte_never_comes",
        build=_first_byte_never_comes,
        reached=lambda stage: len(stage.requests("subject")) == 2,
        said={"subject": LOOKED},
        cut={("model", "subject")},
        hung={"subject"},
    ),
    Situation(
        name="stream_stalled",
        build=_stalled,
        reached=_asleep,
        said={"subject": LOOKED + "And then "},
        cut={("model", "subject")},
        hung={"subject"},
    ),
    Situation(
        name="async_tool_asleep",
        build=_async_tool,
        reached=_asleep,
        said={"subject": LOOKED},
        cut={("tool", "sleep_in_task")},
        own_code=True,
    ),
    Situation(
        name="sync_tool_asleep",
        build=_sync_tool,
        reached=_asleep,
        said={"subject": LOOKED},
        cut={("tool", "sleep_in_thread")},
        threads={"sleep_in_thread"},
        own_code=True,
    ),
    Situation(
        name="retry_back_off",
        build=_backing_off,
        reached=_refused,
        said={"subject": LOOKED},
        cut={("backoff", "subject")},
    ),
    Situation(
        name="async_pre_hook_asleep",
        build=_async_pre_hook,
        reached=_asleep,
        said={},
        cut={("hook", "dream")},
        own_code=True,
    ),
    Situation(
        name="sync_pre_hook_asleep",
        build=_sync_pre_hook,
        reached=_asleep,
        said={},
        cut={("hook", "nap")},
        threads={"nap"},
        own_code=True,
    ),
    Situation(
        name="post_hook_asleep",
        build=_post_hook,
        reached=_asleep,
        said={"subject": r"All of it\."},
        cut={("hook", "review")},
        own_code=True,
    ),
    Situation(
        name="members_in_parallel",
        build=_members_in_parallel,
        reached=_one_tells_one_hangs,
        said={"subject": "I ask both. ", "teller": "(word )+"},
        cut={
            ("model", "teller"),
            ("model", "mute"),
            ("tool", DELEGATE),
            ("member", "teller"),
            ("member", "mute"),
        },
        hung={"teller", "mute"},
    ),
    Situation(
        name="broadcast_members",
        build=_broadcast,
        reached=_one_finished_one_hangs,
        said={"teller": r"The end\.", "mute": "Once "},
        cut={("model", "mute"), ("member", "mute")},
        hung={"mute"},
        completed={"teller"},
    ),
    Situation(
        name="nested_team",
        build=_nested_team,
        reached=lambda stage: len(stage.requests("mute")) == 1,
        said={"subject": "Ask inner. ", "inner": "Then you. "},
        cut={("model", "mute"), ("tool", DELEGATE), ("member", "mute"), ("member", "inner")},
        hung={"mute"},
    ),
]
