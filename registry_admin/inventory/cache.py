"""Values that all web processes share through Django's cache, which may be Redis and may be away."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from django.core.cache import cache
from django.core.signing import BadSignature, Signer
from django.db import connection
from redis.exceptions import RedisError

RETRY_AFTER_S = 10.0
_KEEP_S = 120  # a state stamp is never the same for longer than a minute

_log = logging.getLogger(__name__)


class JsonSerializer:
    """JSON for Django's Redis cache, whose default unpickles what lies in Redis, and so could run code.

    Whole numbers stay as they are, because Redis counts with them.
    """

    def dumps(self, value: Any) -> bytes | int:
        """Returns the bytes to store for `value`; raises TypeError for a type that JSON doesn't have."""
        if type(value) is int:
            return value
        return json.dumps(value).encode()

    def loads(self, data: bytes) -> Any:
        """Returns the value that was stored."""
        return json.loads(data)


class CacheGuard:
    """Calls the cache, and leaves it alone for `RETRY_AFTER_S` seconds after a failure. Logs the first failure only."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._retry_at: float | None = None  # None: the last call succeeded

    def call(self, function: Callable[[], Any]) -> Any:
        """Returns the result of `function`, or None if the cache fails or failed a moment ago."""
        if not self._may_call():
            return None
        try:
            result = function()
        except (RedisError, OSError, ValueError, RecursionError) as error:  # the last two: not JSON, or nested deeply
            self._on_failure(error)
            return None
        self._on_success()
        return result

    def _may_call(self) -> bool:
        with self._lock:
            if self._retry_at is None:
                return True
            if self._clock() < self._retry_at:
                return False
            self._retry_at = self._clock() + RETRY_AFTER_S  # one thread tries, the others go on without
            return True

    def _on_failure(self, error: Exception) -> None:
        with self._lock:
            is_first = self._retry_at is None
            self._retry_at = self._clock() + RETRY_AFTER_S
        if is_first:
            _log.warning("The cache (REDIS_URL) can't be used, pages read the database instead: %s", error)

    def _on_success(self) -> None:
        with self._lock:
            was_away, self._retry_at = self._retry_at is not None, None
        if was_away:
            _log.info("The cache (REDIS_URL) can be used again.")


_guard = CacheGuard()


def cached(name: str, stamp: str, compute: Callable[[], Any]) -> Any:
    """Returns the value of `name` (plain JSON) for the state of the database that `stamp` identifies.

    `compute` is called where the cache doesn't have the value, can't be used, or the database has a transaction open:
    rows that may be rolled back must not reach others.
    """
    if connection.in_atomic_block:
        return compute()
    key = f"{name}:{hashlib.sha256(stamp.encode()).hexdigest()}"
    value = _signed_value(key, _guard.call(lambda: cache.get(key)))
    if value is None:
        value = compute()
        signed = Signer(salt=key).sign(json.dumps(value))
        _guard.call(lambda: cache.set(key, signed, _KEEP_S))
    return value


def _signed_value(key: str, signed: object) -> Any:
    """Returns what `cached` has stored under this key, or None: whoever writes to Redis decides no number on a page."""
    if not isinstance(signed, str):
        return None
    try:
        return json.loads(Signer(salt=key).unsign(signed))
    except BadSignature:
        return None
