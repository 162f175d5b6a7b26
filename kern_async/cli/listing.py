"""`kern-async ps`: the live runs as trees."""

from __future__ import annotations

import json
import sys
from typing import Any, cast

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kern_async.agent.printing import printable

from .client import Server
from .exits import Exit
from .naming import members, nodes, short_length
from .showing import say

COLOURS = {
    "RUNNING": "cyan",
    "PENDING": "dim",
    "PAUSED": "magenta",
    "COMPLETED": "green",
    "CANCELLED": "yellow",
    "ERROR": "red",
}
_ROOM_FOR_TEXT = 100
"""Columns from which on there is room for what a run says."""
_LAST_WORDS = 40
"""Characters of it."""


def ps(server: Server, *, as_json: bool) -> Exit:
    """Print the live runs; on a terminal ids are shortened to what tells them apart."""
    trees = server.live()
    if as_json:
        sys.stdout.write(json.dumps(trees, ensure_ascii=False) + "\n")
    elif trees:
        console = screen()
        console.print(tree_table(trees, console))
    else:
        say(f"no live runs at {server.address}")
    return Exit.done


def screen() -> Console:
    """The console for tables: as wide as the terminal; what is piped is as wide as it needs."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=1000, highlight=False)


def tree_table(trees: list[dict[str, Any]], console: Console) -> Table:
    """The runs, those of one tree below each other."""
    short = short_length(node["run_id"] for node, _ in nodes(trees)) if console.is_terminal else None
    table = plain_table("~run", "status", ">age", ">tokens", "id", "~doing")
    with_text = console.is_terminal and console.width >= _ROOM_FOR_TEXT
    for tree in trees:
        _add(table, tree, "", "", short, with_text=with_text)
    return table


def plain_table(*headings: str) -> Table:
    """A table without lines. A heading with ">" is above numbers; one with "~" gives way where there is no room."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in headings:
        justify = "right" if heading.startswith(">") else "left"
        table.add_column(heading.lstrip("~>"), justify=justify, no_wrap=not heading.startswith("~"))
    return table


def giving_way(*parts: str | tuple[str, str]) -> Text:
    """The text of a cell under a heading with "~"."""
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _add(
    table: Table, node: dict[str, Any], first: str, rest: str, short: int | None, *, with_text: bool
) -> None:
    status = "CANCELLING" if node.get("cancelling") else clean(node.get("status"))
    metrics = cast("dict[str, Any]", node.get("metrics") or {})
    tokens = metrics.get("total_tokens")
    table.add_row(
        giving_way((first, "dim"), (clean(node.get("name") or node.get("id")), "" if first else "bold")),
        Text(status.lower(), style=COLOURS.get(status, "yellow")),
        age(node.get("age")),
        f"{'~' if metrics.get('estimated') else ''}{tokens:,}" if tokens else "",
        Text(clean(node.get("run_id"))[:short], style="dim" if first else ""),
        giving_way((_doing(node, with_text=with_text), "dim")),
    )
    below = members(node)
    for number, member in enumerate(below):
        last = number == len(below) - 1
        _add(
            table,
            member,
            rest + ("└ " if last else "├ "),
            rest + ("  " if last else "│ "),
            short,
            with_text=with_text,
        )


def _doing(node: dict[str, Any], *, with_text: bool) -> str:
    """What a run is at: whom it waits for, the tools it calls, or the last of what it said."""
    if node.get("status") == "PAUSED":
        count = node.get("requirements") or 0
        return f"waits for {count} answer" + ("" if count == 1 else "s")
    tools = cast("list[dict[str, Any]]", node.get("tools") or [])
    running = [clean(tool.get("tool_name")) for tool in tools if tool.get("status") == "running"]
    if running:
        return f"calls {', '.join(running)}"
    said = " ".join(clean(node.get("content") or "").split())
    if not with_text or len(said) <= _LAST_WORDS:
        return said if with_text else ""
    return f"… {said[-_LAST_WORDS:].partition(' ')[2]}"


def age(seconds: Any) -> str:
    """Seconds as people say them."""
    if not isinstance(seconds, int | float):
        return ""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02} h"


def clean(text: object) -> str:
    """Text of a server as one line that cannot steer the terminal."""
    return printable(str(text)).replace("\n", " ")
