"""An MCP server of before 2026, by hand: `python old.py [mood]`, over stdio. It writes what happens to $RECORD.

Moods: `silent` never answers, `crash` ends with status 3, `strict` leaves if the first message is not `initialize`,
`stubborn` ignores the end of its input and SIGTERM.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TOOLS = ["echo", "hang", "grow", "die", "fail", "data", "parts", "child", "count", "odd.name"]


def send(**message: object) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def record(**fact: object) -> None:
    if path := os.environ.get("RECORD"):
        with Path(path).open("a") as file:
            file.write(json.dumps(fact) + "\n")


def text(said: str, **more: object) -> dict[str, object]:
    return {"content": [{"type": "text", "text": said}], **more}


def call(
    number: object, tool: str, arguments: dict[str, object], meta: dict[str, object]
) -> dict[str, object] | None:
    match tool:
        case "hang":
            record(called=number)
            return None
        case "grow":
            TOOLS.append("grown")
            send(method="notifications/tools/list_changed")
            return text("grown")
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "fail":
            return text("no such file", isError=True)
        case "data":
            return {"content": [], "structuredContent": {"found": [1, 2]}}
        case "parts":
            return {
                "content": [
                    {"type": "text", "text": "look:"},
                    {"type": "image", "data": "AAAA", "mimeType": "image/png"},
                    {"type": "audio", "data": "AAAAAAAA", "mimeType": "audio/wav"},
                    {"type": "resource_link", "uri": "file:///a", "name": "a"},
                    {"type": "resource", "resource": {"uri": "file:///b", "text": "bee"}},
                    {"type": "resource", "resource": {"uri": "file:///c", "blob": "AAAA"}},
                ]
            }
        case "child":
            return text(str(subprocess.Popen(["sleep", "600"]).pid))
        case "count":
            for step in (1, 2):
                token = meta["progressToken"]
                send(
                    method="notifications/progress",
                    params={"progressToken": token, "progress": step, "total": 2},
                )
            return text("counted")
        case _:
            return text(json.dumps(arguments))
    return None


def answer(method: str, number: object, params: dict[str, Any]) -> None:
    match method:
        case "initialize":
            result = {
                "protocolVersion": "2025-06-18",
                "capabilities": {"tools": {"listChanged": True}},
                "serverInfo": {"name": "old", "version": "1"},
            }
            send(id=number, result=result)
        case "tools/list":
            record(listed=len(TOOLS))
            start = int(params.get("cursor", "0"))
            page = [
                {"name": name, "description": f"What {name} does.", "inputSchema": {"type": "object"}}
                for name in TOOLS[start : start + 6]
            ]
            more = {"nextCursor": str(start + 6)} if start + 6 < len(TOOLS) else {}
            send(id=number, result={"tools": page, **more})
        case "tools/call":
            result = call(number, params["name"], params.get("arguments") or {}, params.get("_meta", {}))
            if result is not None:
                send(id=number, result=result)
        case "notifications/cancelled":
            record(cancelled=params["requestId"])
        case _:
            if number is not None:
                send(id=number, error={"code": -32601, "message": "Method not found"})


def main() -> None:
    mood = sys.argv[1] if len(sys.argv) > 1 else ""
    record(pid=os.getpid(), secret=os.environ.get("SECRET"), cwd=str(Path.cwd()))
    if mood == "crash":
        sys.exit(3)
    if mood == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    first = True
    for line in sys.stdin:
        message = json.loads(line)
        if mood == "silent":
            continue
        if mood == "strict" and first and message["method"] != "initialize":
            sys.exit(1)
        first = False
        answer(message["method"], message.get("id"), message.get("params", {}))
    record(eof=True)
    while mood == "stubborn":
        time.sleep(600)


main()
