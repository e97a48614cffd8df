"""Counts runs, what they changed, and halts of eviction, for monitoring systems."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from django.db import connection

from registry_admin.inventory.models import EventCounter


class CounterName(StrEnum):
    """Names of the totals."""

    RUNS = "runs"
    RUN_SECONDS = "run_seconds"
    CHANGES = "changes"
    FAILED_CHANGES = "failed_changes"
    HALTS = "halts"


UNCHANGED = "unchanged"  # the outcome of a run that had nothing to do, and so leaves no row in the history


def add_to_counters(amounts: Mapping[tuple[CounterName, str], float]) -> None:
    """Adds the amounts, by name and label, in one statement, so that simultaneous processes lose nothing."""
    rows = [(str(name), label, float(amount)) for (name, label), amount in sorted(amounts.items()) if amount]
    if not rows:
        return
    table = connection.ops.quote_name(EventCounter._meta.db_table)
    statement = (  # made of the names of our own model
        f"INSERT INTO {table} (name, label, total) VALUES {', '.join(['(%s, %s, %s)'] * len(rows))} "  # noqa: S608
        f"ON CONFLICT (name, label) DO UPDATE SET total = {table}.total + excluded.total"
    )
    with connection.cursor() as cursor:
        cursor.execute(statement, [value for row in rows for value in row])
