from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kern_async.models import sse
from kern_async.models.sse import SSESplitter


def reference(stream: str) -> list[str]:
    """The standard's own algorithm, line by line over the whole decoded stream."""
    events: list[str] = []
    data: list[str] = []
    stream = stream.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    for line in stream.split("\n"):
        if not line:
            if any(data) or len(data) > 1:
                events.append("\n".join(data))
            data = []
        elif line.partition(":")[0] == "data":
            data.append(line.partition(":")[2].removeprefix(" "))
    if any(data) or len(data) > 1:
        events.append("\n".join(data))
    return events


LINES = st.sampled_from(
    [
        'data: {"type":"x","delta":"Grüße, 世界 🦉"}',
        "data: [DONE]",
        "data:no space",
        "data:  two spaces",
        "data",
        "data:",
        "database: no",
        ": comment",
        ":",
        "event: response.output_text.delta",
        "id: 7",
        "retry: 10",
        "no colon",
        "\ufeffdata: after a mark",
        "",
        "",
    ]
)
STREAMS = st.lists(st.tuples(LINES, st.sampled_from(["\n", "\r\n", "\r"]))).map(
    lambda lines: "".join(line + end for line, end in lines)
)


@given(stream=STREAMS, cut=st.data())
def test_a_stream_cut_anywhere_gives_the_events_of_the_standard(stream: str, cut: st.DataObject) -> None:
    data = stream.encode()
    places = sorted(cut.draw(st.sets(st.integers(0, len(data)))))
    splitter = SSESplitter()
    events: list[bytes] = []
    for start, end in zip([0, *places], [*places, len(data)], strict=True):
        events += splitter.feed(data[start:end])
    events += splitter.close()
    assert [event.decode() for event in events] == reference(stream)


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_an_event_is_given_with_the_byte_that_ends_it(end: bytes) -> None:
    splitter = SSESplitter()
    stream = b"data: one" + end + end
    given: list[list[bytes]] = [splitter.feed(stream[i : i + 1]) for i in range(len(stream))]
    # After a CR the standard allows an LF that belongs to it; the event does not wait for it.
    at = len(stream) - (2 if end == b"\r\n" else 1)
    assert given[at] == [b"one"]
    assert [event for events in given for event in events] == [b"one"]


def test_an_event_without_end_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "_LARGEST_EVENT", 1000)
    splitter = SSESplitter()
    with pytest.raises(ValueError, match="1000 bytes"):
        for _ in range(101):
            splitter.feed(b"0123456789")
