"""Several processes, one registration: who is still serving, on this machine, under one service ID.

A lock file for each ID, which every serving process holds shared. Whoever can turn its lock into an exclusive one is
the last: Linux gives up the shared lock before it tries, so of several that leave at once exactly the last succeeds.
The kernel drops the locks of a process that is killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where servers don't fork either
    fcntl = None  # type: ignore[assignment]


class Membership:
    """This process's place among those that serve under `key`. With no key, or no file locks, it is always alone."""

    def __init__(self, key: str | None) -> None:
        """Opens the lock files; raises OSError where the folder for them can't be trusted."""
        self._members: int | None = None
        self._registrar: int | None = None
        if fcntl is not None and key is not None:
            name = hashlib.sha256(key.encode()).hexdigest()[:32]
            self._members = _open(f"{name}.members")
            self._registrar = _open(f"{name}.registrar")

    def join(self) -> bool:
        """Counts this process in; False while another, the last, is just leaving."""
        return self._try(self._members, exclusive=False)

    def leave(self) -> bool:
        """Counts it out; True if it was the last. Nobody can join then until `release`."""
        return self._try(self._members, exclusive=True)

    @contextlib.contextmanager
    def registering(self) -> Iterator[bool]:
        """Within it, if True, no other member registers."""
        held = self._try(self._registrar, exclusive=True)
        try:
            yield held
        finally:
            if held and self._registrar is not None:
                fcntl.flock(self._registrar, fcntl.LOCK_UN)

    def release(self) -> None:
        """Gives up all locks, even where a child that isn't ours to know of has inherited them."""
        for descriptor in (self._members, self._registrar):
            if descriptor is not None:
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        self.close()

    def close(self) -> None:
        """For a forked child: lets go of the files, and leaves the parent its locks, which are the same ones."""
        for descriptor in (self._members, self._registrar):
            if descriptor is not None:
                os.close(descriptor)
        self._members = self._registrar = None

    @staticmethod
    def _try(descriptor: int | None, *, exclusive: bool) -> bool:
        if descriptor is None:
            return True
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _open(name: str) -> int:
    """A lock file in a folder that only this user can write to; the temporary folder itself is everybody's."""
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
