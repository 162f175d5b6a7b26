"""Messages that come for a run while it works: none is lost, and none is promised that nobody will read."""

from __future__ import annotations


class _Letter:
    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


class Inbox:
    """Filled from any thread, emptied by the run before each model request.

    A sender puts its letter in and then looks whether the inbox is closed; the run closes it and then looks what is
    in it. So one of them sees the other, without a lock.
    """

    __slots__ = ("_closed", "_letters")

    def __init__(self) -> None:
        self._letters: list[_Letter] = []
        self._closed = False

    def put(self, text: str) -> bool:
        """Whether the run has taken the text, or will."""
        letter = _Letter(text)
        self._letters.append(letter)
        if not self._closed:
            return True
        try:
            self._letters.remove(letter)
        except ValueError:
            return True  # it was taken in between
        return False

    def take(self) -> list[str]:
        """All texts that have come, in their order."""
        texts: list[str] = []
        while self._letters:
            try:
                texts.append(self._letters.pop(0).text)
            except IndexError:  # its sender took it back
                break
        return texts

    def close(self) -> list[str]:
        """Take no more; returns what has come until now."""
        self._closed = True
        return self.take()

    def reopen(self) -> None:
        """Take texts again."""
        self._closed = False
