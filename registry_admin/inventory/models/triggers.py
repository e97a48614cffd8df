"""Triggers that notify PostgreSQL's listeners of each change of a declaration, whichever program makes it.

Their columns follow from the declared fields. After each `migrate` a trigger whose columns differ is created anew.
"""

from __future__ import annotations

from typing import Any

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from registry_admin.inventory.models.declared_fields import registered_columns
from registry_admin.inventory.models.instance import Instance
from registry_admin.inventory.models.service import Service

TRIGGER = "declarations_changed"
FUNCTION = "inventory_declarations_changed"  # created by migration 0003
MODELS = (Service, Instance)


def update_triggers(using: str, **_kwargs: Any) -> None:
    """Creates the triggers whose columns differ from the declared fields. Called after each `migrate`."""
    connection = connections[using]
    if connection.vendor != "postgresql" or not _function_exists(connection):
        return
    for model in MODELS:
        table = model._meta.db_table
        existing = _table_columns(connection, table)
        columns = [column for column in registered_columns(model) if column in existing]
        if columns and set(columns) != trigger_columns(connection, table):
            with transaction.atomic(using=using), connection.cursor() as cursor:
                cursor.execute(f"DROP TRIGGER IF EXISTS {TRIGGER} ON {table}")
                cursor.execute(
                    f"CREATE TRIGGER {TRIGGER} AFTER INSERT OR DELETE OR TRUNCATE OR UPDATE OF {', '.join(columns)} "
                    f"ON {table} FOR EACH STATEMENT EXECUTE FUNCTION {FUNCTION}()"
                )


def trigger_columns(connection: BaseDatabaseWrapper, table: str) -> set[str]:
    """Returns the columns whose update fires the table's trigger; empty where there is no trigger."""
    query = (
        "SELECT a.attname FROM pg_trigger t JOIN pg_attribute a ON a.attrelid = t.tgrelid AND a.attnum = ANY(t.tgattr) "
        "WHERE t.tgname = %s AND t.tgrelid = to_regclass(%s)"
    )
    with connection.cursor() as cursor:
        cursor.execute(query, [TRIGGER, table])
        return {name for (name,) in cursor.fetchall()}


def _table_columns(connection: BaseDatabaseWrapper, table: str) -> set[str]:
    query = "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped"
    with connection.cursor() as cursor:
        cursor.execute(query, [table])
        return {name for (name,) in cursor.fetchall()}


def _function_exists(connection: BaseDatabaseWrapper) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regproc(%s) IS NOT NULL", [FUNCTION])
        (exists,) = cursor.fetchone()
    return bool(exists)
