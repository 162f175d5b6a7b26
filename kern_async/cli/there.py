"""`kern-async run --url`: a run on a server."""

from __future__ import annotations

import threading
import uuid
from urllib.parse import quote

from .client import SETTLE, Broken, Server
from .exits import Exit, Refused
from .here import CANCELS, LEAVES, REASON, Wish
from .showing import Showing, parse, say
from .signals import stopping


def run_there(server: Server, name: str, wish: Wish) -> Exit:
    """Run an agent or a team of a server, show it, and return what its end is as an exit code.

    The run ends with this command, whatever ends that.

    Raises:
        Refused: there is no such agent or team, or the server refuses or breaks off.
    """
    target = server.target(name)
    # Chosen here, so that there is no moment in which it cannot be cancelled.
    run_id = wish.run_id or uuid.uuid4().hex
    showing = Showing(run_id, as_json=wish.as_json, hint=CANCELS)
    form = {"message": wish.prompt, "stream": "true", "run_id": run_id}
    for field, value in (
        ("session_id", wish.session_id),
        ("user_id", wish.user_id),
        ("timeout", wish.timeout),
    ):
        if value is not None:
            form[field] = str(value)

    def stop() -> None:
        showing.urge(LEAVES)
        threading.Thread(target=cancel, name="kern-cancel", daemon=True).start()

    def cancel() -> None:
        try:
            path = f"{target.runs}/{quote(run_id, safe='')}/cancel"
            server.post(path, patience=SETTLE, wait="true", reason=REASON)
        except Refused as refused:
            say(f"not cancelled: {refused}; Ctrl-C again leaves")

    with stopping(stop), showing, server.stream("POST", target.runs, form=form) as events:
        try:
            for data in events:
                showing.show(parse(data), data.decode("utf-8", "replace"))
        except Broken as broken:
            raise Refused(
                f"the connection to {server.address} broke, which ends the run {run_id}: {broken}"
            ) from None
    if showing.end is None:
        raise Refused(f"{server.address} ended the stream of run {run_id} before the run's end")
    showing.remark()
    return showing.code
