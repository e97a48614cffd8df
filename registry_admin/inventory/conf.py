"""Settings of the inventory, `settings.REGISTRY`, and the connections to Consul that they configure."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Callable
from functools import lru_cache

from registry_admin.consul import ConsulConfig, validation
from registry_admin.consul.api import ConsulApi
from registry_admin.consul.check_targets import IPNetwork, TargetRules
from registry_admin.consul.snapshot import SnapshotReader
from registry_admin.errors import InvalidValueError
from registry_admin.setting_declarations import Setting, SettingsGroup

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
YEAR_S = 366 * DAY_S

# Commands that change the database and must not change what is registered in Consul.
_COMMANDS_WITHOUT_SYNC = frozenset({"migrate", "makemigrations", "test", "shell", "dbshell", "loaddata", "flush"})


def _seconds(*, minimum_s: float = 0.1, maximum_s: float = DAY_S) -> Callable[[object, str], float]:
    def parse(value: object, field: str) -> float:
        return validation.seconds(validation.duration(value, field, minimum_s=minimum_s, maximum_s=maximum_s))

    return parse


def _limit(value: object, field: str) -> float:
    return 0.0 if str(value) == "0" else _seconds()(value, field)


def _boolean(value: object, field: str) -> bool:
    text = str(value).lower()
    if text not in {"true", "false", "1", "0"}:
        raise InvalidValueError(field, value, "give 1 or 0")
    return text in {"true", "1"}


def _whole_number(value: object, field: str) -> int:
    if not (text := str(value)).isascii() or not text.isdigit() or len(text) > 6:
        raise InvalidValueError(field, value, "give a whole number, such as 3")
    return int(text)


def _positive_number(value: object, field: str) -> int:
    if (number := _whole_number(value, field)) < 1:
        raise InvalidValueError(field, value, "give a whole number above 0, such as 5")
    return number


def _share(value: object, field: str) -> float:
    number, percent, rest = str(value).partition("%")
    if rest or not percent or not number.isascii() or not number.isdigit() or int(number) > 100:
        raise InvalidValueError(field, value, "give a share from 0% to 100%, such as 20%")
    return int(number) / 100


def _networks(value: object, field: str) -> tuple[IPNetwork, ...]:
    try:
        return tuple(map(ipaddress.ip_network, _listed(value)))
    except ValueError:
        raise InvalidValueError(field, value, "give networks, such as 10.0.0.0/8,fd00::/8, or 'none'") from None


def _ports(value: object, field: str) -> frozenset[int]:
    return frozenset(validation.port(_whole_number(text, field), field) for text in _listed(value))


def _listed(value: object) -> list[str]:
    return [] if value == "none" else [part.strip() for part in str(value).split(",")]


class RegistrySettings(SettingsGroup):
    """Keys of `settings.REGISTRY`; each is also the environment variable REGISTRY_<key>.

    To add one, declare it here and add its row to docs/reference/settings.md; tests/test_settings.py compares the two.
    """

    name = "REGISTRY"
    variable_prefix = "REGISTRY_"

    owner = Setting(
        "OWNER", default="registry-admin", parse=validation.service_name, check_id="registry.E001",
        help_text="the name of this inventory in the marks on what it owns, for people: its UUID decides",
    )  # fmt: skip
    pass_interval_s = Setting(
        "PASS_INTERVAL", default="5m", parse=_seconds(), check_id="registry.E002",
        help_text="time between full runs of the watcher (± 10 %)",
    )  # fmt: skip
    stale_after_s = Setting(
        "STALE_AFTER", default="90s", parse=_seconds(), check_id="registry.E003",
        help_text="age of the last snapshot at which statuses are shown as Unknown",
    )  # fmt: skip
    history_retention_s = Setting(  # an hour at least, because eviction counts the evictions of the last hour
        "HISTORY_KEPT", default="720h", parse=_seconds(minimum_s=HOUR_S, maximum_s=10 * YEAR_S),
        check_id="registry.E007", help_text="age at which runs and changes of health are deleted",
    )  # fmt: skip
    audit_retention_s = Setting(  # PostgreSQL refuses to delete what is younger than 30 days
        "AUDIT_KEPT", default="8760h", parse=_seconds(minimum_s=30 * DAY_S, maximum_s=10 * YEAR_S),
        check_id="registry.E034", help_text="age at which events of the audit trail are deleted, 720h at least",
    )  # fmt: skip
    consul_timeout_s = Setting(
        "CONSUL_TIMEOUT", default="3s", parse=_seconds(), check_id="registry.E004",
        help_text="time limit of one request to Consul",
    )  # fmt: skip
    removal_count = Setting(
        "REMOVAL_COUNT", default="3", parse=_whole_number, check_id="registry.E020",
        help_text="the brake: instances that a service, a node or the inventory may always lose within the window",
    )  # fmt: skip
    removal_share = Setting(
        "REMOVAL_SHARE", default="20%", parse=_share, check_id="registry.E021",
        help_text="the brake: share of a service, a node or the inventory that may be lost within the window",
    )  # fmt: skip
    removal_window_s = Setting(
        "REMOVAL_WINDOW", default="10m", parse=_seconds(), check_id="registry.E022",
        help_text="the brake: time over which removals are counted together",
    )  # fmt: skip
    check_networks = Setting(
        "CHECK_NETWORKS", default="none", parse=_networks, check_id="registry.E040",
        help_text="networks that checks may be pointed at, such as `10.0.0.0/8,fd00::/8`; `none`: all but refused ones",
    )  # fmt: skip
    check_refused_networks = Setting(
        "CHECK_REFUSED_NETWORKS", default="none", parse=_networks, check_id="registry.E041",
        help_text="networks that checks are never pointed at, beside link-local and cloud metadata addresses",
    )  # fmt: skip
    check_refused_ports = Setting(
        "CHECK_REFUSED_PORTS", default="8500", parse=_ports, check_id="registry.E042",
        help_text="ports that checks are never pointed at, beside that of `CONSUL_HTTP_ADDR` on its own machine",
    )  # fmt: skip
    passing_output = Setting(
        "PASSING_OUTPUT", default="0", parse=_boolean, check_id="registry.E043",
        help_text="`1`: keep and show what HTTP checks that pass have got, not only their status",
    )  # fmt: skip
    sync_on_save_setting = Setting(
        "SYNC_ON_SAVE", default="1", parse=_boolean, check_id="registry.E005",
        help_text="sync at once after a save in the admin",
    )  # fmt: skip
    lock_timeout_s = Setting(
        "LOCK_TIMEOUT", default="5s", parse=_limit, check_id="registry.E008",
        help_text="longest wait for a lock in PostgreSQL; `0`: the server's own limit",
    )  # fmt: skip
    statement_timeout_s = Setting(
        "STATEMENT_TIMEOUT", default="30s", parse=_limit, check_id="registry.E009",
        help_text="longest statement in PostgreSQL, but for `migrate` and dumps; `0`: the server's own limit",
    )  # fmt: skip
    idle_timeout_s = Setting(
        "IDLE_TIMEOUT", default="15s", parse=_limit, check_id="registry.E010",
        help_text="longest pause within a transaction; then PostgreSQL ends the session; `0`: the server's own limit",
    )  # fmt: skip

    login_attempts = Setting(
        "LOGIN_ATTEMPTS", default="5", parse=_positive_number, check_id="registry.E030",
        help_text="failed logins with a name at one address until it is locked there; 5 times as many with one name, "
        "or 10 times as many at one address, lock whoever is new to the address",
    )  # fmt: skip
    login_lockout_s = Setting(
        "LOGIN_LOCKOUT", default="15m", parse=_seconds(minimum_s=1.0), check_id="registry.E031",
        help_text="time that a lock of logins lasts",
    )  # fmt: skip
    session_idle_s = Setting(
        "SESSION_IDLE", default="4h", parse=_seconds(minimum_s=60.0, maximum_s=YEAR_S), check_id="registry.E032",
        help_text="time after which a login ends that nobody uses; an open page that keeps itself current is no use",
    )  # fmt: skip
    session_limit_s = Setting(
        "SESSION_LIMIT", default="24h", parse=_seconds(minimum_s=60.0, maximum_s=YEAR_S), check_id="registry.E033",
        help_text="time after which a login ends in any case",
    )  # fmt: skip

    @property
    def target_rules(self) -> TargetRules:
        """Rules for where declared checks may be pointed."""
        return TargetRules(
            networks=self.check_networks,
            refused_networks=self.check_refused_networks,
            refused_ports=self.check_refused_ports,
        )

    @property
    def sync_on_save(self) -> bool:
        """True if a saved declaration is synced at once; never in commands such as `migrate` or `shell`."""
        return self.sync_on_save_setting and not _is_command_without_sync()


conf = RegistrySettings()


def _is_command_without_sync() -> bool:
    return len(sys.argv) > 1 and sys.argv[0].endswith("manage.py") and sys.argv[1] in _COMMANDS_WITHOUT_SYNC


def consul_api() -> ConsulApi:
    """Returns the process's client of the Consul that the environment names. Raises ConfigurationError."""
    return _api_for(ConsulConfig.from_env(read_timeout=conf.consul_timeout_s, target_rules=conf.target_rules))


def snapshot_reader() -> SnapshotReader:
    """Returns the process's reader of that Consul; it caches what it has parsed. Raises ConfigurationError."""
    return _snapshot_reader_for(consul_api())


@lru_cache(maxsize=4)
def _api_for(config: ConsulConfig) -> ConsulApi:
    return ConsulApi(config)


@lru_cache(maxsize=4)
def _snapshot_reader_for(api: ConsulApi) -> SnapshotReader:
    return SnapshotReader(api)
