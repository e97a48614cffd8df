"""Thread that watches the instances of one service and reports to its cache while that is used."""

from __future__ import annotations

import random
import threading
import weakref
from collections.abc import Callable
from typing import Protocol

from registry_admin.backoff import spread
from registry_admin.consul.api import ConsulApi, ConsulReply
from registry_admin.consul.types import ServiceInstance
from registry_admin.consul.watch import watch
from registry_admin.discovery.instances.pending import Pending
from registry_admin.discovery.instances.watch_slots import WatchSlots
from registry_admin.errors import ConsulPermissionError, ConsulUnavailableError, RegistryError

MAX_BACKOFF_S = 5.0
POLL_S = 2.0  # where too many other services are watched to wait at the agent for a change
_JITTER = 0.25


class WatchListener(Protocol):
    """Receiver of what a watch reports. All methods are called on the thread of the watch."""

    service: str

    @property
    def idle_limit_s(self) -> float:
        """Seconds without a call after which the watch ends."""

    def on_start(self) -> None:
        """Called before the first request."""

    def on_reply(self) -> None:
        """Called for each reply, changed or not, before `on_update`."""

    def on_update(self, reply: ConsulReply[list[ServiceInstance]]) -> None:
        """Called for the first reply, and for each one with another index."""

    def on_error(self, error: RegistryError) -> None:
        """Called for each request that failed or was refused."""

    def on_watch_end(self, first_lookup: Pending[None]) -> None:
        """Called last. `first_lookup` is the one that the watch was started with."""

    def is_in_use(self) -> bool:
        """Returns whether to go on; called after each report."""


class ServiceWatch:
    """Watches one service until its listener is no longer used, or is gone.

    Holds only a weak reference to the listener, so that an unused cache can be collected while a request blocks.
    """

    def __init__(
        self, listener: WatchListener, api: ConsulApi, first_lookup: Pending[None], *, slots: WatchSlots
    ) -> None:
        """Prepares a watch that resolves `first_lookup` when the first request has ended."""
        self._listener = weakref.ref(listener)
        self._api = api
        self._service = listener.service
        self._first_lookup = first_lookup
        self._slots = slots
        self._stop = threading.Event()

    def start(self) -> None:
        """Starts the thread; raises RuntimeError if the system has none left."""
        threading.Thread(target=self._run, name=f"watch-{self._service}", daemon=True).start()

    def _run(self) -> None:
        try:
            self._report(lambda listener: listener.on_start())
            for reply in watch(
                self._read,
                stop=self._stop,
                on_error=self._on_error,
                on_reply=lambda: self._report(lambda listener: listener.on_reply()),
                max_backoff_s=MAX_BACKOFF_S,
            ):
                self._on_update(reply)
                self._first_lookup.resolve(None)
        finally:
            if (listener := self._listener()) is not None:
                listener.on_watch_end(self._first_lookup)

    def _read(self, index: int, wait_s: float) -> ConsulReply[list[ServiceInstance]]:
        """Reads the instances; raises an error for an empty list that proves nothing."""
        reply = self._request(index, wait_s)
        consul_url = self._api.config.url
        if not reply.data and not reply.known_leader:  # the server has lost its state
            raise ConsulUnavailableError(f"Consul at {consul_url} has no leader yet.")
        if not reply.data and reply.filtered_by_acls:
            raise ConsulPermissionError(
                f"Consul at {consul_url} hides the instances of {self._service!r}: the token needs `service:read` and "
                "`node:read`."
            )
        return reply

    def _request(self, index: int, wait_s: float) -> ConsulReply[list[ServiceInstance]]:
        """Waits at the agent for a change after `index`; asks after POLL_S instead where no place to wait is free."""
        if index:
            with self._slots.try_blocking() as is_free:
                if is_free:
                    return self._api.instances(self._service, index=index, wait_s=self._limited(wait_s))
            self._stop.wait(spread(POLL_S, _JITTER, random.random()))  # noqa: S311 - spreads load, guards nothing
        with self._slots.short():
            return self._api.instances(self._service)

    def _limited(self, wait_s: float) -> float:
        """Returns the seconds to wait for a change, so that an unused watch doesn't wait past its end."""
        listener = self._listener()
        return wait_s if listener is None else min(wait_s, listener.idle_limit_s)

    def _on_update(self, reply: ConsulReply[list[ServiceInstance]]) -> None:
        self._report(lambda listener: listener.on_update(reply))

    def _on_error(self, error: RegistryError, _pause_s: float) -> None:
        self._report(lambda listener: listener.on_error(error))
        self._first_lookup.resolve(None)

    def _report(self, call: Callable[[WatchListener], None]) -> None:
        listener = self._listener()
        if listener is not None:
            call(listener)
        if listener is None or not listener.is_in_use():
            self._stop.set()
