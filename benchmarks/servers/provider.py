"""The provider of `benchmarks/server.py`, in a process of its own.

A model's name says what it does: `leader` asks both members, `speaks 0.25` says a word every 0.25 s for ever, `waits`
never says anything, and `tells 5000` says 5,000 words as fast as it can once `go` has been read. `left` on
standard input is answered when no request is open any more, or after 5 s with `held`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from kern_async.testing import Forever, Gate, Hang, ProviderServer, Request, Step, Text, ToolCall

MEMBERS = ("first", "second")


def main() -> None:
    gate = Gate()

    def answer(request: Request) -> Step | Sequence[Step]:
        what, _, number = request.model.partition(" ")
        match what:
            case "leader":
                return [ToolCall("delegate_task_to_member", {"member_id": m, "task": "Go."}) for m in MEMBERS]
            case "speaks":
                return Forever("word ", float(number))
            case "tells":
                return [gate, Text([f"w{n} " for n in range(int(number))], burst=True)]
            case _:
                return Hang()

    with ProviderServer(strict=False) as provider:
        provider.reply(answer, times=None)
        print(provider.base_url, flush=True)
        for line in sys.stdin:
            if line.strip() == "go":
                gate.open()
                print("gone", flush=True)
            else:
                try:
                    provider.wait_until(lambda: provider.open_requests == 0, timeout=5)
                    print("left", flush=True)
                except TimeoutError:
                    print("held", flush=True)


main()
