"""Settings of self-registration: `settings.REGISTRY_AUTOREGISTER`."""

from __future__ import annotations

import os

from registry_admin.consul import validation
from registry_admin.discovery.registration.identity import IdentityOptions, health_check_path
from registry_admin.setting_declarations import Setting, SettingsGroup

HEALTH_CHECK_PATH = health_check_path(os.environ)


def _http_path(value: object, field: str) -> str:
    return HEALTH_CHECK_PATH if value is None else validation.http_path(value, field)


class AutoregisterSettings(SettingsGroup):
    """Keys of `settings.REGISTRY_AUTOREGISTER`. A key that is missing or None leaves the value to the environment."""

    name = "REGISTRY_AUTOREGISTER"
    refuses_unknown_keys = True

    service_name = Setting[str | None](
        "NAME", default=None, parse=validation.service_name, check_id="autoregister.E001",
        help_text="name of the service, instead of SERVICE_NAME",
    )  # fmt: skip
    address = Setting[str | None](
        "ADDRESS", default=None, parse=validation.address, check_id="autoregister.E002",
        help_text="address under which others reach the service, instead of SERVICE_ADDRESS",
    )  # fmt: skip
    port = Setting[int | None](
        "PORT", default=None, parse=validation.port, check_id="autoregister.E003",
        help_text="port on which others reach the service, instead of SERVICE_PORT",
    )  # fmt: skip
    tags = Setting[tuple[str, ...] | None](
        "TAGS", default=None, parse=validation.tags, check_id="autoregister.E004",
        help_text="tags of the instance, instead of SERVICE_TAGS",
    )  # fmt: skip
    service_id = Setting[str | None](
        "ID", default=None, parse=validation.service_id, check_id="autoregister.E005",
        help_text="ID of the instance, instead of SERVICE_ID; `name-address-port` if neither is set",
    )  # fmt: skip
    meta = Setting[dict[str, str] | None](
        "META", default=None, parse=validation.meta, check_id="autoregister.E006",
        help_text="Consul Meta of the instance: text to text",
    )  # fmt: skip
    health_check_path = Setting[str](
        "HEALTH_CHECK_PATH", default=HEALTH_CHECK_PATH, parse=_http_path, check_id="autoregister.E007",
        help_text="path that Consul's check requests, instead of SERVICE_HEALTH_CHECK_PATH",
    )  # fmt: skip

    @property
    def identity_options(self) -> IdentityOptions:
        """Options of the registration, beside the service's name."""
        return {
            "address": self.address,
            "port": self.port,
            "tags": self.tags,
            "service_id": self.service_id,
            "meta": self.meta,
            "health_check_path": self.health_check_path,
        }


conf = AutoregisterSettings()
