"""The settings of self-registration: `settings.REGISTRY_AUTOREGISTER`, typed. The rest comes from the environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from django.conf import settings

from registry_admin.consul import validation
from registry_admin.discovery.identity import IdentityOptions
from registry_admin.errors import ConfigurationError, InvalidValueError

T = TypeVar("T")
KEYS = frozenset({"NAME", "ADDRESS", "PORT", "TAGS", "ID", "META", "HEALTH_CHECK_PATH"})


class Conf:
    """What can be set in `settings.REGISTRY_AUTOREGISTER`. A property raises ConfigurationError that names its key."""

    def _get(self, key: str) -> Any:
        given = getattr(settings, "REGISTRY_AUTOREGISTER", {})
        if not isinstance(given, dict) or not KEYS.issuperset(given):
            raise ConfigurationError(f"REGISTRY_AUTOREGISTER is a dict with any of the keys {', '.join(sorted(KEYS))}")
        return given.get(key)

    def _checked(self, key: str, check: Callable[[object, str], T]) -> T | None:
        value = self._get(key)
        try:
            return None if value is None else check(value, key)
        except InvalidValueError as error:
            raise ConfigurationError(f"REGISTRY_AUTOREGISTER[{key!r}]: {error}") from error

    @property
    def name(self) -> str | None:
        """The service's name, instead of SERVICE_NAME."""
        return self._checked("NAME", validation.service_name)

    @property
    def address(self) -> str | None:
        """Where others reach it, instead of SERVICE_ADDRESS."""
        return self._checked("ADDRESS", validation.address)

    @property
    def port(self) -> int | None:
        """The port others reach it on, instead of SERVICE_PORT."""
        return self._checked("PORT", validation.port)

    @property
    def tags(self) -> tuple[str, ...] | None:
        """Its labels, instead of SERVICE_TAGS."""
        return self._checked("TAGS", validation.tags)

    @property
    def service_id(self) -> str | None:
        """The instance's ID, instead of SERVICE_ID; `name-address-port` where neither is set."""
        return self._checked("ID", validation.service_id)

    @property
    def meta(self) -> dict[str, str] | None:
        """Pairs of text to go with it."""
        return self._checked("META", validation.meta)

    @property
    def health_check_path(self) -> str:
        """What Consul asks for; `/health` by default."""
        return self._checked("HEALTH_CHECK_PATH", validation.http_path) or "/health"

    @property
    def options(self) -> IdentityOptions:
        """All but the name."""
        return {
            "address": self.address,
            "port": self.port,
            "tags": self.tags,
            "service_id": self.service_id,
            "meta": self.meta,
            "health_check_path": self.health_check_path,
        }


conf = Conf()
