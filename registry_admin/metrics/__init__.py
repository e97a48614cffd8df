"""Metrics of the registry for Prometheus."""
