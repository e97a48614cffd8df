"""Facts about the gunicorn master of this process, which gunicorn itself doesn't tell.

Gunicorn stops a worker in the same way whether the service ends or only the worker does. The master's listening sockets
tell the difference: it closes them before it stops the workers, and keeps them open while it reloads or replaces a
worker. So a reload keeps the registration, and a stop removes it.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from registry_admin.discovery.registration import listening_sockets

_ARBITER = "gunicorn.arbiter"
_POLL_S = 0.01


def hook_asgi_worker(module: ModuleType, leave: Callable[[], None]) -> None:
    """Makes gunicorn's own ASGI worker leave before it closes its sockets: it sets its handlers before the import."""
    shutdown = module.ASGIWorker._shutdown  # noqa: SLF001 - there is no public step between signal and close

    @functools.wraps(shutdown)
    async def leave_and_shut_down(worker: Any) -> None:
        import asyncio  # noqa: PLC0415 - the package is imported without an event loop, too

        await asyncio.to_thread(leave)
        await shutdown(worker)

    module.ASGIWorker._shutdown = leave_and_shut_down  # noqa: SLF001


def outlives_worker(port: int, *, timeout_s: float) -> bool:
    """Returns whether the service goes on after this worker: its master listens on `port` still after the time-out.

    A stop that signals the whole process group can reach the worker before the master has closed its sockets.
    """
    deadline = time.monotonic() + timeout_s
    while is_master_listening(port):
        if time.monotonic() >= deadline:
            return True
        time.sleep(_POLL_S)
    return False


def is_preloading_master() -> bool:
    """Returns whether this is gunicorn's master that loads the application for its workers (`--preload`)."""
    names = [frame.f_code.co_name for frame in _arbiter_frames(sys._getframe())]  # noqa: SLF001
    return bool(names) and "spawn_worker" not in names


def is_new_worker() -> bool:
    """Returns whether gunicorn has forked this process to serve. To be called in its main thread."""
    frame = next(_arbiter_frames(sys._getframe()), None)  # noqa: SLF001
    return frame is not None and frame.f_code.co_name == "spawn_worker"


def _arbiter_frames(frame: FrameType | None) -> Iterator[FrameType]:
    if _ARBITER not in sys.modules:
        return
    while frame is not None:
        if frame.f_globals.get("__name__") == _ARBITER:
            yield frame
        frame = frame.f_back


def is_master_listening(port: int) -> bool:
    """Returns whether this is a worker whose master still listens on `port`: the service outlives this process.

    False also where that can't be found out: without gunicorn or Linux, with a master of another user, or where
    callers reach the service through another port. A reload then leaves the service unregistered for a moment.
    """
    if _ARBITER not in sys.modules:
        return False
    return listening_sockets.is_listening(os.getppid(), port)


def is_master_hidden() -> bool:
    """Returns whether this is a worker that can't look at its master's sockets."""
    return is_new_worker() and Path("/proc/self/fd").exists() and not os.access(f"/proc/{os.getppid()}/fd", os.R_OK)
