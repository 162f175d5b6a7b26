"""Runs as they are shown in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack, cast

import anyio

from .options import Input, RunOptions

if TYPE_CHECKING:
    from .runnable import Runnable


class Showing:
    """The verbs of agents and teams that run and show what is said."""

    def print_response(self, input: Input, *, stream: bool = True, **options: Unpack[RunOptions]) -> None:
        """Run and show it in the terminal, live unless `stream=False`; members apart.

        Ctrl-C ends the run, shows what was kept, and goes on as KeyboardInterrupt.
        """
        from .printing import RunView

        events = cast("Runnable[Any, Any]", self).run(input, stream=True, **options)
        with RunView() as view, events:
            try:
                for event in events if stream else list(events):
                    view.show(event)
            except KeyboardInterrupt:
                for event in events:  # what the run still said, and its end
                    view.show(event)
                raise

    async def aprint_response(
        self, input: Input, *, stream: bool = True, **options: Unpack[RunOptions]
    ) -> None:
        """Like `print_response`, in async code. A cancel ends the run, shows what was kept, and goes on."""
        from .printing import RunView

        events = cast("Runnable[Any, Any]", self).arun(input, stream=True, **options)
        with RunView() as view:
            async with events:
                try:
                    shown = [] if stream else [event async for event in events]
                    async for event in events:
                        view.show(event)
                    for event in shown:
                        view.show(event)
                except anyio.get_cancelled_exc_class():
                    async for event in events:  # the run has ended: this does not wait
                        view.show(event)
                    raise
