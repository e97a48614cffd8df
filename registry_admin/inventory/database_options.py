"""Options of the database's connections: limits that the server keeps, so that no session can freeze the others."""

from __future__ import annotations

import math
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from registry_admin.errors import InvalidValueError
from registry_admin.inventory.conf import RegistrySettings

_LONG_COMMANDS = frozenset({"migrate", "dbshell", "loaddata", "dumpdata", "flush", "test"})
SQLITE_TIMEOUT_S = 20.0  # one writer at a time, and an import is one transaction


def postgresql_options(values: Mapping[str, str], *, given: str = "", argv: list[str] | None = None) -> dict[str, str]:
    """Returns the parameters of a connection that set the server's time-outs and name the process.

    `values` are those of `settings.REGISTRY`; `given` are the caller's own `options`, which win. Commands that change
    the schema or dump everything have no limit but that on waiting for locks: their statements are long.
    https://www.postgresql.org/docs/current/runtime-config-client.html
    """
    argv = sys.argv if argv is None else argv
    command = argv[1] if len(argv) > 1 and Path(argv[0]).name == "manage.py" else Path(argv[0] if argv else "").name
    limits = {
        "lock_timeout": _seconds(values, RegistrySettings.lock_timeout_s),
        "statement_timeout": _seconds(values, RegistrySettings.statement_timeout_s),
        "idle_in_transaction_session_timeout": _seconds(values, RegistrySettings.idle_timeout_s),
    }
    if command in _LONG_COMMANDS:
        limits = {"lock_timeout": limits["lock_timeout"]}
    options = [f"-c {name}={math.ceil(seconds * 1000)}" for name, seconds in limits.items() if seconds]
    options += [given] if given else []
    name = f"registry-admin {command} on {socket.gethostname()}"[:63]
    return {"fallback_application_name": name} | ({"options": " ".join(options)} if options else {})


def _seconds(values: Mapping[str, str], setting: Any) -> float:
    try:
        return float(setting.parse(values.get(setting.key, setting.default), setting.key))
    except InvalidValueError as error:
        raise ImproperlyConfigured(f"{RegistrySettings.label(setting)}: {error}") from error
