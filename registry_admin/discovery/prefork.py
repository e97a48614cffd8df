"""What a process can know about the gunicorn master that it runs in or under.

Gunicorn forks its workers and tells them the same whether the service ends or only this worker does. So that a reload
keeps the registration and a stop removes it, look at what the master holds: it closes its listening sockets before it
stops the workers, and keeps them open through a reload or when it replaces a worker.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

_ARBITER = "gunicorn.arbiter"
_LISTENING = "0A"


def in_master() -> bool:
    """Whether gunicorn's master is loading the application (`--preload`), which its workers will serve, not itself."""
    names = [frame.f_code.co_name for frame in _arbiter_frames(sys._getframe())]  # noqa: SLF001
    return bool(names) and "spawn_worker" not in names


def is_new_worker() -> bool:
    """Called right after a fork, in the child: whether gunicorn forked it to serve, rather than the application."""
    frame = next(_arbiter_frames(sys._getframe()), None)  # noqa: SLF001
    return frame is not None and frame.f_code.co_name == "spawn_worker"


def _arbiter_frames(frame: FrameType | None) -> Iterator[FrameType]:
    if _ARBITER not in sys.modules:
        return
    while frame is not None:
        if frame.f_globals.get("__name__") == _ARBITER:
            yield frame
        frame = frame.f_back


def master_goes_on(port: int) -> bool:
    """Whether this is a worker whose master still listens on `port`, so that the service outlives this process.

    False where it can't be known: not under gunicorn, not on Linux, the master runs as another user, or others reach
    the service through another port than its own. A reload then costs a moment without registration.
    """
    if _ARBITER not in sys.modules:
        return False
    try:
        held = {_target(entry) for entry in Path(f"/proc/{os.getppid()}/fd").iterdir()}
    except OSError:
        return False
    return any(f"socket:[{inode}]" in held for inode in _listening_inodes(port))


def _target(entry: Path) -> str:
    try:
        return str(entry.readlink())
    except FileNotFoundError:  # closed while we looked
        return ""


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = re.split(r"\s+", line.strip())
            if len(fields) > 9 and fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]
