"""hypercorn: the main process ends its workers by an event, and those that still drain by SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any


def hook_worker(module: ModuleType, leave: Callable[[], None]) -> None:
    """Makes a worker leave before it closes its sockets, and drain after a SIGTERM too."""

    async def raise_shutdown(shutdown_event: Callable[..., Awaitable[None]]) -> None:
        import asyncio  # noqa: PLC0415 - the package is imported without an event loop, too
        import multiprocessing  # noqa: PLC0415

        events: list[Awaitable[Any]] = [shutdown_event()]
        if multiprocessing.parent_process() is not None:
            terminated = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
            events.append(terminated.wait())
        await asyncio.wait([asyncio.ensure_future(event) for event in events], return_when=asyncio.FIRST_COMPLETED)
        await asyncio.to_thread(leave)
        raise module.ShutdownError

    module.raise_shutdown = raise_shutdown  # type: ignore[attr-defined]
