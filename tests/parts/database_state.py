"""The rows of the inventory as a value: a backup to restore, a clone, or an empty database."""

from __future__ import annotations

from django.apps import apps
from django.db import connection, transaction
from django.db.models import Model


class DatabaseState:
    """All rows of the inventory's tables at one time."""

    def __init__(self) -> None:
        self._rows = {model: list(model._default_manager.order_by().values()) for model in _models()}

    @transaction.atomic
    def restore(self) -> None:
        """Replaces all rows by these."""
        for model in reversed(_models()):
            with connection.cursor() as cursor:
                cursor.execute(f"DELETE FROM {model._meta.db_table}")
        for model, rows in self._rows.items():
            if rows:
                model._default_manager.bulk_create([_instance(model, row) for row in rows])


def _instance(model: type[Model], row: dict[str, object]) -> Model:
    return model(**row)


def _models() -> list[type[Model]]:
    """The inventory's models, those that others refer to first."""
    models = list(apps.get_app_config("inventory").get_models())
    ordered: list[type[Model]] = []

    def add(model: type[Model]) -> None:
        if model in ordered or model not in models:
            return
        for field in model._meta.get_fields():
            if field.concrete and field.is_relation and field.related_model is not model:
                add(field.related_model)
        ordered.append(model)

    for model in models:
        add(model)
    return ordered
