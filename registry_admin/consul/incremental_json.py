"""Reads a long JSON reply repeatedly, and parses only the entries that have changed.

Ten thousand instances take 50 ms to parse and as many megabytes to hold, yet hardly any differs from the look before.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_scan = json.JSONDecoder().raw_decode
_space = re.compile(r"[ \t\n\r]*").match
_NULL = "null"


def _positions() -> array[int]:
    return array("Q")


@dataclass(frozen=True)
class _PreviousReply(Generic[T]):
    """The last reply that was read: its text, where each entry begins and ends in it, and the entries' values."""

    text: str = ""
    starts: array[int] = field(default_factory=_positions)
    ends: array[int] = field(default_factory=_positions)
    values: tuple[T, ...] = ()

    def entry(self, index: int) -> str:
        """Returns the text of the entry; nothing beyond the last."""
        return self.text[self.starts[index] : self.ends[index]] if index < len(self.values) else ""

    def indexes(self) -> dict[str, int]:
        """Returns the index of each entry, by its text."""
        return {self.entry(index): index for index in range(len(self.values))}


class IncrementalJson(Generic[T]):
    """Reader of a JSON object, or array of objects, that is read repeatedly. Safe to share between threads.

    `make` gets an entry's key ("" in an array) and the object. An entry whose text is the same as at the last `read`,
    wherever it stood, gives what was made of it then, and nothing is parsed. `member`: the name under which the
    object or array stands in an object around it, where null means that it is empty.
    """

    def __init__(self, make: Callable[[str, dict[str, Any]], T], *, keyed: bool, member: str = "") -> None:
        self._make = make
        self._opening, self._closing = "{}" if keyed else "[]"
        self._member = member
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
        starts, ends, values = _positions(), _positions(), list[T]()
        position = _after_space(text, 0)
        if self._member:
            position = _member_start(text, position, self._member)
        if self._member and text.startswith(_NULL, position):
            position = _after_space(text, position + len(_NULL))
        else:
            position = _after(self._opening, text, position)
            for start, end, value in self._walk(text, position, last):
                starts.append(start)
                ends.append(end)
                values.append(value)
            position = _after(self._closing, text, _after_space(text, ends[-1]) if ends else position)
        if self._member:
            position = _after_members(text, position)
        if position != len(text):
            raise ValueError("there is more after its end")
        return _PreviousReply(text, starts, ends, tuple(values))

    def _walk(self, text: str, position: int, last: _PreviousReply[T]) -> Iterator[tuple[int, int, T]]:
        """Yields where each entry begins and ends, and its value."""
        known: dict[str, int] | None = None
        index = 0  # of the entry that follows, if nothing has changed here
        more = text[position] != self._closing
        while more:
            entry = last.entry(index)
            if entry and text.startswith(entry, position):  # enough, since an entry ends with its own bracket
                end, value = position + len(entry), last.values[index]
            else:
                key, raw, end = self._parse(text, position)
                known = last.indexes() if known is None else known
                index = known.get(text[position:end], len(last.values))
                value = last.values[index] if index < len(last.values) else self._make(key, raw)
            yield position, end, value
            index += 1
            position = _after_space(text, end)
            more = text[position] != self._closing
            if more:
                position = _after(",", text, position)

    def _parse(self, text: str, position: int) -> tuple[str, dict[str, Any], int]:
        """Returns the key of the entry at `position`, its object, and its end."""
        key = ""
        if self._opening == "{":
            key, position = _key(text, position)
        raw, end = _scan(text, position)
        if not isinstance(raw, dict):
            raise ValueError("an entry is no object")  # noqa: TRY004 - it isn't the caller who gave a wrong type
        return key, raw, end


def _member_start(text: str, position: int, name: str) -> int:
    """Returns where the value of this member begins, in the object at `position`."""
    key, position = _key(text, _after("{", text, position))
    while key != name:
        _, position = _scan(text, position)
        key, position = _key(text, _after(",", text, _after_space(text, position)))
    return position


def _after_members(text: str, position: int) -> int:
    """Returns the position after the object whose other members follow at `position`, and the space behind it."""
    while text[position] == ",":
        _, position = _key(text, _after_space(text, position + 1))
        _, position = _scan(text, position)
        position = _after_space(text, position)
    return _after("}", text, position)


def _key(text: str, position: int) -> tuple[str, int]:
    """Returns the key at `position`, and where its value begins."""
    key, position = _scan(text, position)
    if not isinstance(key, str):
        raise ValueError("a key is no text")  # noqa: TRY004 - it isn't the caller who gave a wrong type
    return key, _after(":", text, _after_space(text, position))


def _after(mark: str, text: str, position: int) -> int:
    """Returns the position after `mark`, which must stand at `position`, and the space behind it."""
    if text[position] != mark:
        raise ValueError(f"there is no {mark!r} where one belongs")
    return _after_space(text, position + 1)


def _after_space(text: str, position: int) -> int:
    match = _space(text, position)
    return match.end() if match else position
