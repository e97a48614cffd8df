"""Cursors: where a list goes on, bound to the filters that it was made with."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from registry_admin.api.problems import FieldError, Problem

_ERROR = FieldError("cursor", "give the `next` of the page before, with the same filters")


def make_cursor(filters: Mapping[str, Any], position: tuple[str, ...]) -> str:
    """Returns the cursor of what follows `position`, the sort columns of the last row."""
    text = json.dumps([_digest(filters), *position])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_cursor(cursor: str, filters: Mapping[str, Any], *, columns: int) -> tuple[str, ...] | None:
    """Returns the position, or None without a cursor. Raises Problem for another list's."""
    if not cursor:
        return None
    try:
        content = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, RecursionError, binascii.Error):
        content = None
    is_ours = isinstance(content, list) and len(content) == columns + 1 and all(isinstance(x, str) for x in content)
    if not is_ours or content[0] != _digest(filters) or any("\x00" in text for text in content):
        raise Problem(422, "The cursor isn't of this list.", errors=[_ERROR])
    return tuple(content[1:])


def _digest(filters: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(filters, sort_keys=True).encode()).hexdigest()[:16]
