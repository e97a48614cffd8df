"""Values read from a query string, and values of declarations as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LAST_PAGE = 100_000


def page_number(query: Mapping[str, Any], *, most: int = LAST_PAGE) -> int:
    """Returns the `page` of a query string, at most `most`; 1 where there is none."""
    text = str(query.get("page", ""))
    if not (text.isascii() and text.isdigit() and text.strip("0")):
        return 1
    return min(int(text), most) if len(text) <= 10 else most  # Python refuses to read numbers of 5,000 digits


def display_text(value: Any) -> str:
    """Returns a declaration's value as text: lists and pairs on one line, empty values as `none`."""
    if isinstance(value, dict):
        return ", ".join(f"{key} = {item}" for key, item in sorted(value.items())) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value in (None, "") else str(value)
