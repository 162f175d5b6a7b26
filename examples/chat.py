"""A chat in the terminal that remembers, and whose answers can be stopped: `python examples/chat.py [file]`.

Ctrl-C stops an answer; what was said by then is kept. "go on" continues it where it was cut, also after the program
was ended and started again: the conversation is in an SQLite file (`chat.db` if none is named). Ctrl-D leaves.

With OPENAI_API_KEY set the model is OpenAI's (OPENAI_MODEL names it), otherwise a small one that runs here, which
needs no key: `scripts/setup local sql`. It is fluent rather than wise.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from types import FrameType

import anyio

from kern_async import Agent, RunOutput, RunStatus, SyncRunStream
from kern_async.db.sqlite import SqliteDb
from kern_async.exceptions import KernError
from kern_async.models.base import Model
from kern_async.models.llamacpp import LlamaCpp
from kern_async.models.openai import OpenAIResponses
from kern_async.run.agent import AgentEvent

with suppress(ImportError):
    import readline  # noqa: F401  # pyright: ignore[reportUnusedImport] - gives `input` its line editing

GO_ON = "go on"
TAIL = 60  # characters of a cut answer that are shown again before it goes on


class Chat:
    """One session with an agent, at a terminal."""

    def __init__(self, db_file: str) -> None:
        local = not os.environ.get("OPENAI_API_KEY")
        self.agent = Agent(
            name="Companion",
            model=local_model() if local else OpenAIResponses(os.environ.get("OPENAI_MODEL") or "gpt-5-mini"),
            instructions="Answer in a few plain sentences.",
            session_id="chat",
            db=SqliteDb(db_file, lease_seconds=3),  # so soon an answer counts as cut whose program was killed
            add_history_to_context=True,
            trim_history=800 if local else None,  # the small model reads about 120 tokens in a second
        )
        self.answer: SyncRunStream[AgentEvent, RunOutput] | None = None
        """What is being said."""
        self.last: RunOutput | None = None
        """The run before."""

    def welcome(self) -> None:
        """Say what there is from before."""
        session = self.agent.get_session()
        if session is not None and session.runs:
            last = session.runs[-1]
            turns = len(session.runs)
            note(f"{turns} {'turn' if turns == 1 else 'turns'} remembered; the last one:")
            if last.input is not None:
                print(f"> {last.input.input_content}")
            print(last.content or "")
            if isinstance(last, RunOutput):
                self.keep(last)
        else:
            note(f'Ctrl-C stops an answer, "{GO_ON}" continues it, Ctrl-D leaves.')

    def talk(self) -> None:
        """Ask and answer until the input ends."""
        while True:
            try:
                said = input("> ").strip()
            except KeyboardInterrupt:
                print()
                note("Ctrl-D leaves.")
                continue
            except EOFError:
                print()
                return
            if said:
                self.reply(said)

    def reply(self, said: str) -> None:
        """Show the answer while it comes."""
        cut = self.cut_answer() if said.lower() == GO_ON else None
        if cut is not None:
            print(ending(cut.content or ""), end="", flush=True)
            self.answer = self.agent.continue_run(run_id=cut.run_id, stream=True)
        else:
            self.answer = self.agent.run(said, stream=True)
        with self.answer as events:
            for event in events:
                if event.event == "RunContent":
                    print(event.content, end="", flush=True)
        print()
        self.answer = None
        if events.output is not None:
            self.keep(events.output)

    def cut_answer(self) -> RunOutput | None:
        """The run before, if it was cut."""
        if self.last is None:
            return None
        stored = self.agent.get_run_output(self.last.run_id)  # its process may have been found dead since
        return stored if isinstance(stored, RunOutput) and can_go_on(stored) else None

    def keep(self, output: RunOutput) -> None:
        """Remember how the run ended, and say so where that is not plain to see."""
        self.last = output
        kept = len(output.content or "")
        if output.status is RunStatus.error:
            note(f'{output.error_type}: {output.error}; {kept} characters are kept, "{GO_ON}" tries again')
        elif can_go_on(output):
            note(f'stopped: {kept} characters are kept, "{GO_ON}" continues')
        if output.stored is False:
            note(f"not stored: {output.store_error}")

    def on_ctrl_c(self, _number: int, _frame: FrameType | None) -> None:
        """End what is being said: nothing is raised, its stream comes to an end by itself."""
        if self.answer is None:
            raise KeyboardInterrupt
        self.answer.cancel(reason="Ctrl-C")


def can_go_on(output: RunOutput) -> bool:
    """Whether the run was cut."""
    return output.status in (RunStatus.cancelled, RunStatus.error)


def ending(text: str) -> str:
    """The last words of a text."""
    return text if len(text) <= TAIL else "..." + text[-TAIL:].partition(" ")[2]


def local_model() -> Model:
    """The small model, ready to answer."""
    model = LlamaCpp(max_output_tokens=400)
    note("starting the model (SmolLM2, on this machine) ...")
    anyio.run(model.start)
    return model


def note(text: str) -> None:
    """Print what is no part of the conversation, in grey on a terminal."""
    print(f"\x1b[2m[{text}]\x1b[0m" if sys.stdout.isatty() else f"[{text}]", flush=True)


def main() -> int:
    """Chat, and return the exit code."""
    try:
        chat = Chat(sys.argv[1] if len(sys.argv) > 1 else "chat.db")
        signal.signal(signal.SIGINT, chat.on_ctrl_c)
        chat.welcome()
        chat.talk()
    except KernError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
