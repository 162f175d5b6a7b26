"""Reads what a docstring says of a function and of its parameters: Google, NumPy and Sphinx styles."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from inspect import cleandoc
from itertools import pairwise
from textwrap import dedent

_PARAMETER_SECTIONS = "Args|Arguments|Params|Parameters|Other Parameters|Keyword Args|Keyword Arguments"
_SECTION = re.compile(
    rf"({_PARAMETER_SECTIONS}|Returns?|Yields?|Raises|Attributes|Examples?|Notes?|Warnings?|Warns"
    r"|See Also|References|Todo|Usage)(:?)\s*"
)
_UNDERLINE = re.compile(r"-{3,}\s*")
_ENTRY = re.compile(r"\*{0,2}(\w+)\s*(?:\(.*?\))?\s*:(?:\s+(.*)|$)")
_NUMPY_ENTRY = re.compile(r"((?:\*{0,2}\w+)(?:\s*,\s*\*{0,2}\w+)*)\s*(?::.*)?")
_FIELD = re.compile(r":(\w+)(?:\s+([^:]*))?:\s*(.*)")
_PARAMETER_FIELDS = {"param", "parameter", "arg", "argument", "key", "keyword"}


def read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """What is said before the first section, and the description of each parameter that has one."""
    lines = cleandoc(text).splitlines()
    starts = [at for at in range(len(lines)) if _starts_section(lines, at)]
    starts.append(len(lines))
    parameters: dict[str, str] = {}
    for start, end in pairwise(starts):
        for name, words in _parameters(lines[start:end]):
            if description := " ".join(" ".join(words).split()):
                parameters[name] = description
    return "\n".join(lines[: starts[0]]).strip(), parameters


def _starts_section(lines: Sequence[str], at: int) -> bool:
    if _FIELD.fullmatch(lines[at]):
        return True
    match = _SECTION.fullmatch(lines[at])
    return match is not None and (bool(match[2]) or _is_underlined(lines, at))


def _is_underlined(lines: Sequence[str], at: int) -> bool:
    return at + 1 < len(lines) and _UNDERLINE.fullmatch(lines[at + 1]) is not None


def _parameters(section: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    if field := _FIELD.fullmatch(section[0]):
        if field[1] in _PARAMETER_FIELDS and field[2]:
            yield field[2].split()[-1].lstrip("*"), [field[3], *_paragraph(section[1:])]
    elif re.match(_PARAMETER_SECTIONS, section[0]):
        if _is_underlined(section, 0):
            yield from _numpy(section[2:])
        else:
            yield from _google(section[1:])


def _paragraph(lines: Sequence[str]) -> list[str]:
    end = next((at for at, line in enumerate(lines) if not line.strip()), len(lines))
    return list(lines[:end])


def _google(lines: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    outside = next((at for at, line in enumerate(lines) if line and not line[0].isspace()), len(lines))
    name: str | None = None
    words: list[str] = []
    for line in dedent("\n".join(lines[:outside])).splitlines():
        if match := _ENTRY.fullmatch(line):
            if name:
                yield name, words
            name, words = match[1], [match[2] or ""]
        else:
            words.append(line)
    if name:
        yield name, words


def _numpy(lines: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    names: list[str] = []
    words: list[str] = []
    for line in lines:
        if line[:1].isspace() or not line:
            words.append(line)
            continue
        for name in names:
            yield name, words
        match = _NUMPY_ENTRY.fullmatch(line)
        names = [name.strip().lstrip("*") for name in match[1].split(",")] if match else []
        words = []
    for name in names:
        yield name, words
