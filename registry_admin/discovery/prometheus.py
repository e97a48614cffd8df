"""Calls as Prometheus counts them. Needs the extra `metrics`; nothing else imports this module."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

from registry_admin.discovery.policy import Attempt, CallReport

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class PrometheusHooks:
    """`on_attempt` and `on_call` for a client; made once per process and collector registry.

    Labels are the called service, the method, and what came of it: a status class such as `2xx`, or an exception's
    name. Instances are no label: they come and go, and each would stay in the process's memory for ever.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._calls = Counter(
            "registry_calls", "Calls by name, by what came of them.", ("service", "method", "result"), registry=registry
        )
        self._seconds = Histogram(
            "registry_call_seconds",
            "Time that whole calls took, with all of their attempts.",
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
        """Called for each attempt."""
        outcome = _class(attempt.status) if attempt.status is not None else attempt.outcome.value
        self._attempts.labels(attempt.service, outcome).inc()

    def on_call(self, report: CallReport) -> None:
        """Called for each call."""
        result = _class(report.status) if report.status is not None else report.error
        self._calls.labels(report.service, report.method, result).inc()
        self._seconds.labels(report.service).observe(report.duration)


def _class(status: int) -> str:
    return f"{status // 100}xx"
