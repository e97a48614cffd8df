"""Updating many rows, each with values of its own, as quickly as the database can."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from django.db import connection
from django.db.models import Field, JSONField, Model

BATCH = 1000


def update_rows(model: type[Model], rows: Iterable[Sequence[Any]], fields: Sequence[str]) -> None:
    """Sets `fields` of each row: `rows` holds the primary key and then a value for each field.

    A row that isn't there any more is passed over, and what a model does on saving isn't done.
    """
    meta = model._meta  # noqa: SLF001 - Django's documented API, by this name
    by_name = {field.name: field for field in meta.concrete_fields}
    columns = [meta.pk, *(by_name[name] for name in fields)]
    update = _by_arrays if connection.vendor == "postgresql" else _one_by_one
    todo = list(rows)
    for start in range(0, len(todo), BATCH):
        update(connection.ops.quote_name(meta.db_table), columns, todo[start : start + BATCH])


def _by_arrays(table: str, columns: Sequence[Field[Any, Any]], rows: Sequence[Sequence[Any]]) -> None:
    """In one statement, with all values of a column as one array."""
    arrays = [
        [json.dumps(value) for value in values] if isinstance(column, JSONField) else list(values)
        for column, values in zip(columns, zip(*rows, strict=True), strict=True)
    ]
    key, *others = names = _names(columns)
    sets = ", ".join(f"{name} = fresh.{name}" for name in others)
    values = ", ".join(f"%s::{_type(column)}[]" for column in columns)
    statement = (  # made of the names of our own models
        f"UPDATE {table} SET {sets} FROM unnest({values}) AS fresh({', '.join(names)}) "  # noqa: S608
        f"WHERE {table}.{key} = fresh.{key}"
    )
    with connection.cursor() as cursor:
        cursor.execute(statement, arrays)


def _one_by_one(table: str, columns: Sequence[Field[Any, Any]], rows: Sequence[Sequence[Any]]) -> None:
    """With one statement that is prepared once: the database is in this process."""
    key, *others = _names(columns)
    statement = f"UPDATE {table} SET {', '.join(f'{name} = %s' for name in others)} WHERE {key} = %s"  # noqa: S608
    fields = columns[1:]
    values = [
        (*(field.get_db_prep_save(value, connection) for field, value in zip(fields, row[1:], strict=True)), row[0])
        for row in rows
    ]
    with connection.cursor() as cursor:
        cursor.executemany(statement, values)


def _names(columns: Sequence[Field[Any, Any]]) -> list[str]:
    return [connection.ops.quote_name(str(column.column)) for column in columns]


def _type(column: Field[Any, Any]) -> str:
    """The column's type; a key's without that it counts up by itself."""
    return str(column.rel_db_type(connection) if column.primary_key else column.db_type(connection))
