"""Reads HCL as Consul's agents take it: attributes, blocks, lists and objects, without expressions.

docs/decisions/0019 tells why no library does it. https://developer.hashicorp.com/consul/docs/reference/agent/configuration-file
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

from registry_admin.inventory.exchange.errors import DocumentError
from registry_admin.inventory.exchange.limits import MAX_DEPTH, MAX_VALUES, TOO_DEEP, TOO_MANY_VALUES
from registry_admin.inventory.exchange.strict_yaml import LinedMapping

_SPACE = re.compile(r"(?:\s|#[^\n]*|//[^\n]*|/\*.*?\*/)+", re.DOTALL)
_TOKEN = re.compile(
    r'(?P<text>"(?:[^"\\\n]|\\[^\n])*+")'
    r"|(?P<heredoc><<-?(?P<end>\w+)[ \t]*\r?\n)"
    r"|(?P<number>-?(?:0|[1-9][0-9]{0,19})(?:\.[0-9]+)?(?![\w.]))"
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_.-]*)"
    r"|(?P<sign>[{}\[\]=:,])"
)
_FIRST = re.compile(r'(?:[A-Za-z_][\w.-]*|"[^"\n]*")\s*(?:"[^"\n]*"\s*)*(?:=|\{)')
Inner = TypeVar("Inner")
_CONSTANTS = {"true": True, "false": False, "null": None}


def is_hcl(text: str) -> bool:
    """Returns whether a text begins as HCL does and YAML never: a word, then `=` or `{`."""
    start = _SPACE.match(text)
    return _FIRST.match(text, start.end() if start else 0) is not None


def parse_hcl(text: str) -> LinedMapping:
    """Returns the data of an HCL document, with its lines. A repeated block is a list. Raises DocumentError."""
    if "\x00" in text:
        raise DocumentError.at(text.count("\n", 0, text.index("\x00")) + 1, "it is no HCL: it holds NUL")
    return _Parser(text).document()


class _Parser:
    """A recursive descent within MAX_DEPTH levels, over tokens that are found one after another."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position, self._line = 0, 1
        self._values = self._depth = 0
        self._kind, self._token = "", ""
        self._token_line = 1
        self._advance()

    def document(self) -> LinedMapping:
        """Returns the whole document."""
        return self._pairs(is_nested=False)

    def _advance(self) -> None:
        """Reads the next token; its kind is empty at the end."""
        if space := _SPACE.match(self._text, self._position):
            self._move_to(space.end())
        self._token_line = self._line
        if self._position == len(self._text):
            self._kind = self._token = ""
            return
        match = _TOKEN.match(self._text, self._position)
        if match is None:
            found = self._text[self._position : self._position + 20].splitlines()[0]
            raise self._error(f"it is no HCL: {found!r} can't be read")
        self._kind, self._token = match.lastgroup or "", match[0]
        self._move_to(match.end())
        if match["heredoc"]:
            self._kind, self._token = "heredoc", self._heredoc(match["end"], is_indented="-" in match["heredoc"])

    def _move_to(self, position: int) -> None:
        self._line += self._text.count("\n", self._position, position)
        self._position = position

    def _heredoc(self, word: str, *, is_indented: bool) -> str:
        end = re.compile(rf"^[ \t]*{word}[ \t]*$" if is_indented else rf"^{word}$", re.MULTILINE)
        match = end.search(self._text, self._position)
        if match is None:
            raise self._error(f"it is no HCL: the text that {word} ends has no end")
        lines = self._text[self._position : match.start()].splitlines(keepends=True)
        self._move_to(match.end())
        if is_indented:
            margin = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
            lines = [line[margin:] for line in lines]
        return "".join(lines)

    def _pairs(self, *, is_nested: bool) -> LinedMapping:
        mapping = LinedMapping(self._token_line)
        blocks: set[str] = set()
        while not self._is_sign("}") if is_nested else self._kind:
            line, key = self._token_line, self._key()
            if self._is_sign("=") or self._is_sign(":"):
                self._advance()
                if key in mapping:
                    raise DocumentError.at(line, f"the key {key[:60]!r} is there twice")
                mapping.key_lines.append(line)
                mapping[key] = self._value()
            else:
                self._add_block(mapping, blocks, key, line)
            if self._is_sign(","):
                self._advance()
        return mapping

    def _add_block(self, mapping: LinedMapping, blocks: set[str], key: str, line: int) -> None:
        self._count_value()
        block: Any = self._block()
        if key not in mapping:
            mapping.key_lines.append(line)
            mapping[key] = block
        elif key not in blocks:
            if not isinstance(mapping[key], dict):
                raise DocumentError.at(line, f"the key {key[:60]!r} is there twice")
            mapping[key] = [mapping[key], block]
        else:
            mapping[key].append(block)
        if isinstance(mapping[key], list):
            blocks.add(key)

    def _block(self) -> LinedMapping:
        """Returns the block that begins here; one with labels is nested under each of them."""
        labels: list[tuple[int, str]] = []
        while self._kind == "text":
            labels.append((self._token_line, self._key()))
        if not self._is_sign("{"):
            raise self._error("it is no HCL: '=' or '{' is missing")
        if self._depth + len(labels) > MAX_DEPTH:
            raise self._error(TOO_DEEP)
        block = self._nested(lambda: self._pairs(is_nested=True))
        for line, label in reversed(labels):
            labelled = LinedMapping(line)
            labelled.key_lines.append(line)
            labelled[label] = block
            block = labelled
        return block

    def _key(self) -> str:
        if self._kind not in ("word", "text"):
            found = f"found {self._token[:20]!r}" if self._kind else "the document ends"
            raise self._error(f"it is no HCL: a key or '}}' is missing; {found}")
        key = self._string() if self._kind == "text" else self._token
        self._advance()
        return key

    def _value(self) -> Any:
        self._count_value()
        if self._is_sign("{"):
            return self._nested(lambda: self._pairs(is_nested=True))
        if self._is_sign("["):
            return self._nested(self._items)
        value = self._scalar()
        self._advance()
        return value

    def _scalar(self) -> Any:
        if self._kind == "text":
            return self._string()
        if self._kind == "heredoc":
            return self._token
        if self._kind == "number":
            return float(self._token) if "." in self._token else int(self._token)
        if self._kind == "word" and self._token in _CONSTANTS:
            return _CONSTANTS[self._token]
        if self._kind == "word":
            raise self._error(f"{self._token[:60]!r}: expressions aren't taken; write out the value, text in quotes")
        raise self._error("it is no HCL: a value is missing")

    def _count_value(self) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            raise self._error(TOO_MANY_VALUES)

    def _items(self) -> list[Any]:
        items: list[Any] = []
        while not self._is_sign("]"):
            items.append(self._value())
            if self._is_sign(","):
                self._advance()
            elif not self._is_sign("]"):
                raise self._error("it is no HCL: ',' or ']' is missing")
        return items

    def _nested(self, read: Callable[[], Inner]) -> Inner:
        """Returns what `read` makes of the inside of the brackets that begin here."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(TOO_DEEP)
        self._advance()
        value = read()
        self._depth -= 1
        self._advance()
        return value

    def _string(self) -> str:
        if "${" in self._token or "%{" in self._token:
            raise self._error(f"{self._token[:60]}: expressions aren't taken; write out the value")
        try:
            return str(json.loads(self._token, strict=False))
        except ValueError as error:
            raise self._error(f"it is no HCL: {self._token[:60]} can't be read") from error

    def _is_sign(self, sign: str) -> bool:
        return self._kind == "sign" and self._token == sign

    def _error(self, text: str) -> DocumentError:
        return DocumentError.at(self._token_line, text)
