"""The fields that people declare, derived from the models: every editable field of a service and of an instance.

Snapshot rows, audit, import, export, the admin's forms and the database's triggers all follow from this list.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from django.db import models

CHECK = "check"  # the mapping that documents nest a health check's fields in


class Declaration(models.Model):
    """A model whose editable fields are what people declare.

    `DOCUMENT_KEYS`: the keys of fields in a document, where a key is neither the field's name nor `check.…` for
    `check_…`. `NOT_REGISTERED`: the fields that describe a service to people and are not registered in Consul.
    `SECRETS`: pairs of texts whose values nobody is shown.
    """

    DOCUMENT_KEYS: dict[str, str] = {}
    SECRETS: frozenset[str] = frozenset()
    NOT_REGISTERED: frozenset[str] = frozenset()

    class Meta:
        abstract = True


@dataclass(frozen=True, kw_only=True)
class DeclaredField:
    """A declared field: its name on the model, its key in a document (`check.path` is nested) and its Python type.

    `is_optional`: it may be None. `is_secret`: nobody is shown its values.
    """

    name: str
    key: str
    type: type
    is_registered: bool
    is_optional: bool = False
    is_secret: bool = False

    @property
    def is_of_check(self) -> bool:
        """True if a document has the field within the mapping of the health check."""
        return self.key.startswith(f"{CHECK}.")

    @property
    def leaf(self) -> str:
        """The last part of the key."""
        return self.key.rpartition(".")[2]

    @property
    def is_json(self) -> bool:
        """True if the field is a JSON column: a list of texts, or pairs of texts."""
        return self.type in (list, dict)


@cache
def declared_fields(model: type[Declaration]) -> tuple[DeclaredField, ...]:
    """Returns the declared fields of a model, in the order of their definition."""
    return tuple(
        DeclaredField(
            name=field.name,
            key=model.DOCUMENT_KEYS.get(field.name, _default_key(field.name)),
            type=_python_type(field),
            is_registered=field.name not in model.NOT_REGISTERED,
            is_optional=field.null,
            is_secret=field.name in model.SECRETS,
        )
        for field in model._meta.concrete_fields
        if is_declared(field)
    )


def is_declared(field: Any) -> bool:
    """Returns whether people declare this model field; keys and what syncing writes are not declared."""
    return bool(field.editable and not field.primary_key and not field.is_relation)


def audited_fields(model: type[models.Model]) -> set[str]:
    """Returns the names of the fields whose changes are audited: the declared ones, the keys, and the creation time."""
    return {
        field.name
        for field in model._meta.concrete_fields
        if is_declared(field) or field.primary_key or field.is_relation or getattr(field, "auto_now_add", False)
    }


def registered_columns(model: type[Declaration]) -> tuple[str, ...]:
    """Returns the database columns that a registration in Consul is made of, the service of an instance included."""
    names = {field.name for field in declared_fields(model) if field.is_registered}
    fields = (field for field in model._meta.concrete_fields if field.name in names or field.is_relation)
    return tuple(str(field.column) for field in fields)


def _default_key(name: str) -> str:
    prefix = f"{CHECK}_"
    return f"{CHECK}.{name.removeprefix(prefix)}" if name.startswith(prefix) else name


def _python_type(field: models.Field[Any, Any]) -> type:
    if isinstance(field, models.BooleanField):
        return bool
    if isinstance(field, models.IntegerField):
        return int
    if isinstance(field, models.JSONField):
        return type(field.get_default())
    return str
