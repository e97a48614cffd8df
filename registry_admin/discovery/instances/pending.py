"""Result of a request that is under way, which many threads and tasks wait for."""

from __future__ import annotations

import time
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Pending(Generic[T]):
    """A result that will come. A waiter that gives up or is cancelled doesn't cancel it for the others.

    `started_at` is in seconds of the monotonic clock.
    """

    def __init__(self) -> None:
        self.started_at = time.monotonic()
        self._future: Future[T] = Future()
        self._future.set_running_or_notify_cancel()

    def resolve(self, result: T) -> None:
        """Sets the result. A second one is ignored."""
        with suppress(InvalidStateError):
            self._future.set_result(result)

    @property
    def result(self) -> T | None:
        """The result, or None while there is none."""
        return self._future.result() if self._future.done() else None

    @property
    def is_resolved(self) -> bool:
        """True once there is a result."""
        return self._future.done()

    def wait(self, deadline: float) -> None:
        """Returns when there is a result, or at `deadline` (seconds of the monotonic clock)."""
        if not self._future.done():
            wait([self._future], timeout=max(0.0, deadline - time.monotonic()))

    async def wait_async(self, deadline: float) -> None:
        """Does the same as `wait` without blocking the event loop."""
        import asyncio  # noqa: PLC0415 - a fifth of the package's import, and this runs on an event loop only

        if self._future.done():
            return
        await asyncio.wait([asyncio.wrap_future(self._future)], timeout=max(0.0, deadline - time.monotonic()))
