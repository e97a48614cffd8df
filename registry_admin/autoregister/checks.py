"""System checks, with stable IDs: a wrong setting is named before anything runs."""

from __future__ import annotations

from typing import Any

from django.core.checks import CheckMessage, Error, register

from registry_admin.autoregister.conf import conf
from registry_admin.errors import ConfigurationError

_SETTINGS = {
    "autoregister.E001": "name",
    "autoregister.E002": "address",
    "autoregister.E003": "port",
    "autoregister.E004": "tags",
    "autoregister.E005": "service_id",
    "autoregister.E006": "meta",
    "autoregister.E007": "health_check_path",
}


@register()
def check_settings(**_kwargs: Any) -> list[CheckMessage]:
    """E001 to E007: a value in REGISTRY_AUTOREGISTER."""
    problems: list[CheckMessage] = []
    for code, name in _SETTINGS.items():
        try:
            getattr(conf, name)
        except ConfigurationError as error:
            problems.append(Error(str(error), id=code))
    return problems
