from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from kern_async.exceptions import ConfigurationError, ToolError
from kern_async.tools.mcp import MCPTools
from kern_async.tools.toolkit import Toolkit, collect, load_remote

from .conftest import OldServer, context, is_stale, until, use


async def test_the_tools_of_a_server_are_listed_and_called(sdk_stdio: list[str]) -> None:
    reports: list[Any] = []
    async with MCPTools(sdk_stdio) as tools:
        add = tools.functions["add"]
        assert add.description == "Add two numbers."
        assert add.parameters["required"] == ["a", "b"]
        assert add.is_async
        assert await use(tools, "add", '{"a": 1, "b": 2}', reports=reports) == "3"
        with pytest.raises(ToolError, match="valid integer"):
            await use(tools, "add", '{"a": 1, "b": "x"}')
        with pytest.raises(ToolError, match="must be a JSON object"):
            add.bind("[1]", context())


async def test_a_cancel_reaches_the_server_and_the_connection_stays(
    sdk_stdio: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "state"
    reports: list[Any] = []

    async def state(expected: str) -> None:
        await until(lambda: path.exists() and path.read_text() == expected)

    async with MCPTools(sdk_stdio) as tools:
        before = await use(tools, "pid")
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: use(tools, "hang", f'{{"path": "{path}"}}', reports=reports))
            await state("begun")
            assert await use(tools, "add", '{"a": 1, "b": 2}') == "3", "another call meanwhile"
            group.cancel_scope.cancel()
        await state("cancelled")
        assert reports == ["half of it"]
        assert await use(tools, "pid") == before


async def test_a_cancel_reaches_a_server_of_before_2026(old: OldServer) -> None:
    async with MCPTools(old.command(), env=old.env) as tools:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: use(tools, "hang"))
            called = await old.fact("called")
            began = anyio.current_time()
            group.cancel_scope.cancel()
        assert anyio.current_time() - began < 0.5
        assert await old.fact("cancelled") == called
        assert await use(tools, "echo", '{"x": 1}') == '{"x": 1}'
        assert len(old.facts("pid")) == 1


async def test_a_server_that_does_not_answer_a_call_is_a_tool_error_and_told_so(old: OldServer) -> None:
    async with MCPTools(old.command(), env=old.env) as tools:
        tools.timeout_seconds = 0.2
        await tools.close()
        with pytest.raises(ToolError, match=r"hang did not answer within 0\.2 seconds"):
            await use(tools, "hang")
        assert await old.fact("cancelled") == old.facts("called")[0]
        assert await use(tools, "echo") == "{}"


async def test_results_become_text(old: OldServer) -> None:
    async with MCPTools(old.command()) as tools:
        assert await use(tools, "data") == '{"found": [1, 2]}'
        assert (await use(tools, "parts")).splitlines() == [
            "look:",
            "[image, image/png, 3 bytes]",
            "[audio, audio/wav, 6 bytes]",
            "[resource file:///a, a]",
            "[resource file:///b]",
            "bee",
            "[resource file:///c, unknown type, 3 bytes]",
        ]
        with pytest.raises(ToolError, match=r"^no such file$"):
            await use(tools, "fail")
        reports: list[Any] = []
        assert await use(tools, "count", reports=reports) == "counted"
        assert sorted(reports) == ["1/2", "2/2"]
        assert await use(tools, "echo", '{"context": 1, "self": {"ü": null}}') == (
            '{"context": 1, "self": {"\\u00fc": null}}'
        )


async def test_names_are_prefixed_chosen_and_made_legal(old: OldServer) -> None:
    async with MCPTools(
        old.command(), tool_name_prefix="my.old", include_tools=["echo", "odd.name"]
    ) as tools:
        assert list(tools.functions) == ["my_old_echo", "my_old_odd_name"]
        assert await use(tools, "my_old_odd_name", '{"a": 1}') == '{"a": 1}'
        assert tools.functions["my_old_echo"].parameters == {"type": "object", "properties": {}}
    async with MCPTools(old.command(), exclude_tools=["echo"]) as tools:
        assert "echo" not in tools.functions
        assert "odd_name" in tools.functions
    with pytest.raises(ConfigurationError, match=r"no tool 'reed'.*it has child, count"):
        async with MCPTools(old.command(), include_tools=["reed"]):
            pass


async def test_a_list_that_has_changed_is_loaded_anew_for_the_next_run(
    old: OldServer, sdk_stdio: list[str]
) -> None:
    for command in (old.command(), sdk_stdio):
        async with MCPTools(command, env=old.env) as tools:
            first = await tools.load()
            assert "grown" not in first
            assert await tools.load() == first
            assert await use(tools, "grow") == "grown"
            await until(lambda: is_stale(tools))
            assert "grown" in await tools.load()
    assert len(old.facts("listed")) == 4, "two pages, twice; an unchanged list is not fetched again"


async def test_tools_that_are_given_to_an_agent_connect_when_they_are_loaded(old: OldServer) -> None:
    tools = MCPTools(old.command(), env=old.env, name="files")
    assert collect([tools]) == {}
    assert old.facts("pid") == []
    loaded = await load_remote([tools], collect([ping]))
    assert list(loaded)[:2] == ["ping", "echo"]
    await use(tools, "echo")
    assert len(old.facts("pid")) == 1
    await tools.close()
    await use(tools, "echo")
    assert len(old.facts("pid")) == 2
    await tools.close()


def ping() -> str:
    return "pong"


def echo() -> str:
    return "local"


async def test_a_remote_tool_with_a_name_that_is_taken_is_refused(old: OldServer) -> None:
    async with MCPTools(old.command(), name="files") as tools:
        with pytest.raises(
            ConfigurationError,
            match=r"two tools are called 'echo': \S+echo and 'echo' of the MCP server 'files'",
        ):
            await load_remote([tools], collect([echo]))


async def test_a_toolkit_that_cannot_be_loaded_is_told_and_left_out(old: OldServer) -> None:
    crash = MCPTools(old.command("crash"), name="crash")
    async with MCPTools(old.command()) as tools:
        told: list[tuple[Toolkit, str]] = []
        loaded = await load_remote(
            [crash, tools], on_failure=lambda kit, error: told.append((kit, str(error)))
        )
        assert "echo" in loaded
        [(kit, error)] = told
        assert kit is crash
        assert "'crash'" in error
        assert "ended with exit status 3" in error
        with pytest.raises(ToolError, match="exit status 3"):
            await load_remote([crash])


async def test_many_calls_share_one_connection(old: OldServer) -> None:
    tools = MCPTools(old.command(), env=old.env)
    answers: list[str] = []

    async def call(number: int) -> None:
        answers.append(await use(tools, "echo", str({"n": number}).replace("'", '"')))

    async with anyio.create_task_group() as group:
        for number in range(50):
            group.start_soon(call, number)
    assert sorted(answers) == sorted(f'{{"n": {number}}}' for number in range(50))
    assert len(old.facts("pid")) == 1
    await tools.close()


async def test_messages_larger_than_a_pipe_get_through(old: OldServer) -> None:
    async with MCPTools(old.command()) as tools:
        large = "x" * 3_000_000
        assert await use(tools, "echo", f'{{"x": "{large}"}}') == f'{{"x": "{large}"}}'


async def test_the_command_gets_its_directory_and_few_variables(
    old: OldServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "1")
    async with MCPTools(old.command(), env=old.env, cwd=tmp_path):
        assert old.facts("secret") == [None]
        assert old.facts("cwd") == [str(tmp_path)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of"),
        ({"command": "true", "url": "http://x"}, "exactly one of"),
        ({"command": "no-such-server --flag"}, "'no-such-server' does not exist"),
        ({"command": ["./no-such-server"], "cwd": "/"}, "does not exist"),
        ({"command": "true", "env": {"PATH": "/nowhere"}}, "'true' does not exist"),
        ({"command": "true", "cwd": "/nowhere"}, "directory does not exist"),
        ({"command": "true '"}, "cannot be split"),
        ({"command": ""}, "is empty"),
        ({"command": "true", "transport": "sse"}, "is for a URL"),
        ({"command": "true", "headers": {}}, "headers= are for a URL"),
        ({"url": "ftp://x"}, "http:// or https://"),
        ({"url": "localhost:80"}, "http:// or https://"),
        ({"url": "http://x", "transport": "stdio"}, "is for a command"),
        ({"url": "http://x", "transport": "pigeon"}, "not 'pigeon'"),
        ({"url": "http://x", "env": {}}, "are for a command"),
        ({"command": "true", "timeout_seconds": 0}, "more than 0"),
        ({"command": "true", "timeout_seconds": float("nan")}, "more than 0"),
    ],
)
def test_what_cannot_work_is_refused_at_construction(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        MCPTools(**options)


def test_unknown_keywords_are_refused() -> None:
    with pytest.raises(TypeError, match="refresh"):
        MCPTools("true", refresh=True)  # pyright: ignore[reportCallIssue]


def test_the_sdks_description_of_a_command_will_do(old: OldServer) -> None:
    from mcp import StdioServerParameters

    program, *args = old.command()
    tools = MCPTools(server_params=StdioServerParameters(command=program, args=args, env=old.env))
    anyio.run(tools.connect)
    assert "echo" in tools.functions
    assert old.facts("eof")


def test_the_package_does_not_import_mcp_and_says_how_to_get_it() -> None:
    code = """
import sys
import kern_async.tools
from kern_async.tools.mcp import MCPTools
assert "mcp" not in sys.modules
sys.modules["mcp"] = None
try:
    MCPTools("true")
except ValueError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'kern-async[mcp]'" in said
