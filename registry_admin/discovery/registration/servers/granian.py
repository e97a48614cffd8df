"""granian: with an event loop, its handlers are set before a registration starts in the application's lifespan."""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio


def hook_signals(module: ModuleType, leave: Callable[[], None]) -> None:
    """Makes a worker with an event loop leave before its signals end it."""
    set_loop_signals = module.set_loop_signals

    @functools.wraps(set_loop_signals)
    def set_deferred_loop_signals(loop: asyncio.AbstractEventLoop) -> Any:
        event = set_loop_signals(loop)

        def leave_and_stop() -> None:
            leave()
            loop.call_soon_threadsafe(event.set)

        def on_signal() -> None:
            threading.Thread(target=leave_and_stop, name="leave-before-stop", daemon=True).start()

        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, on_signal)
        return event

    module.set_loop_signals = set_deferred_loop_signals  # type: ignore[attr-defined]
