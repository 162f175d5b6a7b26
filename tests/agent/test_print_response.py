"""`print_response` and `aprint_response` in plain text."""

from __future__ import annotations

import anyio
import pytest

from kern_async.testing import Cut, Text

from .crew import Crew


def plain(text: str) -> str:
    assert "\x1b" not in text
    return text.strip()


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_is_printed(crew: Crew, capsys: pytest.CaptureFixture[str], stream: bool) -> None:
    crew.agent("Solo", Text("It rains.")).print_response("How is it?", stream=stream)
    assert plain(capsys.readouterr().out) == "It rains."


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_is_printed_in_async_code(
    crew: Crew, capsys: pytest.CaptureFixture[str], stream: bool
) -> None:
    with anyio.fail_after(5):
        await crew.agent("Solo", Text("It rains.")).aprint_response("How is it?", stream=stream)
    assert plain(capsys.readouterr().out) == "It rains."


def test_a_failure_is_printed_after_what_was_kept(crew: Crew, capsys: pytest.CaptureFixture[str]) -> None:
    crew.agent("Solo", [Text("It is "), Cut()]).print_response("How is it?")
    shown = plain(capsys.readouterr().out)
    assert shown.startswith("It is")
    assert "ModelConnectionError" in shown


def test_printing_takes_the_options_of_a_run(crew: Crew, capsys: pytest.CaptureFixture[str]) -> None:
    crew.agent(instructions="For {who}.").print_response("Go.", session_state={"who": "Ada"})
    assert crew.requests()[0].instructions == "For Ada."
    with pytest.raises(TypeError, match="sesion_id"):
        crew.agent().print_response("Go.", sesion_id="typo")  # pyright: ignore[reportCallIssue]
    assert capsys.readouterr().out
