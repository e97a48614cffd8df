"""Readiness of the database: it can be written, and its schema is that of this code."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from registry_admin.inventory.models import Lease

_migrated = threading.Event()  # set for good: migrations don't go away while the code stays


def readiness_problem() -> str:
    """Returns why the database can't serve this process, or nothing. Raises the database's errors."""
    if problem := _write_problem():
        return problem
    if not _migrated.is_set():
        executor = MigrationExecutor(connection)
        plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
        if plan:
            names = ", ".join(f"{migration.app_label}.{migration.name}" for migration, _ in plan[:3])
            return (
                f"{len(plan)} migrations are missing ({names}{', …' if len(plan) > 3 else ''}): run manage.py migrate"
            )
        _migrated.set()
    return ""


def _write_problem() -> str:
    table = Lease._meta.db_table
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "SELECT current_setting('transaction_read_only'), pg_is_in_recovery(), to_regclass(%s) IS NULL"
                " OR has_table_privilege(to_regclass(%s), 'UPDATE')",
                [table, table],
            )
            read_only, is_standby, may_write = cursor.fetchone()
            if is_standby:
                return "read-only: it is a standby"
            if read_only == "on":
                return "read-only: default_transaction_read_only is on"
            return "" if may_write else "read-only: this role may not write"
        cursor.execute("PRAGMA query_only")
        if cursor.fetchone()[0]:
            return "read-only"
    path = Path(str(connection.settings_dict["NAME"]))
    if path.is_file() and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        return "read-only: its file or folder may not be written"
    return ""
