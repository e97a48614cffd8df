"""Updating many rows, each with values of its own, as quickly as the database can."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from django.db import connection
from django.db.models import JSONField, Model

BATCH = 1000


def update_rows(model: type[Model], rows: Iterable[Sequence[Any]], fields: Sequence[str]) -> None:
    """Sets `fields` of each row: `rows` holds the primary key and then a value for each field.

    PostgreSQL takes all values of a column as one array; elsewhere it is Django's own `bulk_update`.
    """
    todo = list(rows)
    for start in range(0, len(todo), BATCH):
        batch = todo[start : start + BATCH]
        if connection.vendor == "postgresql":
            _update_by_arrays(model, batch, fields)
        else:
            objects = [model(pk=key, **dict(zip(fields, values, strict=True))) for key, *values in batch]
            model._base_manager.bulk_update(objects, fields, batch_size=BATCH)  # noqa: SLF001 - documented


def _update_by_arrays(model: type[Model], batch: Sequence[Sequence[Any]], fields: Sequence[str]) -> None:
    meta, quote = model._meta, connection.ops.quote_name  # noqa: SLF001 - Django's documented API, by this name
    columns = [meta.get_field(name) for name in (meta.pk.name, *fields)]
    arrays = [
        [json.dumps(value) for value in values] if isinstance(column, JSONField) else list(values)
        for column, values in zip(columns, zip(*batch, strict=True), strict=True)
    ]
    types = [
        str(column.rel_db_type(connection) if column.primary_key else column.db_type(connection)) for column in columns
    ]
    names = [quote(str(column.column)) for column in columns]
    table, key = quote(meta.db_table), names[0]
    sets = ", ".join(f"{name} = fresh.{name}" for name in names[1:])
    values = ", ".join(f"%s::{kind}[]" for kind in types)
    statement = (  # made of the names of our own models
        f"UPDATE {table} SET {sets} FROM unnest({values}) AS fresh({', '.join(names)}) "  # noqa: S608
        f"WHERE {table}.{key} = fresh.{key}"
    )
    with connection.cursor() as cursor:
        cursor.execute(statement, arrays)
