"""A serializer for Django's Redis cache that can't run code: its default unpickles whatever lies in Redis."""

from __future__ import annotations

import json
from typing import Any


class JsonSerializer:
    """Plain JSON; whole numbers stay as they are, because Redis counts with them."""

    def dumps(self, value: Any) -> bytes | int:
        """What is stored for `value`; raises TypeError for what JSON doesn't know."""
        if type(value) is int:
            return value
        return json.dumps(value).encode()

    def loads(self, data: bytes) -> Any:
        """The value that was stored."""
        return json.loads(data)
