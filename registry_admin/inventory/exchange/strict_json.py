"""Reads JSON strictly: without repeated keys and without NaN, and within the limits."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from registry_admin.inventory.exchange.errors import DocumentError
from registry_admin.inventory.exchange.limits import MAX_DEPTH, MAX_VALUES, TOO_DEEP, TOO_MANY_VALUES

# Whatever follows a quote matches, closed or not: a search that failed there would begin anew at each quote inside.
_TEXT = re.compile(r'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_BRACKET = re.compile(r"[\[{\]}]")


def parse_json(text: str) -> Any:
    """Returns the data of a JSON document. Raises DocumentError."""
    _check_limits(text)
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse, parse_int=_integer)
    except json.JSONDecodeError as error:
        raise DocumentError.at(error.lineno, f"it is no JSON: {error.msg}") from error
    except RecursionError as error:
        raise DocumentError.at(0, TOO_DEEP) from error


def _check_limits(text: str) -> None:
    """Counts values and levels before anything is built. A list of n values has n - 1 commas."""
    structure = _TEXT.sub("", text)
    if structure.count(",") + structure.count("[") + structure.count("{") > MAX_VALUES:
        raise DocumentError.at(0, TOO_MANY_VALUES)
    depth = 0
    for bracket in _BRACKET.finditer(structure):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > MAX_DEPTH:
            raise DocumentError.at(0, TOO_DEEP)


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key, value in pairs:
        if key in mapping:
            raise DocumentError.at(0, f"the key {key[:60]!r} is there twice in one mapping")
        mapping[key] = value
    return mapping


def _refuse(name: str) -> Any:
    raise DocumentError.at(0, f"{name} is no JSON")


def _integer(digits: str) -> int:
    if len(digits) > 20:  # Python refuses to convert thousands
        raise DocumentError.at(0, f"{digits[:20]}… is too large a number")
    return int(digits)
