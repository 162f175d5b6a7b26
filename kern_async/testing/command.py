"""`python -m kern_async.testing.provider`: the test provider in a process of its own."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading

from .provider import ProviderServer
from .replies import Forever, Reply, Text, words


def main() -> None:
    """Print the base URL and serve until SIGINT or SIGTERM."""
    options = _options()
    reply: Reply = Text(words(options.text) * options.repeat, options.interval, burst=options.burst)
    if options.forever is not None:
        reply = Forever(options.forever, options.interval or 0.01)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (
        contextlib.suppress(KeyboardInterrupt),
        ProviderServer(host=options.host, port=options.port) as provider,
    ):
        provider.default = reply
        sys.stdout.write(f"{provider.base_url}\n")
        sys.stdout.flush()
        threading.Event().wait()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m kern_async.testing.provider", description=main.__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 lets the system choose")
    parser.add_argument("--text", default="Hello from the test provider.", help="what every answer says")
    parser.add_argument("--repeat", type=int, default=1, help="how often it says it")
    parser.add_argument("--burst", action="store_true", help="send all deltas in as few writes as possible")
    parser.add_argument(
        "--forever", nargs="?", const="word ", metavar="DELTA", help="say it until the client goes"
    )
    parser.add_argument("--interval", type=float, default=0.0, help="seconds between deltas")
    return parser.parse_args()
