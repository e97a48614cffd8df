"""The audit of declarations: each change with its author and its way, recorded by django-simple-history."""

from __future__ import annotations

from typing import Any

from django.db import models
from simple_history.models import HistoricalRecords

from registry_admin.inventory.actor import Actor, current_actor
from registry_admin.inventory.models.declared_fields import audited_fields


class DeclarationHistory(HistoricalRecords):  # type: ignore[misc]  # the library has no types
    """Records the declared fields of a model, with the author (`history_user_id`) and way (`history_change_reason`)."""

    def __init__(self) -> None:
        super().__init__(
            get_user=lambda **_: current_actor(),
            history_user_id_field=models.CharField(max_length=150, blank=True),
            history_user_getter=lambda row: row.history_user_id,
            history_user_setter=_set_actor,
        )

    def create_history_model(self, model: type[models.Model], inherited: bool) -> Any:  # noqa: FBT001
        """Creates the model of the history, without what syncing writes."""
        audited = audited_fields(model)
        self.excluded_fields = [field.name for field in model._meta.fields if field.name not in audited]
        return super().create_history_model(model, inherited)


def _set_actor(row: Any, actor: Actor | None) -> None:
    author = actor or current_actor()
    row.history_user_id = author.name[:150]
    row.history_change_reason = row.history_change_reason or author.via[:100]
