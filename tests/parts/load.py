"""Callers of a service that is about to stop: each call is a connection of its own, to a listed instance."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from registry_admin.consul import ServiceRegistry
from registry_admin.discovery import SyncServiceDiscoveryClient
from registry_admin.errors import RegistryError

_PERIOD_S = 0.02
_CALL_TIMEOUT_S = 10.0


@dataclass
class Load:
    """Calls that are made of `service` until `stop`; whatever fails is in `lost`."""

    client: SyncServiceDiscoveryClient
    service: str
    done: int = 0
    unlisted: int = 0  # calls that weren't made, because no instance was known
    lost: list[str] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _calls: list[threading.Thread] = field(default_factory=list)
    _started_at: float = field(default_factory=time.monotonic)

    def call(self, path: str) -> None:
        """Begins one call in a thread."""
        try:
            with self.client.pick(self.service, timeout=2) as instance:
                address = instance.address, instance.port
        except RegistryError:  # none is healthy, or Consul is too busy to say
            self.unlisted += 1
            return
        thread = threading.Thread(target=self._call, args=(*address, path))
        self._calls.append(thread)
        thread.start()

    def _call(self, host: str, port: int, path: str) -> None:
        started_at = time.monotonic()
        connection = http.client.HTTPConnection(host, port, timeout=_CALL_TIMEOUT_S)
        try:
            connection.request("GET", path)
            reply = connection.getresponse()
            reply.read()
        except (OSError, http.client.HTTPException) as error:
            now = time.monotonic()
            self.lost.append(
                f"{path} from {started_at - self._started_at:.3f} to {now - self._started_at:.3f} s: {error!r}"
            )
        else:
            if reply.status == 200:
                self.done += 1
            else:
                self.lost.append(f"{path}: status {reply.status}")
        finally:
            connection.close()

    def run(self) -> None:
        while not self._stopping.wait(_PERIOD_S):
            self.call("/")

    def stop(self) -> None:
        """Ends the load when all calls are answered."""
        self._stopping.set()
        for thread in self._calls:
            thread.join()


@contextmanager
def load_on(registry: ServiceRegistry, service: str) -> Iterator[Load]:
    """Calls `service` fifty times a second while the block runs."""
    with SyncServiceDiscoveryClient(registry) as client:
        load = Load(client, service)
        thread = threading.Thread(target=load.run)
        thread.start()
        try:
            yield load
        finally:
            load._stopping.set()
            thread.join()
            load.stop()
