"""Updating many rows, each with values of its own, as quickly as the database can."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from django.db import connection
from django.db.models import CharField, Field, JSONField, Model, Value
from django.db.models.functions import Cast, Concat

from registry_admin.inventory.models import Instance

BATCH = 1000


def free_unique_values(instance_keys: Iterable[int]) -> None:
    """Gives these instances temporary IDs and addresses, which no valid one equals, until they are saved.

    Both databases check unique values row by row, so instances that swap IDs or addresses couldn't be saved otherwise.
    Call it within the transaction that saves them.
    """
    keys = list(instance_keys)
    for start in range(0, len(keys), BATCH):
        temporary = Concat(Value("~"), Cast("pk", CharField(max_length=20)))
        Instance.objects.filter(pk__in=keys[start : start + BATCH]).update(consul_id=temporary, address=temporary)


def update_rows(model: type[Model], rows: Iterable[Sequence[Any]], fields: Sequence[str]) -> None:
    """Sets `fields` of each row: `rows` holds the primary key and then a value for each field.

    Missing rows are ignored, and the models' `save` and signals don't run.
    """
    meta = model._meta
    by_name = {field.name: field for field in meta.concrete_fields}
    columns = [meta.pk, *(by_name[name] for name in fields)]
    update = _by_arrays if connection.vendor == "postgresql" else _by_prepared_statement
    todo = list(rows)
    for start in range(0, len(todo), BATCH):
        update(connection.ops.quote_name(meta.db_table), columns, todo[start : start + BATCH])


def _by_arrays(table: str, columns: Sequence[Field[Any, Any]], rows: Sequence[Sequence[Any]]) -> None:
    """Updates the rows in one statement, with all values of a column as one array, or as one document of JSON.

    An array of JSON texts would be quoted element by element, which takes longer than all the rest.
    """
    arrays = [
        json.dumps(values) if isinstance(column, JSONField) else list(values)
        for column, values in zip(columns, zip(*rows, strict=True), strict=True)
    ]
    key, *value_columns = names = _names(columns)
    sets = ", ".join(f"{name} = fresh.{name}" for name in value_columns)
    values = ", ".join(map(_rows_of, columns))
    statement = (  # made of the names of our own models
        f"UPDATE {table} SET {sets} FROM ROWS FROM ({values}) AS fresh({', '.join(names)}) "  # noqa: S608
        f"WHERE {table}.{key} = fresh.{key}"
    )
    with connection.cursor() as cursor:
        cursor.execute(statement, arrays)


def _by_prepared_statement(table: str, columns: Sequence[Field[Any, Any]], rows: Sequence[Sequence[Any]]) -> None:
    """Updates each row with a statement that is prepared once: the database is in this process."""
    key, *value_columns = _names(columns)
    statement = f"UPDATE {table} SET {', '.join(f'{name} = %s' for name in value_columns)} WHERE {key} = %s"  # noqa: S608
    fields = columns[1:]
    values = [
        (*(field.get_db_prep_save(value, connection) for field, value in zip(fields, row[1:], strict=True)), row[0])
        for row in rows
    ]
    with connection.cursor() as cursor:
        cursor.executemany(statement, values)


def _names(columns: Sequence[Field[Any, Any]]) -> list[str]:
    return [connection.ops.quote_name(str(column.column)) for column in columns]


def _rows_of(column: Field[Any, Any]) -> str:
    """Returns the SQL function that makes a row of each of the column's values."""
    return "jsonb_array_elements(%s::jsonb)" if isinstance(column, JSONField) else f"unnest(%s::{_type(column)}[])"


def _type(column: Field[Any, Any]) -> str:
    """Returns the column's type; for a key the plain type, without the sequence."""
    return str(column.rel_db_type(connection) if column.primary_key else column.db_type(connection))
