"""System checks of self-registration, with stable IDs: E001 to E007, one for each key of REGISTRY_AUTOREGISTER."""

from __future__ import annotations

from typing import Any

from django.core.checks import CheckMessage, Error, register

from registry_admin.autoregister.conf import conf


@register()
def check_settings(**_kwargs: Any) -> list[CheckMessage]:
    """Returns an error for each key with an invalid value."""
    return [Error(str(error), id=check_id) for check_id, error in conf.errors()]
