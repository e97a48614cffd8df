"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig


class MetricsConfig(AppConfig):
    """Metrics for Prometheus at /metrics. Has no models."""

    name = "registry_admin.metrics"
    label = "metrics"
