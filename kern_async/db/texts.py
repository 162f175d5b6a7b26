"""Text that every database can keep: none has NUL characters or halves of surrogate pairs in it."""

from __future__ import annotations

import json
import re

_NOT_TEXT = re.compile("[\0\ud800-\udfff]")


def storable(text: str) -> bool:
    """Whether a text column keeps it as it is."""
    return ("\0" not in text) and (text.isascii() or _NOT_TEXT.search(text) is None)


def json_body(body: str) -> str:
    """The same JSON in storable text: inside of a string, JSON has escapes for what a column cannot keep."""
    return body if storable(body) else _NOT_TEXT.sub(lambda found: f"\\u{ord(found[0]):04x}", body)


def plain(text: str | None) -> str | None:
    """Words for people, with a replacement character for what cannot be kept."""
    return text if text is None or storable(text) else _NOT_TEXT.sub("\ufffd", text)


def key_body(key: str) -> str:
    """A key of the session's state as JSON."""
    return json_body(json.dumps(key, ensure_ascii=False))


def key_text(body: str) -> str:
    """The key that `key_body` made a body of."""
    return json.loads(body)
