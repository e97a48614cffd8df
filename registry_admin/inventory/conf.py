"""The settings of the inventory: `settings.REGISTRY`, typed, with defaults, read anew on each access."""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any

from django.conf import settings

from registry_admin.consul import ConsulConfig, validation
from registry_admin.consul.api import ConsulApi
from registry_admin.consul.observe import Observer
from registry_admin.errors import ConfigurationError, InvalidValueError

DAY_S = 24 * 3600.0

# Commands that work on the database without meaning to change what runs.
_QUIET_COMMANDS = frozenset({"migrate", "makemigrations", "test", "shell", "dbshell", "loaddata", "flush"})


class Conf:
    """What can be set in `settings.REGISTRY`. A property raises ConfigurationError that names its key."""

    def _get(self, key: str, default: Any) -> Any:
        return getattr(settings, "REGISTRY", {}).get(key, default)

    def _seconds(self, key: str, default: str, *, minimum_s: float = 0.1, maximum_s: float = DAY_S) -> float:
        try:
            length = validation.duration(self._get(key, default), key, minimum_s=minimum_s, maximum_s=maximum_s)
            return validation.seconds(length)
        except InvalidValueError as error:
            raise ConfigurationError(f"REGISTRY[{key!r}] (or REGISTRY_{key}): {error}") from error

    @property
    def owner(self) -> str:
        """The mark of what this inventory owns. Two inventories on one Consul need two marks."""
        try:
            return validation.service_name(self._get("OWNER", "registry-admin"), "OWNER")
        except InvalidValueError as error:
            raise ConfigurationError(f"REGISTRY['OWNER'] (or REGISTRY_OWNER): {error}") from error

    @property
    def pass_interval_s(self) -> float:
        """How often the watcher makes a full pass even if nothing seems to have changed, in seconds."""
        return self._seconds("PASS_INTERVAL", "5m")

    @property
    def stale_after_s(self) -> float:
        """After how many seconds without a look at Consul what we know is shown as Unknown."""
        return self._seconds("STALE_AFTER", "90s")

    @property
    def history_kept_s(self) -> float:
        """How long runs and changes of health are kept, in seconds; an hour at least, which eviction looks back on."""
        return self._seconds("HISTORY_KEPT", "720h", minimum_s=3600, maximum_s=10 * 366 * DAY_S)

    @property
    def consul_timeout_s(self) -> float:
        """How long a single request to Consul may take, in seconds: a person may be waiting for it in the admin."""
        return self._seconds("CONSUL_TIMEOUT", "3s")

    @property
    def sync_on_save(self) -> bool:
        """Whether a declaration is synced as soon as it is saved. Never by commands such as `migrate` or `shell`."""
        value = self._get("SYNC_ON_SAVE", "1")
        if str(value).lower() not in {"true", "false", "1", "0"}:
            raise ConfigurationError(f"REGISTRY['SYNC_ON_SAVE'] (or REGISTRY_SYNC_ON_SAVE): give 1 or 0, not {value!r}")
        return str(value).lower() in {"true", "1"} and not _is_quiet_command()


conf = Conf()


def _is_quiet_command() -> bool:
    return len(sys.argv) > 1 and sys.argv[0].endswith("manage.py") and sys.argv[1] in _QUIET_COMMANDS


def consul_api() -> ConsulApi:
    """The Consul that the environment names; one for the process, so that its connections are shared.

    Raises ConfigurationError.
    """
    return _api_for(ConsulConfig.from_env(read_timeout=conf.consul_timeout_s))


def consul_observer() -> Observer:
    """What looks at that Consul; one for the process, because it remembers what it has parsed. As for `consul_api`."""
    return _observer_of(consul_api())


@lru_cache(maxsize=4)
def _api_for(config: ConsulConfig) -> ConsulApi:
    return ConsulApi(config)


@lru_cache(maxsize=4)
def _observer_of(api: ConsulApi) -> Observer:
    return Observer(api)
