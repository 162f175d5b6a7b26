"""Server-sent events, split out of a byte stream (WHATWG HTML, section 9.2.6)."""

from __future__ import annotations

import re

_BOM = b"\xef\xbb\xbf"
_LARGEST_EVENT = 64 * 1024 * 1024
_simple_event = re.compile(rb"(?:event: [^\n]*\n)?data: ([^\n]*)").fullmatch  # the form that providers send


class SSESplitter:
    """Takes a stream's bytes as they come and gives the `data` of every whole event in them.

    Works on bytes: a character, a line end or an event may be cut anywhere. Comments and the fields `event`,
    `id` and `retry` are dropped, and so are events without data: OpenAI's protocols say everything in the data.
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = []  # of the event that has not ended
        self._size = 0
        self._after_cr = False
        self._at_line_start = False
        self._bom_possible = True
        self._head = b"data: "

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the events that end in this chunk.

        Raises:
            ValueError: an event of more than 64 MiB.
        """
        if self._after_cr:
            if not chunk:
                return []
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if not chunk:
            return []
        if b"\n\n" not in chunk and not (self._at_line_start and chunk.startswith(b"\n")):
            self._keep(chunk)
            return []
        self._parts.append(chunk)
        blocks = b"".join(self._parts).split(b"\n\n")
        rest = blocks.pop()
        self._parts = []
        self._size = 0
        # An empty rest follows a blank line: one more line end is one more blank line, of no meaning.
        self._at_line_start = False
        if rest:
            self._keep(rest)
        if self._bom_possible:
            self._bom_possible = False
            blocks[0] = blocks[0].removeprefix(_BOM)
        return self._events(blocks)

    def close(self) -> list[bytes]:
        """The data of a last event that the stream's end cut off from its blank line, if there is one."""
        block = b"".join(self._parts)
        self._parts = []
        return self._events([block.removeprefix(_BOM) if self._bom_possible else block])

    def _events(self, blocks: list[bytes]) -> list[bytes]:
        events: list[bytes] = []
        for block in blocks:
            # One event after another begins alike: what is left to do is half of all work here.
            if block.startswith(self._head) and block.find(b"\n", len(self._head)) < 0:
                data = block[len(self._head) :]
            elif simple := _simple_event(block):
                data = simple[1]
                self._head = block[: simple.start(1)]
            else:
                data = _data(block)
            if data:
                events.append(data)
        return events

    def _keep(self, part: bytes) -> None:
        self._parts.append(part)
        self._size += len(part)
        self._at_line_start = part.endswith(b"\n")
        if self._size > _LARGEST_EVENT:
            raise ValueError(f"an event of more than {_LARGEST_EVENT} bytes")


def _data(block: bytes) -> bytes:
    lines: list[bytes] = []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines)
