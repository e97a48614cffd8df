"""Lock files by which the processes of one server share a registration.

Every process that serves under an ID holds the ID's file with a shared lock. A process that can turn its lock into an
exclusive one is the last. Linux gives up the shared lock before it tries that, so of several that leave at once exactly
the last succeeds. The kernel drops the locks of a killed process.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where servers don't fork either
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_POLL_S = 0.01


def open_worker_lock(consul_url: str, service_id: str) -> WorkerLock:
    """Returns the lock of the processes that serve under an ID; one for this process alone if there can be none."""
    try:
        return WorkerLock(f"{consul_url} {service_id}")
    except OSError as error:
        logger.warning("Each worker registers for itself, because the lock files can't be used: %s", error)
        return WorkerLock(None)


class WorkerLock:
    """Membership of this process among those that serve under `key`.

    Without a key, or without file locks, the process counts as the only member.
    """

    def __init__(self, key: str | None) -> None:
        """Opens the lock files; raises OSError if other users can write to their folder."""
        self._members: int | None = None
        self._registrar: int | None = None
        if fcntl is not None and key is not None:
            name = hashlib.sha256(key.encode()).hexdigest()[:32]
            self._members = _open_lock_file(f"{name}.members")
            self._registrar = _open_lock_file(f"{name}.registrar")

    def join(self) -> bool:
        """Makes this process a member. Returns False while the last member is leaving."""
        return self._try_lock(self._members, exclusive=False)

    def leave(self, *, timeout_s: float = 0) -> bool:
        """Ends the membership. Returns True for the last member; no process can join then until `release`.

        With a time-out, True also when all other members have left before it is over, and their last one has released
        the lock.
        """
        deadline = time.monotonic() + timeout_s
        while not self._try_lock(self._members, exclusive=True):
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_S)
        return True

    def has_members(self) -> bool:
        """Returns whether another process is a member. For a process that is none itself."""
        if self._members is None or not self._try_lock(self._members, exclusive=True):
            return self._members is not None
        fcntl.flock(self._members, fcntl.LOCK_UN)
        return False

    @contextlib.contextmanager
    def registering(self) -> Iterator[bool]:
        """Yields whether this process may register; while it may, no other member does."""
        is_locked = self._try_lock(self._registrar, exclusive=True)
        try:
            yield is_locked
        finally:
            if is_locked and self._registrar is not None:
                fcntl.flock(self._registrar, fcntl.LOCK_UN)

    def release(self) -> None:
        """Unlocks and closes the files, also where a child process has inherited them."""
        for descriptor in (self._members, self._registrar):
            if descriptor is not None:
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        self.close()

    def close(self) -> None:
        """Closes the files without unlocking them: in a forked child the locks are the parent's."""
        for descriptor in (self._members, self._registrar):
            if descriptor is not None:
                os.close(descriptor)
        self._members = self._registrar = None

    @staticmethod
    def _try_lock(descriptor: int | None, *, exclusive: bool) -> bool:
        if descriptor is None:
            return True
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _open_lock_file(name: str) -> int:
    """Opens a file in a folder that only this user can write to, unlike the temporary folder around it."""
    path = Path(tempfile.gettempdir()) / f"registry-admin-{os.geteuid()}"
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        status = os.fstat(folder)
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise PermissionError(f"{path} must belong to this user alone (mode 0700)")
        return os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=folder)
    finally:
        os.close(folder)
