"""Text from outside as it fits into the database: Consul's agent takes IDs, names and output of any kind and length."""

from __future__ import annotations

from typing import Any

MAX_COLUMN = 512
MAX_BYTES = 1300  # two of them, such as node and ID, go into one entry of an index of PostgreSQL


def sanitized(value: Any) -> Any:
    """Text from outside, also within lists and pairs, as PostgreSQL takes it: no NUL, no lone surrogates."""
    if isinstance(value, str):
        if value.isascii() and "\x00" not in value:
            return value
        return value.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list):
        return [sanitized(element) for element in value]
    if isinstance(value, dict):
        return {sanitized(key): sanitized(content) for key, content in value.items()}
    return value


def truncated(text: str, length: int = MAX_COLUMN) -> str:
    """Returns the text sanitized, and cut to what a column holds."""
    fitting = str(sanitized(text))[:length] if text else ""
    return fitting if fitting.isascii() else fitting.encode()[:MAX_BYTES].decode("utf-8", "ignore")
