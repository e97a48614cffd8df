"""What several pages read from an address and say of a value, in one way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LAST_PAGE = 100_000


def page_number(query: Mapping[str, Any], *, most: int = LAST_PAGE) -> int:
    """The `page` of a query string; 1 where it is none."""
    text = str(query.get("page", ""))
    if not (text.isascii() and text.isdigit() and text.strip("0")):
        return 1
    return min(int(text), most) if len(text) <= 10 else most  # Python refuses to read numbers of 5,000 digits


def in_words(value: Any) -> str:
    """A field of a declaration: lists and pairs on one line, nothing as `none`."""
    if isinstance(value, dict):
        return ", ".join(f"{key} = {one}" for key, one in sorted(value.items())) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value in (None, "") else str(value)
