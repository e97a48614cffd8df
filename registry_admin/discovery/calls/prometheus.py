"""Prometheus metrics of calls: `from registry_admin.discovery import PrometheusHooks`. Needs the extra `metrics`."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

from registry_admin.discovery.calls.policy import CallReport
from registry_admin.errors import Attempt

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class PrometheusHooks:
    """`on_attempt` and `on_call` of a client. Make one per process and collector registry.

    Labels are the called service, the method, and the result: a status class such as `2xx`, or an exception's name.
    Instances are no label: each one that comes and goes would stay in the process's memory.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._calls = Counter(
            "registry_calls", "Calls by name, by their result.", ("service", "method", "result"), registry=registry
        )
        self._seconds = Histogram(
            "registry_call_seconds",
            "Duration of whole calls, with all of their attempts.",
            ("service",),
            registry=registry,
            buckets=_SECONDS,
        )
        self._attempts = Counter(
            "registry_call_attempts",
            "Attempts at calls; those beyond the number of calls are retries.",
            ("service", "outcome"),
            registry=registry,
        )

    def on_attempt(self, attempt: Attempt) -> None:
        """Counts an attempt."""
        outcome = _status_class(attempt.status) if attempt.status is not None else attempt.outcome.value
        self._attempts.labels(attempt.service, outcome).inc()

    def on_call(self, report: CallReport) -> None:
        """Counts a call and its duration."""
        result = _status_class(report.status) if report.status is not None else report.error
        self._calls.labels(report.service, report.method, result).inc()
        self._seconds.labels(report.service).observe(report.duration)


def _status_class(status: int) -> str:
    return f"{status // 100}xx"
