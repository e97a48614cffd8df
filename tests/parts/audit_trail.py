"""The triggers that keep the audit trail, off for tests that restore and empty the database."""

from __future__ import annotations

from importlib import import_module

from django.apps import apps
from django.db import connection

_added = import_module("registry_admin.inventory.migrations.0016_audit_trail")
_completed = import_module("registry_admin.inventory.migrations.0018_kept_runs")


def keep_trail() -> None:
    """Creates the triggers, as the migration does."""
    with connection.schema_editor() as editor:
        _added.keep_trail(apps, editor)
        _completed.keep_runs(apps, editor)


def release_trail() -> None:
    """Drops the triggers: to empty the tables between tests is what they refuse."""
    with connection.schema_editor() as editor:
        _completed.release_runs(apps, editor)
        _added.release_trail(apps, editor)
