"""Reads a long JSON reply repeatedly, and parses only the entries that have changed.

Ten thousand instances take 50 ms to parse and as many megabytes to hold, yet hardly any differs from the look before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_scan = json.JSONDecoder().raw_decode
_space = re.compile(r"[ \t\n\r]*").match


@dataclass(frozen=True)
class _PreviousReply(Generic[T]):
    """The last reply that was read. `known`: an entry's text -> its value, and the text of the entry after it."""

    text: str = ""
    values: tuple[T, ...] = ()
    first: str = ""
    known: dict[str, tuple[T, str]] = field(default_factory=dict)


class IncrementalJson(Generic[T]):
    """Reader of a JSON object, or array of objects, that is read repeatedly. Safe to share between threads.

    `make` gets an entry's key ("" in an array) and the object. An entry whose text is the same as at the last `read`,
    wherever it stood, gives what was made of it then, and nothing is parsed.
    """

    def __init__(self, make: Callable[[str, dict[str, Any]], T], *, keyed: bool) -> None:
        self._make = make
        self._keyed = keyed
        self._last: _PreviousReply[T] = _PreviousReply()

    def read(self, text: str) -> tuple[T, ...]:
        """Returns the entries' values in the reply's order: the same tuple if the text has not changed.

        Raises ValueError where `text` isn't JSON of the right kind, and whatever `make` raises.
        """
        last = self._last  # replaced whole: another thread's read is seen wholly or not at all
        if not last.text or text != last.text:
            try:
                last = self._last = self._read(text, last)
            except (IndexError, RecursionError):
                raise ValueError("it ends too early, or is nested too deeply") from None
        return last.values

    def _read(self, text: str, last: _PreviousReply[T]) -> _PreviousReply[T]:
        entries: list[str] = []
        values: list[T] = []
        for entry, value in self._walk(text, last):
            entries.append(entry)
            values.append(value)
        following = [*entries[1:], ""] if entries else []
        known = dict(zip(entries, zip(values, following, strict=True), strict=True))
        return _PreviousReply(text, tuple(values), entries[0] if entries else "", known)

    def _walk(self, text: str, last: _PreviousReply[T]) -> Iterator[tuple[str, T]]:
        """Yields each entry's text and its value."""
        opening, closing = "{}" if self._keyed else "[]"
        position = _after(opening, text, _after_space(text, 0))
        expected = last.first
        more = text[position] != closing
        while more:
            if expected and text.startswith(expected, position):  # enough, since an entry ends with its own bracket
                entry, (value, expected) = expected, last.known[expected]
                position += len(entry)
            else:
                key, raw, end = self._parse(text, position)
                entry, position = text[position:end], end
                if entry in last.known:
                    value, expected = last.known[entry]
                else:
                    value = self._make(key, raw)
            yield entry, value
            position = _after_space(text, position)
            more = text[position] != closing
            if more:
                position = _after(",", text, position)
        if _after_space(text, position + 1) != len(text):
            raise ValueError("there is more after its end")

    def _parse(self, text: str, position: int) -> tuple[str, dict[str, Any], int]:
        """Returns the key of the entry at `position`, its object, and its end."""
        key = ""
        if self._keyed:
            key, position = _scan(text, position)
            position = _after(":", text, _after_space(text, position))
        raw, end = _scan(text, position)
        if not isinstance(key, str) or not isinstance(raw, dict):
            raise ValueError("an entry is no object")  # noqa: TRY004 - it isn't the caller who gave a wrong type
        return key, raw, end


def _after(mark: str, text: str, position: int) -> int:
    """Returns the position after `mark`, which must stand at `position`, and the space behind it."""
    if text[position] != mark:
        raise ValueError(f"there is no {mark!r} where one belongs")
    return _after_space(text, position + 1)


def _after_space(text: str, position: int) -> int:
    match = _space(text, position)
    return match.end() if match else position
