"""Connections of one event loop, by instance: the idle ones, and places for those in use."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from urllib.parse import urlsplit

from registry_admin.discovery.http.async_connection import AsyncConnection, connect
from registry_admin.discovery.http.attempt_timer import AttemptTimer, LoopTimer
from registry_admin.discovery.http.connection import IDLE_TIMEOUT_S, MAX_IDLE_TLS, RECEIVE_SIZE
from registry_admin.errors import AttemptError, Outcome

CONNECTIONS_PER_INSTANCE = 100  # a limit over all of them would let one frozen instance starve the others


class InstancePool:
    """Connections to the instance at `base_url`: idle ones, the number in use, and who waits for a place, in turn."""

    __slots__ = ("base_url", "idle", "in_use", "is_tls", "waiting")

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.is_tls = urlsplit(base_url).scheme == "https"
        self.idle: list[AsyncConnection] = []
        self.in_use = 0
        self.waiting: deque[asyncio.Future[AsyncConnection | None]] = deque()


class AsyncConnectionPool:
    """Pool of `loop`. Whoever gets a connection gives it back with `release`, or gives up its place with `leave`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, verify: bool | str) -> None:
        self.loop = loop
        self._verify = verify
        self._buffer = memoryview(bytearray(RECEIVE_SIZE))
        self._instances: dict[str, InstancePool] = {}
        self._dials: set[asyncio.Task[AsyncConnection]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self.timer = LoopTimer(loop)
        self.is_closed = False

    def instance(self, base_url: str) -> InstancePool:
        """Returns the connections to the instance at `base_url`."""
        known = self._instances.get(base_url)
        if known is None:
            known = self._instances[base_url] = InstancePool(base_url)
        return known

    @property
    def in_use(self) -> int:
        """Number of connections in use, and of places that are waited for."""
        return sum(instance.in_use + len(instance.waiting) for instance in self._instances.values())

    @staticmethod
    def take_idle(instance: InstancePool) -> AsyncConnection | None:
        """Returns the idle connection that was used last, with a place; None without one."""
        idle = instance.idle
        while idle:
            connection = idle.pop()
            if connection.is_reusable:
                instance.in_use += 1
                return connection
            connection.abort()
        return None

    async def acquire(self, instance: InstancePool, timer: AttemptTimer) -> AsyncConnection:
        """Returns a connection and its place, first come, first served; raises AttemptError or OSError."""
        if instance.in_use >= CONNECTIONS_PER_INSTANCE:
            connection = await self._wait_for_place(instance, timer)
            if connection is not None:
                return connection
        else:
            instance.in_use += 1
        try:
            return await self.open(instance, timer)
        except BaseException:
            self.leave(instance)
            raise

    async def _wait_for_place(self, instance: InstancePool, timer: AttemptTimer) -> AsyncConnection | None:
        """Returns a connection that has become free, or None for a place to open one."""
        place: asyncio.Future[AsyncConnection | None] = self.loop.create_future()
        instance.waiting.append(place)
        try:
            return await timer.watch(place)
        except BaseException as error:
            if place.done() and not place.cancelled() and place.exception() is None:
                connection = place.result()  # given at the moment of the cancellation
                if connection is not None:
                    connection.abort()
                self.leave(instance)
            with contextlib.suppress(ValueError):
                instance.waiting.remove(place)
            if isinstance(error, TimeoutError):
                detail = f"all {CONNECTIONS_PER_INSTANCE} connections to it were in use"
                raise AttemptError(Outcome.NOT_SENT, detail, is_local=True) from error
            raise

    async def open(self, instance: InstancePool, timer: AttemptTimer) -> AsyncConnection:
        """Returns a new connection for a place that the caller has; raises OSError."""
        opened: asyncio.Future[AsyncConnection] = self.loop.create_future()

        def on_done(task: asyncio.Task[AsyncConnection]) -> None:
            self._dials.discard(task)
            error = None if task.cancelled() else task.exception()
            if task.cancelled():
                opened.cancel()
            elif error is not None:
                if not opened.done():
                    opened.set_exception(error)
            elif opened.done():
                task.result().abort()
            else:
                opened.set_result(task.result())

        dial = connect(instance.base_url, deadline=timer.deadline, verify=self._verify, buffer=self._buffer)
        task = self.loop.create_task(dial)
        self._dials.add(task)
        task.add_done_callback(on_done)
        try:
            return await timer.watch(opened)
        except BaseException:
            task.cancel()
            if opened.done() and not opened.cancelled() and opened.exception() is None:
                opened.result().abort()
            raise

    def release(self, instance: InstancePool, connection: AsyncConnection, *, idle_hint_s: int | None) -> None:
        """Gives back a connection that may be used again."""
        connection.set_idle(idle_hint_s)
        if self._hand_over(instance, connection):
            return
        instance.in_use -= 1
        if self.is_closed or (connection.is_tls and self._is_full_of_tls()):
            connection.abort()
            return
        connection.on_lost = self._forget
        instance.idle.append(connection)
        if self._sweeper is None:
            self._sweeper = self.loop.call_later(IDLE_TIMEOUT_S, self._sweep)

    def leave(self, instance: InstancePool) -> None:
        """Gives up a place whose connection is closed."""
        if not self._hand_over(instance, None):
            instance.in_use -= 1

    @staticmethod
    def _hand_over(instance: InstancePool, connection: AsyncConnection | None) -> bool:
        while instance.waiting:
            place = instance.waiting.popleft()
            if not place.done():
                place.set_result(connection)
                return True
        return False

    def _is_full_of_tls(self) -> bool:
        return sum(len(instance.idle) for instance in self._instances.values() if instance.is_tls) >= MAX_IDLE_TLS

    def _forget(self, connection: AsyncConnection) -> None:
        for instance in self._instances.values():
            if connection in instance.idle:
                instance.idle.remove(connection)

    def _sweep(self) -> None:
        """Closes connections that have been idle for too long; one timer for all of them."""
        self._sweeper = None
        for base_url, instance in list(self._instances.items()):
            kept = []
            for connection in instance.idle:
                if connection.is_reusable:
                    kept.append(connection)
                else:
                    connection.abort()
            instance.idle = kept
            if not kept and not instance.in_use and not instance.waiting:
                del self._instances[base_url]
        if any(instance.idle for instance in self._instances.values()):
            self._sweeper = self.loop.call_later(IDLE_TIMEOUT_S, self._sweep)

    def close(self) -> None:
        """Closes the idle connections now, and those in use when they are given back."""
        self.is_closed = True
        if not self.in_use:
            self.timer.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for instance in self._instances.values():
            idle, instance.idle = instance.idle, []
            for connection in idle:
                connection.abort()
