"""Reads a document, strictly: whatever could be meant in two ways is a problem, and each problem says where it is.

No Django. YAML without aliases, tags and anchors: an alias of aliases can be gigabytes, and a tag can be code.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

FORMAT = 1
MAX_BYTES = 10_000_000
MAX_DEPTH = 12
MAX_PROBLEMS = 200

SERVICE_KEYS = (
    "name", "description", "owner", "documentation_url", "tags", "meta", "enabled", "check", "instances",
)  # fmt: skip
CHECK_KEYS = ("kind", "path", "scheme", "interval", "timeout", "deregister_after")
INSTANCE_KEYS = ("address", "port", "id", "weight", "tags", "meta", "enabled")

Path = tuple[str | int, ...]


class Problem(NamedTuple):
    """Something that is wrong with a document, where, and in which line (0: not known)."""

    where: str
    line: int
    text: str

    def __str__(self) -> str:
        place = f"{self.where} (line {self.line})" if self.line and self.where else self.where or f"line {self.line}"
        return f"{place}: {self.text}"


class DocumentError(ValueError):
    """The document can't be read or taken; `problems` are all that was found."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(map(str, self.problems[:5])))


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A service or an instance as the document has it: its fields, and where it stands."""

    where: str
    line: int
    fields: Mapping[str, Any]
    instances: tuple[Entry, ...] = ()

    def problem(self, text: str, key: str = "") -> Problem:
        """Something that is wrong with it, or with one of its fields."""
        return Problem(self.where, self.line, f"{key}: {text}" if key else text)


@dataclass
class _Reader:
    """The plain data of a document on its way to entries, with the line of each part."""

    lines: Mapping[Path, int]
    problems: list[Problem] = field(default_factory=list)

    def complain(self, where: str, path: Path, text: str) -> None:
        self.problems.append(Problem(where, self.lines.get(path, 0), text))

    def mapping(self, value: Any, where: str, path: Path, keys: Iterable[str]) -> dict[str, Any]:
        """The pairs whose keys are known; anything else is a problem."""
        if not isinstance(value, dict):
            self.complain(where, path, "must be a mapping of keys and values")
            return {}
        known = list(keys)
        for key in value.keys() - set(known):
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"
            self.complain(where, (*path, key), f"unknown key {str(key)[:60]!r}{hint}")
        return {key: value[key] for key in known if key in value}

    def items(self, value: Any, where: str, path: Path) -> Iterator[tuple[int, Any]]:
        if not isinstance(value, list):
            self.complain(where, path, "must be a list")
            return
        yield from enumerate(value)


def read_document(text: str) -> list[Entry]:
    """The services of a YAML or JSON document. Raises DocumentError with every problem that it has."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise DocumentError([Problem("", 0, f"it is larger than {MAX_BYTES // 1_000_000} MB")])
    data, lines = _parse_json(text) if text.lstrip()[:1] == "{" else _parse_yaml(text)
    reader = _Reader(lines)
    top = reader.mapping(data, "document", (), ("format", "services"))
    if top.get("format") != FORMAT or isinstance(top.get("format"), bool):
        reader.complain("document", ("format",), f"must say 'format: {FORMAT}'")
    entries = [
        _service(reader, one, number)
        for number, one in reader.items(top.get("services", []), "services", ("services",))
    ]
    if reader.problems:
        raise DocumentError(reader.problems[:MAX_PROBLEMS])
    return entries


def _service(reader: _Reader, value: Any, number: int) -> Entry:
    path: Path = ("services", number)
    name = value.get("name", "") if isinstance(value, dict) else ""
    where = f"services[{number + 1}]" + (f" {name[:60]!r}" if isinstance(name, str) and name else "")
    fields = reader.mapping(value, where, path, SERVICE_KEYS)
    check = reader.mapping(fields.pop("check", {}), f"{where}, check", (*path, "check"), CHECK_KEYS)
    instances = [
        _instance(reader, one, where, (*path, "instances", index), index)
        for index, one in reader.items(fields.pop("instances", []), f"{where}, instances", (*path, "instances"))
    ]
    if fields and not fields.get("name"):
        reader.complain(where, path, "name: is missing")
    fields |= {key if key == "deregister_after" else f"check_{key}": one for key, one in check.items()}
    return Entry(where=where, line=reader.lines.get(path, 0), fields=fields, instances=tuple(instances))


def _instance(reader: _Reader, value: Any, service: str, path: Path, number: int) -> Entry:
    where = f"{service}, instances[{number + 1}]"
    fields = reader.mapping(value, where, path, INSTANCE_KEYS)
    for key in ("address", "port"):
        if fields and key not in fields:
            reader.complain(where, path, f"{key}: is missing")
    renamed = {"id": "consul_id", "tags": "extra_tags", "meta": "extra_meta"}
    fields = {renamed.get(key, key): one for key, one in fields.items()}
    return Entry(where=where, line=reader.lines.get(path, 0), fields=fields)


def _parse_json(text: str) -> tuple[Any, dict[Path, int]]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            twice = next(key for key in found if sum(key == other for other, _ in pairs) > 1)
            raise DocumentError([Problem("", 0, f"the key {twice[:60]!r} is there twice in one mapping")])
        return found

    def refuse(name: str) -> Any:
        raise DocumentError([Problem("", 0, f"{name} is no JSON")])

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse), {}
    except json.JSONDecodeError as error:
        raise DocumentError([Problem("", error.lineno, f"it is no JSON: {error.msg}")]) from error
    except RecursionError as error:
        raise DocumentError([Problem("", 0, "it is nested too deeply")]) from error


_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _parse_yaml(text: str) -> tuple[Any, dict[Path, int]]:
    try:
        _refuse_tricks(text)
        root = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or "it can't be read"
        raise DocumentError([Problem("", mark.line + 1 if mark else 0, f"it is no YAML: {reason}")]) from error
    lines: dict[Path, int] = {}
    return (_plain(root, (), lines) if root is not None else None), lines


def _refuse_tricks(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise DocumentError([Problem("", line, "anchors and aliases (& and *) aren't taken: write it out")])
        if getattr(event, "tag", None):
            raise DocumentError([Problem("", line, "tags (such as !!python) aren't taken")])
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise DocumentError([Problem("", line, "it is nested too deeply")])


def _plain(node: yaml.Node, path: Path, lines: dict[Path, int]) -> Any:
    lines[path] = line = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        found: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None or key in found:
                why = "keys must be words" if key is None else f"the key {key[:60]!r} is there twice"
                raise DocumentError([Problem("", key_node.start_mark.line + 1, why)])
            found[key] = _plain(value_node, (*path, key), lines)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_plain(one, (*path, number), lines) for number, one in enumerate(node.value)]
    return _scalar(node, line)


def _scalar(node: yaml.Node, line: int) -> Any:
    kind = node.tag.rpartition(":")[2]
    text = str(node.value)
    try:
        if kind == "int":
            return int(text.replace("_", ""), 10)
        if kind == "bool":
            return yaml.SafeLoader.bool_values[text.lower()]
        if kind == "float":
            return float(text.replace("_", ""))
    except ValueError as error:
        raise DocumentError(
            [Problem("", line, f"{text[:60]!r} can be read in several ways: put it in quotes")]
        ) from error
    return None if kind == "null" else text
