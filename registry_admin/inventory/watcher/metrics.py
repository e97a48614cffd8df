"""Metrics of a watcher's own process for Prometheus, at an address of its own: the pages' processes don't know them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from registry_admin.errors import ConfigurationError
from registry_admin.inventory.watcher.controller import Controller


class WatcherCollector(Collector):
    """Reads the controller at each scrape. Asks neither Consul nor the database."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def collect(self) -> Iterator[Metric]:
        """Yields the metrics."""
        yield GaugeMetricFamily(
            "registry_watcher_leading", "1 while this watcher leads.", value=self._controller.is_leading
        )
        yield GaugeMetricFamily(
            "registry_watcher_last_run_timestamp_seconds",
            "When this watcher's last run ended that read all of Consul; 0: none yet, or it stands by.",
            value=self._controller.last_run_at,
        )


@contextmanager
def metrics_server(address: str, controller: Controller) -> Iterator[None]:
    """Serves the metrics at `host:port` for as long as the block lasts. Raises ConfigurationError."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(WatcherCollector(controller))
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigurationError(f"--metrics-bind: give HOST:PORT, such as 127.0.0.1:9464, not {address!r}")
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), registry=registry)
    except OSError as error:
        raise ConfigurationError(f"--metrics-bind: {address} can't be used: {error.strerror or error}") from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
