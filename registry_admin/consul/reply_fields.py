"""Fields of entries in Consul's replies, whose shape is checked where they are read."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from registry_admin.errors import InvalidReplyError

_LONGEST_SHARED = 128  # characters: whoever may register decides how long tags are


def mapping_of(raw: object, what: str) -> Mapping[str, Any]:
    """Returns `raw` if it is a JSON object; else raises InvalidReplyError, which calls it `what`."""
    if not isinstance(raw, dict):
        raise InvalidReplyError(
            f"Consul's reply is not what it should be: {what} is {type(raw).__name__}, not an object."
        )
    return raw


def string_of(entry: Mapping[str, Any], key: str) -> str:
    """Returns the text at `key`, empty where there is none. Raises InvalidReplyError for another type."""
    value = entry.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidReplyError(f"Consul's reply is not what it should be: {key} is not text.")
    return value


def shared(text: str) -> str:
    """Returns the object that an equal text gave before: what ten thousand instances have alike is kept once."""
    return _shared(text) if len(text) <= _LONGEST_SHARED else text


@lru_cache(maxsize=4096)  # not sys.intern, whose texts Python 3.12 never frees
def _shared(text: str) -> str:
    return text
