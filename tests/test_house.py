"""Promises about the source itself that no single test would notice when they break."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kern_async

PACKAGE = Path(kern_async.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# Where a task may be started that no task group encloses: the seam to the event loop, and test servers that have
# an event loop in a thread of their own.
STARTS_TASKS = {"backend.py", "testing/http.py"}

Finding = tuple[int, str]  # line, what is wrong there


def called_name(call: ast.AST) -> str:
    """The last part of what is called: `create_task` of `asyncio.create_task(...)`."""
    match call:
        case ast.Call(func=ast.Attribute(attr=name)) | ast.Call(func=ast.Name(id=name)):
            return name
        case _:
            return ""


def asyncio_wait_for(tree: ast.AST) -> Iterator[Finding]:
    """On Python 3.11 it loses cancels."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="asyncio"), attr="wait_for"):
                yield node.lineno, "asyncio.wait_for"
            case ast.ImportFrom(module="asyncio") if any(name.name == "wait_for" for name in node.names):
                yield node.lineno, "asyncio.wait_for"
            case _:
                pass


def tasks_that_nobody_encloses(tree: ast.AST) -> Iterator[Finding]:
    for node in ast.walk(tree):
        if called_name(node) in {
            "create_task",
            "ensure_future",
            "spawn_system_task",
            "run_coroutine_threadsafe",
        }:
            yield node.lineno, called_name(node)  # pyright: ignore[reportAttributeAccessIssue]


def locks(tree: ast.AST) -> Iterator[Finding]:
    """A signal handler or a finalizer that meets a lock on the thread that holds it never returns."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="threading"), attr="Lock" | "RLock" | "Condition" as name):
                yield node.lineno, name
            case ast.ImportFrom(module="threading"):
                for name in node.names:
                    if name.name in {"Lock", "RLock", "Condition"}:
                        yield node.lineno, name.name
            case _:
                pass


ANYIO_SCOPES = {"CancelScope", "create_task_group", "fail_after", "fail_at", "move_on_after", "move_on_at"}
SCOPES = ANYIO_SCOPES | {"open_nursery", "TaskGroup", "timeout", "timeout_at"}


def yields_inside_a_scope(tree: ast.AST) -> Iterator[Finding]:
    """A generator that stops inside a cancel scope cancels somebody else's code when it is resumed or dropped."""
    kept = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and called_name(node.value) in SCOPES
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.With | ast.AsyncWith):
            continue
        entered = [item.context_expr for item in node.items]
        if any(called_name(e) in SCOPES or (isinstance(e, ast.Name) and e.id in kept) for e in entered):
            yield from ((line, "yield") for statement in node.body for line in _yields(statement))


def _yields(node: ast.AST) -> Iterator[int]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return
    if isinstance(node, ast.Yield | ast.YieldFrom):
        yield node.lineno
    for child in ast.iter_child_nodes(node):
        yield from _yields(child)


def prints_and_asserts(tree: ast.AST) -> Iterator[Finding]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            yield node.lineno, "assert"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            yield node.lineno, "print"


Rule = Callable[[ast.AST], Iterator[Finding]]


@pytest.mark.parametrize(
    "rule", [asyncio_wait_for, tasks_that_nobody_encloses, locks, yields_inside_a_scope, prints_and_asserts]
)
def test_the_package_holds_to(rule: Rule) -> None:
    found: list[str] = []
    for file in FILES:
        name = file.relative_to(PACKAGE).as_posix()
        if rule is tasks_that_nobody_encloses and name in STARTS_TASKS:
            continue
        if rule is locks and not name.startswith("engine/"):
            continue
        found += [f"{name}:{line}: {what}" for line, what in rule(ast.parse(file.read_text()))]
    assert not found


YIELDING = """
async def numbers():
    async with anyio.create_task_group() as tasks, other():
        if tasks:
            yield 5 + (yield 55)
    scope = CancelScope()
    with scope:
        def inner():
            yield 9
        text = [(yield), lambda: (yield 10)]
    with open(path):
        yield 12
    yield 13
"""


@pytest.mark.parametrize(
    ("rule", "source", "lines"),
    [
        (asyncio_wait_for, "asyncio.wait_for(x, 1)\nfrom asyncio import wait_for\nevent.wait_for(1)", [1, 2]),
        (
            tasks_that_nobody_encloses,
            "asyncio.create_task(x)\nloop.create_task(x)\ntasks.start_soon(x)",
            [1, 2],
        ),
        (locks, "threading.RLock()\nfrom threading import Event, Lock\nanyio.Lock()", [1, 2]),
        (yields_inside_a_scope, YIELDING, [5, 5, 10]),
        (prints_and_asserts, "print(1)\nassert x\nconsole.print(1)", [1, 2]),
    ],
)
def test_each_rule_finds_what_it_is_for(rule: Rule, source: str, lines: list[int]) -> None:
    assert sorted(line for line, _ in rule(ast.parse(source))) == lines


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_a_file_can_be_read_in_one_sitting(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 600


def test_no_file_is_named_after_nothing() -> None:
    assert not {"utils", "helpers", "common", "misc"} & {
        part for file in FILES for part in (file.stem, file.parent.name)
    }


@pytest.mark.parametrize("late", ["openai", "pydantic", "structlog", "trio", "rich", "asyncio"])
def test_importing_the_package_does_not_import(late: str) -> None:
    code = f"import sys, kern_async; sys.exit({late!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_version_is_one() -> None:
    changelog = (PACKAGE.parent / "CHANGELOG.md").read_text()
    newest = re.search(r"^## (?!Unreleased)(\S+)", changelog, re.MULTILINE)
    assert importlib.metadata.version("kern-async") == kern_async.__version__
    assert newest
    assert newest[1] == kern_async.__version__
