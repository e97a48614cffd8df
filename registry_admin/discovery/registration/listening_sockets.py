"""Listening sockets of processes on this machine, as Linux shows them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_TCP_LISTEN = "0A"  # in /proc/net/tcp


def is_listening(process: int | str, port: int) -> bool:
    """Returns whether a process (its ID, or `self`) holds a socket that listens on `port`.

    False also where that can't be found out: on other systems than Linux, and for a process of another user.
    """
    try:
        targets = {_link_target(entry) for entry in Path(f"/proc/{process}/fd").iterdir()}
    except OSError:
        return False
    return any(f"socket:[{inode}]" in targets for inode in _listening_inodes(port))


def _link_target(entry: Path) -> str:
    try:
        return str(entry.readlink())
    except FileNotFoundError:  # closed since the folder was listed
        return ""


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = re.split(r"\s+", line.strip())
            if len(fields) > 9 and fields[3] == _TCP_LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]
