"""uvicorn: a limit of requests ends it without a signal. Its handlers of signals are ordinary ones."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any


def hook_server(module: ModuleType, leave: Callable[[], None]) -> None:
    """Makes a server leave before it closes its sockets."""
    shutdown = module.Server.shutdown

    @functools.wraps(shutdown)
    async def leave_and_shut_down(server: Any, *args: Any, **kwargs: Any) -> None:
        import asyncio  # noqa: PLC0415 - the package is imported without an event loop, too

        await asyncio.to_thread(leave)
        await shutdown(server, *args, **kwargs)

    module.Server.shutdown = leave_and_shut_down
