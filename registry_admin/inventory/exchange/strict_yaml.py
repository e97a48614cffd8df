"""Reads YAML strictly: without aliases, tags and anchors. An alias of aliases can be gigabytes, a tag can be code.

The data is built from the parser's events, so that a limit ends the reading and not the memory.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from registry_admin.inventory.exchange.errors import DocumentError
from registry_admin.inventory.exchange.limits import MAX_DEPTH, MAX_VALUES, TOO_DEEP, TOO_MANY_VALUES

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9]{0,19})(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_LIKE_A_NUMBER = re.compile(r"0[0-9_]+")  # octal for some readers, decimal or text for others
_RESOLVER = yaml.SafeLoader("")  # tells the type of a plain scalar


class LinedMapping(dict[Any, Any]):
    """A mapping that knows its line in the document, and that of each of its keys."""

    __slots__ = ("key_lines", "line")

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line
        self.key_lines: list[int] = []

    def line_of(self, key: object) -> int:
        """Returns the line of a key, or of the mapping where it has no such key."""
        return next((line for known, line in zip(self, self.key_lines, strict=True) if known == key), self.line)


def line_of(value: object, key: object = None) -> int:
    """Returns the line of a mapping, or of one of its keys; 0 where it is unknown."""
    return value.line_of(key) if isinstance(value, LinedMapping) else 0


def parse_yaml(text: str) -> Any:
    """Returns the plain data of a YAML document, with its lines. Raises DocumentError."""
    builder = _Builder()
    try:
        for event in yaml.parse(text, Loader=_Loader):
            builder.add(event, event.start_mark.line + 1 if event.start_mark else 0)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "it can't be read"
        raise DocumentError.at(mark.line + 1 if mark else 0, f"it is no YAML: {reason}") from error
    return builder.root


class _Builder:
    """Builds plain data from events."""

    def __init__(self) -> None:
        self.root: Any = None
        self._stack: list[list[Any] | LinedMapping] = []
        self._keys: list[str | None] = []  # of the mapping at each level of the stack: the key that awaits its value
        self._words: dict[str, str] = {}  # the same key of many mappings is kept once
        self._documents = self._values = 0

    def add(self, event: yaml.Event, line: int) -> None:
        """Adds an event. Raises DocumentError for whatever could be misread, and beyond the limits."""
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise DocumentError.at(line, "anchors and aliases (& and *) aren't taken: write it out")
        if getattr(event, "tag", None):
            raise DocumentError.at(line, "tags (such as !!python) aren't taken")
        if isinstance(event, yaml.ScalarEvent):
            self._add_scalar(event, line)
        elif isinstance(event, yaml.CollectionStartEvent):
            value: LinedMapping | list[Any] = LinedMapping(line) if isinstance(event, yaml.MappingStartEvent) else []
            self._put(value, line)
            self._stack.append(value)
            self._keys.append(None)
            if len(self._stack) > MAX_DEPTH:
                raise DocumentError.at(line, TOO_DEEP)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._stack.pop()
            self._keys.pop()
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise DocumentError.at(line, "it holds several documents ('---'): divide it")

    def _add_scalar(self, event: yaml.ScalarEvent, line: int) -> None:
        parent = self._stack[-1] if self._stack else None
        if isinstance(parent, LinedMapping) and self._keys[-1] is None:
            key = self._words.setdefault(event.value, event.value)
            if key in parent:
                raise DocumentError.at(line, f"the key {key[:60]!r} is there twice")
            parent.key_lines.append(line)
            parent[key] = None
            self._keys[-1] = key
            return
        is_plain = event.implicit[0]
        self._put(_typed(event.value, line) if is_plain else event.value, line)

    def _put(self, value: Any, line: int) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            raise DocumentError.at(line, TOO_MANY_VALUES)
        if not self._stack:
            self.root = value
            return
        parent = self._stack[-1]
        if isinstance(parent, list):
            parent.append(value)
            return
        key, self._keys[-1] = self._keys[-1], None
        if key is None:
            raise DocumentError.at(line, "keys must be words")
        parent[key] = value


def _typed(text: str, line: int) -> Any:
    """Returns the value of a plain scalar. Raises DocumentError for one that YAML's versions read differently."""
    kind = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False)).rpartition(":")[2]  # type: ignore[no-untyped-call]
    if kind == "bool":
        return yaml.SafeLoader.bool_values[text.lower()]
    is_number = kind in ("int", "float")
    if (is_number or _LIKE_A_NUMBER.fullmatch(text)) and not _NUMBER.fullmatch(text):
        raise DocumentError.at(
            line, f"{text[:60]!r} can be read in several ways: write a number in decimal, or put it in quotes"
        )
    if is_number:
        return int(text) if kind == "int" else float(text)
    return None if kind == "null" else text
