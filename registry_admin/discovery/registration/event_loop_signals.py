"""Handlers that event loops set for the signals that end this process: wrapped, so that they leave Consul first."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

_LOOP_CLASSES = (("asyncio", "SelectorEventLoop"), ("uvloop", "Loop"))
_MODULES_OF_HANDLERS = ("asyncio.unix_events", "uvloop.loop")


def is_of_event_loop(handler: object) -> bool:
    """Returns whether a signal's handler does nothing, because an event loop reads the signal from its wake-up file."""
    return getattr(handler, "__module__", None) in _MODULES_OF_HANDLERS


class EventLoopSignals:
    """Wraps `add_signal_handler` of the loops that are loaded. `leave` blocks until callers can have noticed."""

    def __init__(self, leave: Callable[[], None], signals: Collection[int]) -> None:
        self._leave = leave
        self._signals = signals
        self._originals: dict[type, Callable[..., Any]] = {}

    def wrap(self) -> None:
        """Makes handlers that are set from now on wait until the process has left."""
        for module, name in _LOOP_CLASSES:
            loop_class = getattr(sys.modules.get(module), name, None)
            if loop_class is not None:
                self._originals[loop_class] = loop_class.add_signal_handler
                loop_class.add_signal_handler = self._wrapper(loop_class.add_signal_handler)

    def unwrap(self) -> None:
        """Gives the loops their own method back; handlers that are set stay wrapped."""
        while self._originals:
            loop_class, original = self._originals.popitem()
            loop_class.add_signal_handler = original  # type: ignore[attr-defined]

    def _wrapper(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def add_signal_handler(
            loop: asyncio.AbstractEventLoop, sig: int, callback: Callable[..., Any], *args: Any
        ) -> Any:
            if sig in self._signals:
                return original(loop, sig, self._leave_then, loop, callback, *args)
            return original(loop, sig, callback, *args)

        return add_signal_handler

    def _leave_then(self, loop: asyncio.AbstractEventLoop, callback: Callable[..., Any], *args: Any) -> None:
        def run() -> None:
            self._leave()
            loop.call_soon_threadsafe(callback, *args)

        threading.Thread(target=run, name="leave-before-stop", daemon=True).start()
