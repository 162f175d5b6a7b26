"""An MCP server over stdio, by hand, with one tool, `work`: it says how far it is, and waits.

What it waits for is a line in the FIFO $RELEASE. To $RECORD it writes its process id, and the requests
that were cancelled.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

TOOL = {"name": "work", "description": "Work.", "inputSchema": {"type": "object"}}
HELLO = {
    "protocolVersion": "2025-06-18",
    "capabilities": {"tools": {}},
    "serverInfo": {"name": "patient", "version": "1"},
}


def send(**message: object) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def record(**fact: object) -> None:
    with Path(os.environ["RECORD"]).open("a") as file:
        file.write(json.dumps(fact) + "\n")


def work(number: object) -> None:
    with Path(os.environ["RELEASE"]).open() as fifo:
        fifo.readline()
    send(id=number, result={"content": [{"type": "text", "text": "done"}]})


def answer(method: str, number: object, params: dict[str, Any]) -> None:
    match method:
        case "initialize":
            send(id=number, result=HELLO)
        case "tools/list":
            send(id=number, result={"tools": [TOOL]})
        case "tools/call":
            told = {"progressToken": params["_meta"]["progressToken"], "progress": 1, "message": "half way"}
            send(method="notifications/progress", params=told)
            threading.Thread(target=work, args=(number,), daemon=True).start()
        case "notifications/cancelled":
            record(cancelled=params["requestId"])
        case _:
            if number is not None:
                send(id=number, error={"code": -32601, "message": "Method not found"})


record(pid=os.getpid())
for line in sys.stdin:
    request = json.loads(line)
    answer(request["method"], request.get("id"), request.get("params", {}))
