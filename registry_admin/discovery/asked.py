"""A question under way, asked once, whose answer many threads and tasks wait for."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Asked(Generic[T]):
    """Asked at `at` (seconds of the monotonic clock). Nobody who waits for the answer can cancel it for the others."""

    def __init__(self) -> None:
        self.at = time.monotonic()
        self._future: Future[T] = Future()
        self._future.set_running_or_notify_cancel()

    def settle(self, answer: T) -> None:
        """The first answer counts."""
        with suppress(InvalidStateError):
            self._future.set_result(answer)

    @property
    def answer(self) -> T | None:
        """None where there is none yet."""
        return self._future.result() if self._future.done() else None

    def is_settled(self) -> bool:
        return self._future.done()

    def wait(self, until: float) -> None:
        """Returns when it is settled, or at that time (seconds of the monotonic clock)."""
        if not self._future.done():
            wait([self._future], timeout=max(0.0, until - time.monotonic()))

    async def wait_async(self, until: float) -> None:
        """The same, without blocking the event loop."""
        if self._future.done():
            return
        await asyncio.wait([asyncio.wrap_future(self._future)], timeout=max(0.0, until - time.monotonic()))
