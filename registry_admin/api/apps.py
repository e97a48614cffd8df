"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig


class ApiConfig(AppConfig):
    """The HTTP API for pipelines and scripts, and its tokens."""

    name = "registry_admin.api"
    label = "api"
    verbose_name = "API"
