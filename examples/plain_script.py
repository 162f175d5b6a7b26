"""A script without asyncio: read a run as it comes, leave when there is enough. Ctrl-C ends it, too.

The run lives on a background loop of the process, so everything here is plain blocking code, in any thread.
"""

from __future__ import annotations

import sys

from kern_async import Agent
from kern_async.models.openai import OpenAIResponses

ENOUGH = 300  # characters


def main() -> int:
    agent = Agent(name="Storyteller", model=OpenAIResponses(id="gpt-5.2"))
    events = agent.run("Tell a story.", stream=True)
    said = 0
    exit_code = 0
    try:
        with events:  # leaving the block ends the run, wherever it is
            for event in events:
                if event.event == "RunContent":
                    print(event.content, end="", flush=True)
                    said += len(event.content)
                    if said >= ENOUGH:
                        break
    except KeyboardInterrupt:
        exit_code = 130
    output = events.output
    assert output is not None
    print(f"\n\n{output.status}", f"by {output.cancelled_by}" if output.is_cancelled else "")
    print(f"kept: {len(output.content or '')} characters")
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
