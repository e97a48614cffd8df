"""ACL token that is kept in a file, and read anew when the file changes."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

from registry_admin.consul import validation
from registry_admin.errors import ConfigurationError, InvalidValueError

logger = logging.getLogger(__name__)

CHECK_EVERY_S = 1.0

_Stamp = tuple[int, int, int]  # inode, size, time of the last change


class TokenFile:
    """Token in a file. Safe to share between threads.

    The file's inode, size and time are looked at once a second at most. While it can't be read, or holds no valid token
    (it is being replaced), the last token stays.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._token: str | None = None
        self._stamp: _Stamp | None = None
        self._checked_at = 0.0  # by the monotonic clock
        self._is_failing = False
        self._lock = threading.Lock()

    def token(self, *, refused: str | None = None) -> str | None:
        """Returns the token, or None for an empty file. `refused`: what Consul has just refused, so look at once."""
        now = time.monotonic()
        if refused is None and self._stamp is not None and now - self._checked_at < CHECK_EVERY_S:
            return self._token
        with self._lock:
            self._checked_at = now
            try:
                self._refresh(force=refused is not None)
            except ConfigurationError as error:
                if not self._is_failing:
                    logger.warning("%s; the last known token is used until then", error)
                self._is_failing = True
            else:
                self._is_failing = False
            return self._token

    def _refresh(self, *, force: bool) -> None:
        try:
            status = os.stat(self._path)  # noqa: PTH116 - a Path of its own costs as much again
            stamp = status.st_ino, status.st_size, status.st_mtime_ns
        except OSError as error:
            raise _unreadable(self._path, error) from None
        if force or stamp != self._stamp:
            self._token, self._stamp = read_token(self._path), stamp


def read_token(path: str) -> str | None:
    """Returns the file's token, or None for an empty file. Raises ConfigurationError."""
    try:
        token = Path(path).read_text(encoding="utf-8").strip() or None
        return token and validation.acl_token(token)
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from None
    except InvalidValueError as error:
        raise ConfigurationError(f"CONSUL_HTTP_TOKEN_FILE: {error}") from error


def _unreadable(path: str, error: Exception) -> ConfigurationError:
    return ConfigurationError(f"CONSUL_HTTP_TOKEN_FILE: {path!r} can't be read ({type(error).__name__})")
