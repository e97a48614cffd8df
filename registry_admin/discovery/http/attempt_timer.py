"""The time of attempts on an event loop: one timer, which ends whatever an attempt is waiting for."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import Future as ThreadFuture
from typing import Any, TypeVar

T = TypeVar("T")


class OvertakenError(Exception):
    """Another attempt of the same call has brought its result."""


class LoopTimer:
    """The one timer of an event loop that wakes all attempts on it, whenever the first of them is due.

    A handle for each attempt would cost more than all else that watches the time of a call.
    """

    __slots__ = ("_attempts", "_handle", "_loop", "_wakes_at")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._attempts: set[AttemptTimer] = set()
        self._handle: asyncio.TimerHandle | None = None
        self._wakes_at = math.inf

    def add(self, attempt: AttemptTimer) -> None:
        """Wakes the attempt when it is due."""
        self._attempts.add(attempt)
        if attempt.due_at < self._wakes_at:
            self._schedule(attempt.due_at)

    def discard(self, attempt: AttemptTimer) -> None:
        """Forgets the attempt; the timer goes on, because the next one will need it."""
        self._attempts.discard(attempt)

    def _schedule(self, due_at: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._wakes_at = due_at
        self._handle = self._loop.call_later(max(0.0, due_at - time.monotonic()), self._wake)

    def _wake(self) -> None:
        self._handle, self._wakes_at = None, math.inf
        now = time.monotonic()
        for attempt in [attempt for attempt in self._attempts if attempt.due_at <= now]:
            attempt.wake(now)
        due_at = min((attempt.due_at for attempt in self._attempts), default=math.inf)
        if due_at < math.inf:  # also where the loop's timer was early
            self._schedule(due_at)

    def close(self) -> None:
        """Stops the timer until the next attempt."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle, self._wakes_at = None, math.inf


class AttemptTimer:
    """Time of one attempt: fails the awaited future at `deadline`, and never cancels the caller's task.

    It calls `on_alarm` once at `alarm_at`, if that comes first. Times are those of `time.monotonic`: the clock of a
    loop may be coarser, and its timers may fire early. `due_at` is when it is to be woken next.
    """

    __slots__ = ("_alarm_at", "_error", "_on_alarm", "_timer", "_waiter", "deadline", "due_at")

    def __init__(
        self,
        timer: LoopTimer,
        *,
        deadline: float,
        alarm_at: float | None = None,
        on_alarm: Callable[[], None] | None = None,
    ) -> None:
        self.deadline = deadline
        self.due_at = deadline if alarm_at is None or alarm_at > deadline else alarm_at
        self._timer = timer
        self._alarm_at = alarm_at
        self._on_alarm = on_alarm
        self._error: Exception | None = None
        self._waiter: asyncio.Future[Any] | None = None
        timer.add(self)

    def wake(self, now: float) -> None:
        """Does what is due."""
        self.due_at = self.deadline
        alarm_at, self._alarm_at = self._alarm_at, None
        if alarm_at is not None and self._on_alarm is not None and now >= alarm_at:
            self._on_alarm()
        if now >= self.deadline:
            self.due_at = math.inf
            self.end(TimeoutError())

    def end(self, error: Exception) -> None:
        """Fails the awaited future, and each later wait, with `error`."""
        self._error = error
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)

    def watch(self, future: asyncio.Future[T]) -> asyncio.Future[T]:
        """Returns `future`, to be awaited at once; raises where the time is over. The future belongs to the timer."""
        if self._error is not None:
            raise self._error
        self._waiter = future
        return future

    def check(self) -> None:
        """Raises where the time is over, for whoever has nothing to wait for."""
        if self._error is not None:
            raise self._error
        if time.monotonic() >= self.deadline:
            raise TimeoutError

    def close(self) -> None:
        """Ends the watch over the time, and forgets whom to call, who mostly holds the timer."""
        self._timer.discard(self)
        self._on_alarm = self._waiter = None


def run_in_thread(loop: asyncio.AbstractEventLoop, function: Callable[..., T], *args: Any) -> asyncio.Future[T]:
    """Runs `function` on the loop's executor; its future may be failed before, unlike those of `run_in_executor`."""
    result: asyncio.Future[T] = loop.create_future()

    def copy(done: asyncio.Future[T]) -> None:
        error = None if done.cancelled() else done.exception()
        if result.done():
            return
        if done.cancelled():
            result.cancel()
        elif error is not None:
            result.set_exception(error)
        else:
            result.set_result(done.result())

    loop.run_in_executor(None, function, *args).add_done_callback(copy)
    return result


def follow_thread(loop: asyncio.AbstractEventLoop, source: ThreadFuture[T]) -> asyncio.Future[T]:
    """Returns a future of the loop with the result of one that others wait for, too: ending it ends only this wait."""
    result: asyncio.Future[T] = loop.create_future()

    def copy() -> None:
        if result.done():
            return
        error = source.exception()
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(source.result())

    def on_done(_source: ThreadFuture[T]) -> None:
        if not loop.is_closed():
            try:
                loop.call_soon_threadsafe(copy)
            except RuntimeError:  # it has been closed this very moment
                return

    source.add_done_callback(on_done)
    return result
