"""Each change of a declaration, before and after, whichever way it was made; django-simple-history writes it down."""

from __future__ import annotations

from typing import Any

from django.db import models
from simple_history.models import HistoricalRecords

from registry_admin.inventory import acting


def declared_history(excluded_fields: list[str]) -> HistoricalRecords:
    """A history of the fields that people declare, with who (`history_user_id`) and how (`history_change_reason`)."""
    return HistoricalRecords(
        excluded_fields=excluded_fields,
        get_user=lambda **_: acting.current(),
        history_user_id_field=models.CharField(max_length=150, blank=True),
        history_user_getter=lambda row: row.history_user_id,
        history_user_setter=_note_actor,
    )


def _note_actor(row: Any, actor: acting.Actor | None) -> None:
    who = actor or acting.current()
    row.history_user_id = who.name[:150]
    row.history_change_reason = row.history_change_reason or who.via[:100]
